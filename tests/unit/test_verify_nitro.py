"""Nitro's documents: a genuine one is taken, and everything else is refused for its own reason."""

import hashlib
from collections.abc import Callable
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from qflare.faults import PeerFault
from qflare.messages import Evidence
from qflare.verifiers import cbor, nitro
from qflare.verifiers.facts import Facts, Tier
from tests.platforms.nitro import HOUR, NOW, PCRS, Authority, SoftwareNitro

DATA = bytes(range(64))
PLATFORM = SoftwareNitro()
WHOLE = PLATFORM.evidence(DATA)


def verify(evidence: Evidence, platform: SoftwareNitro = PLATFORM, now: int = NOW) -> Facts:
    return nitro.verify(evidence, (platform.insecure_root,), now)


def test_what_a_genuine_document_says() -> None:
    facts = verify(WHOLE)
    assert facts.tier is Tier.SIMULATED  # its root is not Amazon's
    assert facts.report_data == DATA
    assert facts.registers == tuple((f"pcr{n}", PCRS[n]) for n in range(3))
    named = hashlib.sha256(b"qflare/1/nitro-measurement\0" + b"".join(PCRS[n] for n in range(3)))
    assert facts.measurement.raw == named.digest()
    assert facts.expires == NOW + 2 * HOUR  # the leaf's
    assert not facts.debug


def test_debug_mode_has_zeros_for_the_image() -> None:
    assert verify(PLATFORM.evidence(DATA, pcrs=PCRS | {0: bytes(48)})).debug
    assert not verify(PLATFORM.evidence(DATA, pcrs=PCRS | {0: bytes(47) + b"\1"})).debug


def test_a_register_more_or_less_is_another_measurement() -> None:
    found = {verify(PLATFORM.evidence(DATA, pcrs=PCRS | {n: b"\x99" * 48})).measurement
             for n in (0, 1, 2)}  # fmt: skip
    assert len(found | {verify(WHOLE).measurement}) == 4
    other = verify(PLATFORM.evidence(DATA, pcrs=PCRS | {3: b"\x99" * 48}))
    assert other.measurement == verify(WHOLE).measurement  # the host's role, not the code


def test_a_root_of_somebody_is_not_amazons() -> None:
    with pytest.raises(PeerFault, match=r"root .* is not Amazon's"):
        nitro.verify(WHOLE, (), NOW)
    with pytest.raises(PeerFault, match=r"root .* is not Amazon's"):
        verify(WHOLE, SoftwareNitro())


@pytest.mark.parametrize("now", [NOW - HOUR - 1, NOW + 2 * HOUR + 1])
def test_the_enclaves_certificate_is_of_this_time(now: int) -> None:
    with pytest.raises(PeerFault, match="not of this time"):
        verify(WHOLE, now=now)


def _other(**leaf: Any) -> Callable[[], tuple[Evidence, SoftwareNitro]]:
    def make() -> tuple[Evidence, SoftwareNitro]:
        platform = SoftwareNitro(**leaf)
        return platform.evidence(DATA), platform

    return make


def _chain(**above: Any) -> Callable[[], tuple[Evidence, SoftwareNitro]]:
    """An instance's certificate that differs, and the leaf below it."""

    def make() -> tuple[Evidence, SoftwareNitro]:
        platform = SoftwareNitro()
        platform.instance = Authority("instance", platform.zone, **({"path": 0} | above))
        platform.leaf = Authority("enclave", platform.instance, ca=False)
        return platform.evidence(DATA), platform

    return make


def _field(**changes: Any) -> Callable[[], tuple[Evidence, SoftwareNitro]]:
    return lambda: (PLATFORM.evidence(DATA, **changes), PLATFORM)


def _stranger() -> tuple[Evidence, SoftwareNitro]:
    """A leaf that names the instance as its issuer, signed by somebody else."""
    platform = SoftwareNitro()
    platform.leaf = Authority("enclave", Authority("x"), ca=False, issuer=platform.instance)
    return platform.evidence(DATA), platform


def _misnamed() -> tuple[Evidence, SoftwareNitro]:
    platform = SoftwareNitro()
    platform.leaf = Authority("enclave", platform.instance, ca=False, issuer=platform.zone)
    return platform.evidence(DATA), platform


