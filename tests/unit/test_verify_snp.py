"""AMD's reports: a genuine one is taken, and everything else is refused for its own reason."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from hypothesis import given, settings
from hypothesis import strategies as st

from qflare.faults import PeerFault
from qflare.messages import Evidence
from qflare.names import Digest
from qflare.verifiers import snp
from qflare.verifiers.facts import Facts, Tier
from tests.platforms.snp import AUTHOR_KEY, CHIP, DAY, ID_KEY, LAUNCH, NOW, TCB, SoftwareSnp

pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")
DATA = bytes(range(64))
PLATFORM = SoftwareSnp()
SHARED = SoftwareSnp(shared=True)
ENTRIES = PLATFORM.entries()


def verify(evidence: Evidence, platform: SoftwareSnp = PLATFORM, now: int = NOW) -> Facts:
    return snp.verify(evidence, (platform.insecure_root,), now)


def bundle(**changes: Any) -> Evidence:
    return PLATFORM.evidence(DATA, **changes)


@pytest.mark.parametrize("version", [2, 3, 5])
@pytest.mark.parametrize("shared", [False, True], ids=["vcek", "vlek"])
@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
def test_what_a_genuine_report_says(product: str, shared: bool, version: int) -> None:
    platform = SoftwareSnp(product, shared=shared)
    facts = verify(platform.evidence(DATA, version=version), platform)
    assert facts.tier is Tier.SIMULATED  # its root is not AMD's
    assert facts.report_data == DATA
    assert dict(facts.registers)["launch"] == LAUNCH
    assert (facts.svn, facts.product, facts.tcb_status) == (4, 7, "Committed")
    assert facts.expires == NOW + 180 * DAY  # the revocation list's
    assert not facts.debug


def test_the_number_0_of_a_chips_certificate_can_still_be_read() -> None:
    """When the library refuses it (it warns of that), this is the first to say so."""
    der = ENTRIES["vcek"]
    with pytest.warns(CryptographyDeprecationWarning, match="serial number"):
        assert x509.load_der_x509_certificate(der).serial_number == 0


def test_who_signed_the_code() -> None:
    def signer(key: bytes) -> Digest:
        return Digest.of(b"qflare/1/sev-snp-signer\0", key)

    assert verify(bundle()).signer == signer(ID_KEY)
    assert verify(bundle(author=True)).signer == signer(AUTHOR_KEY)
    assert verify(bundle(id_key=bytes(48))).signer is None


def test_debugging_and_a_provisional_tcb_are_said() -> None:
    assert verify(bundle(policy=0xB_0000)).debug
    older = TCB | {"ucode": 200}
    assert verify(bundle(committed=older)).tcb_status == "Provisional"


def test_another_launch_is_another_measurement() -> None:
    assert verify(bundle(launch=b"\x56" * 48)).measurement != verify(bundle()).measurement


def _table(**changes: bytes | None) -> Callable[[], Evidence]:
    def make() -> Evidence:
        found = {**ENTRIES, **changes}
        return bundle(entries={name: der for name, der in found.items() if der is not None})

    return make


def _signed_by(platform: SoftwareSnp, **changes: Any) -> Evidence:
    """A report of `platform` with certificates that don't fit it."""
    return Evidence("sev_snp", platform.report(DATA, **changes), snp.pack_table(ENTRIES))


def _of(platform: SoftwareSnp, **changes: Any) -> Evidence:
    """A report and its own certificate, under our authority's other certificates."""
    own = {"vcek": platform.key.public_bytes(Encoding.DER)}
    return platform.evidence(DATA, ENTRIES | own, **changes)


def _self_made(name: str) -> bytes:
    """A certificate with AMD's name on it, by a key of another authority."""
    other = SoftwareSnp(authority="AMD of software")
    other._ark_key = other._ask_key = rsa.generate_private_key(65537, 2048)
    subject = f"SEV-{other.product}"
    return (
        other._issue(subject, f"ARK-{other.product}", other._ask_key, other._ark_key).public_bytes(
            Encoding.DER
        )
        if name == "ask"
        else other.crl(key=other._ark_key)
    )


