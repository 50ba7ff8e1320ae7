"""Documents that real Nitro hardware made, where their folder is; the clock stands still."""

from base64 import b64decode
from datetime import UTC, datetime

import pytest

from qflare.faults import PeerFault
from qflare.messages import Evidence
from qflare.verifiers import nitro
from qflare.verifiers.facts import Facts, Tier
from tests.unit.test_real_evidence import FOLDER as ALL

FOLDER = ALL / "evervault-nitro"
pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(),
    reason=f"no public evidence in {FOLDER}; QFLARE_EVIDENCE_VECTORS names the folder above",
)
GOOD, DEBUG, LATER = (
    "valid-attestation-doc-bytes", "debug-mode-attestation-doc-bytes",
    "valid-attestation-doc-base64",
)  # fmt: skip
THEN = {
    GOOD: datetime(2022, 10, 13, 9, tzinfo=UTC),
    DEBUG: datetime(2022, 10, 12, 14, tzinfo=UTC),
    LATER: datetime(2023, 9, 18, 15, tzinfo=UTC),
}


def document(name: str) -> bytes:
    data = (FOLDER / name).read_bytes()
    return b64decode(data) if name == LATER else data


def verify(name: str, body: bytes | None = None, hours: int = 0) -> Facts:
    now = int(THEN[name].timestamp()) + hours * 3600
    return nitro.verify(Evidence("nitro", body or document(name)), (), now)


def test_a_document_of_a_production_enclave() -> None:
    facts = verify(GOOD)
    assert (facts.tier, facts.debug) == (Tier.HARDWARE, False)
    assert dict(facts.registers)["pcr0"].hex().startswith("f4d48b81a460c991")
    assert facts.report_data == b""  # it only had a nonce
    assert facts.expires == int(datetime(2022, 10, 13, 11, 58, 2, tzinfo=UTC).timestamp())


@pytest.mark.parametrize("name", [DEBUG, LATER])
def test_a_document_of_a_debug_enclave(name: str) -> None:
    facts = verify(name)
    assert (facts.tier, facts.debug) == (Tier.HARDWARE, True)


def test_user_data() -> None:
    assert verify(DEBUG).report_data == b"hello, world!"


@pytest.mark.parametrize("name", [GOOD, DEBUG, LATER])
def test_three_hours_and_no_more(name: str) -> None:
    for hours in (-2, 3, 24 * 365):
        with pytest.raises(PeerFault, match="not of this time"):
            verify(name, hours=hours)


def test_no_byte_can_be_changed() -> None:
    body = document(GOOD)
    for at in range(0, len(body), 11):
        with pytest.raises(PeerFault):
            verify(GOOD, body[:at] + bytes([body[at] ^ 1 << at % 8]) + body[at + 1 :])