def _longer() -> tuple[Evidence, SoftwareNitro]:
    """The instance, which may have no authority below it, makes one."""
    platform = SoftwareNitro()
    below = Authority("below", platform.instance)
    platform.leaf = Authority("enclave", below, ca=False)
    bundle = [*platform.fields(DATA)["cabundle"], below.der]
    return platform.evidence(DATA, cabundle=bundle), platform


def _signed(protected: dict[int, int]) -> Callable[[], tuple[Evidence, SoftwareNitro]]:
    body = cbor2.dumps(PLATFORM.fields(DATA))
    return lambda: (Evidence("nitro", PLATFORM.sign(body, cbor2.dumps(protected))), PLATFORM)


def _bytes(body: bytes, endorsements: bytes = b"") -> Callable[[], tuple[Evidence, SoftwareNitro]]:
    return lambda: (Evidence("nitro", body, endorsements), PLATFORM)


def _outer(*parts: Any) -> bytes:
    return cbor2.dumps(list(parts))


ENTRIES = cbor2.loads(WHOLE.body)
TWICE = PLATFORM.sign(
    b"\xaa" + cbor2.dumps(PLATFORM.fields(DATA))[1:] + cbor2.dumps("digest") + cbor2.dumps("SHA384")
)
REFUSED = [
    ("an unknown issuer's leaf", _stranger, "a certificate's signature"),
    ("a leaf of another issuer", _misnamed, "bad certificates"),
    ("a leaf that is an authority", _other(ca=True), "what it isn't made for"),
    ("a leaf that may not sign", _other(may_sign=False), "what it isn't made for"),
    ("a leaf on P-256", _other(curve=ec.SECP256R1()), "curve P-384"),
    ("an instance that is no authority", _chain(ca=False, path=None), "what it isn't made for"),
    ("an instance that may not sign", _chain(may_sign=False), "what it isn't made for"),
    ("a longer chain than its path allows", _longer, "what it isn't made for"),
    ("an instance of yesterday", _chain(ends=NOW - 1), "not of this time"),
    ("an instance of tomorrow", _chain(starts=NOW + 1), "not of this time"),
    ("an old document", _field(timestamp=(NOW - 2 * HOUR) * 1000), "another time"),
    ("a document of the future", _field(timestamp=(NOW + 3 * HOUR) * 1000), "another time"),
    ("no timestamp", _field(timestamp=...), "no timestamp"),
    ("registers of SHA-512", _field(digest="SHA512"), "aren't SHA-384"),
    ("no registers", _field(pcrs={}), "no PCR0 to PCR2"),
    ("no PCR1", _field(pcrs={0: PCRS[0], 2: PCRS[2]}), "no PCR0 to PCR2"),
    ("a short PCR2", _field(pcrs=PCRS | {2: bytes(32)}), "no PCR0 to PCR2"),
    ("registers in a list", _field(pcrs=[PCRS[0]] * 3), "no pcrs"),
    ("text for user data", _field(user_data="x"), "no user_data"),
    ("no chain", _field(cabundle=[]), "chain of another length"),
    ("a long chain", _field(cabundle=[PLATFORM.root.der] * 8), "chain of another length"),
    ("a chain of numbers", _field(cabundle=[1]), "no certificates"),
    ("no certificate", _field(certificate=b"", cabundle=[PLATFORM.root.der]), "bad certificates"),
    ("a chain without the root", _field(cabundle=[PLATFORM.region.der]), "is not Amazon's"),
    ("ES256 in the header", _signed({1: -7}), "no attestation document"),
    ("a header with more", _signed({1: -35, 4: 1}), "no attestation document"),
    ("another's signature", _bytes(_outer(*ENTRIES[:3], bytes(range(96)))), "document's signature"),
    ("a signature of zeros", _bytes(_outer(*ENTRIES[:3], bytes(96))), "document's signature"),
    ("an unprotected header", _bytes(_outer(ENTRIES[0], {1: -35}, *ENTRIES[2:])), "no attestation"),
    ("a COSE tag", _bytes(b"\xd2" + WHOLE.body), "no attestation document"),
    ("bytes after it", _bytes(WHOLE.body + b"\0"), "no attestation document"),
    ("no payload", _bytes(_outer(*ENTRIES[:2], 7, ENTRIES[3])), "without payload"),
    ("a field twice", _bytes(TWICE), "there twice"),
    ("a list", _bytes(PLATFORM.sign(b"\x80")), "no cabundle"),
    ("endorsements", _bytes(WHOLE.body, b"x"), "no endorsements"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "why"), [row[1:] for row in REFUSED], ids=[r[0] for r in REFUSED])