def _p256() -> bytes:
    made = SoftwareSnp()
    made._key = ec.generate_private_key(ec.SECP256R1())
    asks = "SEV-Milan"
    return made._issue("SEV-VCEK", asks, made._key, made._ask_key, [("4", CHIP)]).public_bytes(
        Encoding.DER
    )


REFUSED: list[tuple[str, Callable[[], Evidence], str]] = [
    ("another root", lambda: SoftwareSnp(authority="others").evidence(DATA), "is not AMD's"),
    ("another authority's ASK", lambda: bundle(entries=ENTRIES | {"ask": _self_made("ask")}),
     "ASK certificate's signature"),
    ("another authority's list", lambda: bundle(entries=ENTRIES | {"crl": _self_made("crl")}),
     "revocation list's signature"),
    ("a list of another issuer",
     lambda: bundle(entries=ENTRIES | {"crl": SoftwareSnp(authority="others").crl()}),
     "another issuer's"),
    ("revoked signing key",
     lambda: bundle(entries=ENTRIES | {"crl": PLATFORM.crl(PLATFORM.ask.serial_number)}),
     "AMD has revoked"),
    ("expired list", lambda: bundle(entries=ENTRIES | {"crl": PLATFORM.crl(ends=NOW - 1)}),
     "not of this time"),
    ("list of the future", lambda: bundle(entries=ENTRIES | {"crl": PLATFORM.crl(starts=NOW + 1)}),
     "not of this time"),
    ("expired key", lambda: _of(SoftwareSnp(ends=NOW - 1)), "not of this time"),
    ("key of the future", lambda: _of(SoftwareSnp(starts=NOW + 1)), "not of this time"),
    ("no VCEK", _table(vcek=None), "no VCEK"),
    ("no ASK", _table(ask=None), "no ASK"),
    ("no ARK", _table(ark=None), "no ARK"),
    ("no revocation list", _table(crl=None), "no CRL"),
    ("no endorsements", lambda: replace(bundle(), endorsements=b""), "certificate table"),
    ("two keys", _table(vlek=SHARED.entries()["vlek"]), "two keys"),
    ("the key of a chip as a cloud's",
     lambda: bundle(
         entries={n.replace("vcek", "vlek"): der for n, der in ENTRIES.items()}, signing_key=1),
     "not SEV-VLEK-Milan"),
    ("no certificate", _table(vcek=b"\x30\x03\x02\x01\x01"), "bad certificates"),
    ("a key of another curve", _table(vcek=_p256()), "P-384"),
    ("another chip's signature", lambda: _signed_by(SoftwareSnp()), "signature doesn't verify"),
    ("another chip's certificate", lambda: _of(SoftwareSnp(chip=b"\x09" * 64), chip=CHIP),
     "another chip's"),
    ("a hidden chip", lambda: bundle(chip=bytes(64)), "another chip's"),
    ("a newer boot loader", lambda: bundle(tcb=TCB | {"bl": 5}), "another TCB"),
    ("a newer TEE", lambda: bundle(tcb=TCB | {"tee": 2}), "another TCB"),
    ("newer SNP firmware", lambda: bundle(tcb=TCB | {"snp": 23}), "another TCB"),
    ("newer microcode", lambda: bundle(tcb=TCB | {"ucode": 210}), "another TCB"),
    ("the other kind of key", lambda: bundle(signing_key=1), "another kind of key"),
    ("no key at all", lambda: bundle(signing_key=7), "another kind of key"),
    ("another signature", lambda: bundle(algorithm=2), "of another kind"),
    ("another processor", lambda: bundle(model=b"\x1a\x02\x01"), "not from a Milan"),
    ("migration agent", lambda: bundle(policy=0x7_0000), "migration agent"),
    ("privilege level", lambda: bundle(level=2), "level 2"),
    ("an unknown version", lambda: bundle(version=1), "version 1"),
    ("cut off", lambda: replace(bundle(), body=bundle().body[:-1]), "1184"),
    ("something after the signature",
     lambda: bundle(reserved=bytes(367) + b"\x01"), "after the report's signature"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "why"), [row[1:] for row in REFUSED], ids=[r[0] for r in REFUSED])
def test_refused(make: Callable[[], Evidence], why: str) -> None:
    assert verify(bundle())
    with pytest.raises(PeerFault, match=why):
        verify(make())


def test_turin_has_its_tcb_in_another_order() -> None:
    """Read as Milan's, its FMC would pass as the boot loader, and its SNP firmware as nothing."""
    turin = SoftwareSnp("Turin")
    assert verify(turin.evidence(DATA), turin)
    for part in ("fmc", "bl", "tee", "snp", "ucode"):
        with pytest.raises(PeerFault, match="another TCB"):
            verify(turin.evidence(DATA, tcb=TCB | {part: TCB[part] + 1}), turin)


def test_patch_levels_above_127_are_spelt_with_a_zero() -> None:
    high = TCB | {"snp": 128, "ucode": 255}
    platform = SoftwareSnp(certified=high)
    assert verify(platform.evidence(DATA, tcb=high), platform)


def test_a_cloud_certificate_is_needed_for_a_clouds_key() -> None:
    """A chip's certificate under the clouds' authority would skip the look at the chip."""
    chips = SoftwareSnp(shared=True)
    chips.shared = False
    key = chips._issue("SEV-VCEK", "SEV-VLEK-Milan", chips._key, chips._ask_key, [("4", CHIP)])
    table = SHARED.entries() | {"vlek": key.public_bytes(Encoding.DER)}
    table["ask"] = SHARED.entries()["ask"]
    with pytest.raises(PeerFault, match="no cloud's certificate"):
        verify(chips.evidence(DATA, table, signing_key=1), SHARED)


def test_a_root_of_software_counts_only_where_the_owner_allows_it() -> None:
    with pytest.raises(PeerFault, match="not AMD's"):
        snp.verify(bundle(), (), NOW)


def _flips(data: bytes, step: int) -> list[bytes]:
    masks = (1, 2, 4, 8, 16, 32, 64, 128, 255)
    return [
        data[:at] + bytes([data[at] ^ masks[at // step % 9]]) + data[at + 1 :]
        for at in range(0, len(data), step)
    ]


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_no_byte_of_a_bundle_can_be_changed(step: int) -> None:
    evidence, taken = bundle(), []
    for part in ("body", "endorsements"):
        for value in _flips(getattr(evidence, part), step):
            try:
                verify(replace(evidence, **{part: value}))  # type: ignore[arg-type]
            except PeerFault:
                continue
            taken.append((part, value))
    assert not taken


@given(st.binary(max_size=1300), st.binary(max_size=600))
def test_garbage_gives_a_fault_and_nothing_else(body: bytes, rest: bytes) -> None:
    for one in (Evidence("sev_snp", body, rest), replace(WHOLE, body=body.ljust(1184, b"\0")),
                replace(WHOLE, endorsements=rest)):  # fmt: skip
        with pytest.raises(PeerFault):
            verify(one)


WHOLE = bundle()


@settings(max_examples=60)
@given(st.sampled_from(sorted(ENTRIES)), st.data())
def test_broken_certificates_give_a_fault_and_nothing_else(name: str, data: st.DataObject) -> None:
    der = ENTRIES[name]
    at, to = sorted(data.draw(st.integers(0, len(der))) for _ in range(2))
    broken = der[:at] + data.draw(st.binary(max_size=20)) + der[to:]
    if broken != der:
        table = snp.pack_table(ENTRIES | {name: broken})
        with pytest.raises(PeerFault):
            verify(replace(WHOLE, endorsements=table))


def test_a_table_has_one_spelling() -> None:
    table = snp.pack_table(ENTRIES)
    assert snp.parse_table(table) == ENTRIES
    for bad in (table + b"\0", table[:-1], table[24:], b""):
        with pytest.raises(PeerFault):
            snp.parse_table(bad)