def test_anything_else_is_refused(
    make: Callable[[], tuple[Evidence, SoftwareNitro]], why: str
) -> None:
    evidence, platform = make()
    with pytest.raises(PeerFault, match=why):
        verify(evidence, platform)


def test_report_data_are_what_the_document_has() -> None:
    """None and other lengths are no claims': appraisal refuses them as evidence for others."""
    assert verify(PLATFORM.evidence(None)).report_data == b""
    assert verify(PLATFORM.evidence(b"x", nonce=DATA)).report_data == b"x"


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_no_byte_of_a_document_can_be_changed(step: int) -> None:
    masks, taken = (1, 2, 4, 8, 16, 32, 64, 128, 255), []
    for at in range(0, len(WHOLE.body), step):
        mask = masks[at // step % 9]
        body = WHOLE.body[:at] + bytes([WHOLE.body[at] ^ mask]) + WHOLE.body[at + 1 :]
        try:
            verify(Evidence("nitro", body))
        except PeerFault:
            continue
        taken.append(at)
    assert not taken


@given(st.binary(max_size=300))
def test_garbage_gives_a_fault_and_nothing_else(body: bytes) -> None:
    for one in (body, PLATFORM.sign(body), WHOLE.body[:7] + body, WHOLE.body[: -len(body) or None]):
        if one != WHOLE.body:
            with pytest.raises(PeerFault):
                verify(Evidence("nitro", one))


@settings(max_examples=60)
@given(st.sampled_from(["root", "region", "zone", "instance", "leaf"]), st.data())
def test_broken_certificates_give_a_fault_and_nothing_else(name: str, data: st.DataObject) -> None:
    fields = PLATFORM.fields(DATA)
    der: bytes = getattr(PLATFORM, name).der
    at, to = sorted(data.draw(st.integers(0, len(der))) for _ in range(2))
    broken = der[:at] + data.draw(st.binary(max_size=20)) + der[to:]
    if broken == der:
        return
    bundle = [broken if one == der else one for one in fields["cabundle"]]
    leaf = broken if name == "leaf" else fields["certificate"]
    with pytest.raises(PeerFault):
        verify(PLATFORM.evidence(DATA, cabundle=bundle, certificate=leaf))


# --- the reader


VALUES = st.recursive(
    st.none() | st.integers(0, 2**64 - 1) | st.binary(max_size=300) | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=30)
        | st.dictionaries(st.integers(0, 2**64 - 1) | st.text(max_size=9), inner, max_size=30)
    ),
    max_leaves=40,
)


@given(VALUES)
def test_the_reader_reads_what_a_library_writes(value: Any) -> None:
    if _depth(value) <= cbor.DEPTH_MAX + 1:
        assert cbor.read(cbor2.dumps(value)) == value
    else:
        with pytest.raises(PeerFault, match="nested too deeply"):
            cbor.read(cbor2.dumps(value))


def _depth(value: Any) -> int:
    """How deep the deepest value but null is; a null is read anywhere."""
    inner = value if isinstance(value, list) else []
    if isinstance(value, dict):
        inner = [*value, *value.values()]
    below = [_depth(one) for one in inner if one is not None]
    return 1 + max(below, default=0)


@given(st.binary(max_size=60))
def test_what_the_reader_takes_has_one_spelling(data: bytes) -> None:
    try:
        value = cbor.read(data)
    except PeerFault:
        return
    assert cbor2.dumps(value) == data


@pytest.mark.parametrize(
    ("spelt", "why"),
    [
        ("", "truncated"), ("58", "truncated"), ("1800", "shortest"), ("190001", "shortest"),
        ("4261", "past the end"), ("9bffffffffffffffff", "truncated"), ("a2", "truncated"),
        ("5f4161ff", "indefinite"), ("1c", "reserved"), ("61ff", "UTF-8"), ("20", "isn't used"),
        ("f5", "isn't used"), ("c101", "isn't used"), ("a20000", "truncated"), ("0000", "after"),
        ("a200000000", "there twice"), ("a14000", "another kind"), ("81818180", "too deeply"),
    ],
)  # fmt: skip
def test_what_the_reader_refuses(spelt: str, why: str) -> None:
    with pytest.raises(PeerFault, match=why):
        cbor.read(bytes.fromhex(spelt))
