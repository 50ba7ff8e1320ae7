"""A TPM's quotes: a genuine one is taken, and everything else is refused for its own reason."""

import hashlib
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from struct import pack
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from qflare.faults import PeerFault
from qflare.messages import Evidence
from qflare.verifiers import event_log, tpm, tpm_structures
from qflare.verifiers.facts import Tier
from qflare.verifiers.registers import LOG_MAX, TpmQuote
from tests.platforms.tpm import (
    ATTRIBUTES,
    ECDSA,
    EVENTS,
    RSAPSS,
    RSASSA,
    SHA256,
    SoftwareTpm,
    replayed,
    sized,
)
from tests.platforms.tpm import event_log as make_log

DATA = bytes(range(64))
PLATFORM = SoftwareTpm()
WHOLE = PLATFORM.quote(DATA, make_log())
BY_RSA = SoftwareTpm(RSASSA)


def evidence(quote: TpmQuote) -> Evidence:
    return Evidence("tpm", quote.to_bytes())


@pytest.mark.parametrize("scheme", [ECDSA, RSASSA, RSAPSS])
def test_what_a_genuine_quote_says(scheme: int) -> None:
    platform = SoftwareTpm(scheme)
    facts = tpm.verify(platform.evidence(DATA, make_log()))
    assert facts.tier is Tier.TPM
    assert facts.report_data == DATA
    assert facts.signer == platform.name
    assert facts.registers == tuple((f"pcr{n}", replayed()[n]) for n in range(10))
    values = b"".join(platform.pcrs[n] for n in range(10))
    named = pack(">IHB", 1, SHA256, 3) + b"\xff\x03\0" + sized(hashlib.sha256(values).digest())
    assert facts.measurement.raw == hashlib.sha256(b"qflare/1/tpm-measurement\0" + named).digest()


def test_a_quote_without_a_log_says_which_registers() -> None:
    ((name, digest),) = tpm.verify(PLATFORM.evidence(DATA, selected=(0, 7, 23))).registers
    assert name == "digest of PCRs 0, 7, 23"
    assert len(digest) == 32


def test_other_registers_or_other_values_are_another_measurement() -> None:
    def measured(selected: Any, platform: SoftwareTpm = PLATFORM) -> bytes:
        return tpm.verify(platform.evidence(DATA, selected=selected)).measurement.raw

    other = replace(PLATFORM, pcrs=replayed() | {9: bytes(32)})
    # PCR 2 and 3 hold the same: which one was quoted is part of what is measured.
    found = [measured((0, 2)), measured((0, 3)), measured((0, 2, 9)), measured((0, 2, 9), other)]
    assert len(set(found)) == len(found)


def test_each_key_is_another_signer() -> None:
    """Whether it is one that the owner named is for the reference value."""
    assert tpm.verify(SoftwareTpm().evidence(DATA)).signer != PLATFORM.name
    same = replace(PLATFORM, attributes=ATTRIBUTES | 1 << 10)
    assert tpm.verify(same.evidence(DATA)).signer != PLATFORM.name  # attributes are in the name


@pytest.mark.parametrize(
    ("bits", "why"),
    [
        (ATTRIBUTES & ~(1 << 1), "fixedTPM"), (ATTRIBUTES & ~(1 << 4), "fixedParent"),
        (ATTRIBUTES & ~(1 << 5), "sensitiveDataOrigin"), (ATTRIBUTES & ~(1 << 16), "restricted"),
        (ATTRIBUTES & ~(1 << 18), r"\(sign\)"), (ATTRIBUTES | 1 << 17, "decrypts"),
    ],
)  # fmt: skip
def test_a_key_that_signs_more_than_its_tpms_word(bits: int, why: str) -> None:
    with pytest.raises(PeerFault, match=f"no attestation key.*{why}"):
        tpm.verify(SoftwareTpm(attributes=bits).evidence(DATA))


def _key(**changes: int) -> Callable[[], Evidence]:
    def make() -> Evidence:
        of = BY_RSA if changes.get("rsa") else PLATFORM
        changed = {k: v for k, v in changes.items() if k != "rsa"}
        return evidence(replace(of.quote(DATA), key=of.area(**changed)))

    return make


def _quote(**changes: Any) -> Callable[[], Evidence]:
    return lambda: evidence(replace(WHOLE, **changes))


def _attest(**changes: Any) -> Callable[[], Evidence]:
    return lambda: PLATFORM.evidence(DATA, **changes)


def _log(log: bytes) -> Callable[[], Evidence]:
    return lambda: PLATFORM.evidence(DATA, log)


def _packed(packed: bytes) -> Callable[[], Evidence]:
    """A log that was bound, however it is packed."""

    def make() -> Evidence:
        attest = PLATFORM.attest(tpm.qualifying_data(DATA, packed))
        quoted = sized(attest) + PLATFORM.sign(attest)
        return evidence(TpmQuote(quoted, PLATFORM.area(), DATA, packed))

    return make


def _signature(change: Callable[[bytes, bytes], bytes]) -> Callable[[], Evidence]:
    def make() -> Evidence:
        attest = PLATFORM.attest(tpm.qualifying_data(DATA, b""))
        quoted = sized(attest) + change(attest, PLATFORM.sign(attest))
        return evidence(TpmQuote(quoted, PLATFORM.area(), DATA, b""))

    return make


def _key_of(key: Any) -> Callable[[], Evidence]:
    def make() -> Evidence:
        other = SoftwareTpm(RSASSA if isinstance(key, rsa.RSAPrivateKey) else ECDSA, key=key)
        area = other.area(bits=key.key_size) if key.key_size != 256 else other.area()
        return evidence(replace(other.quote(DATA), key=area))

    return make


def _off_curve() -> Evidence:
    area = PLATFORM.area()
    return evidence(replace(WHOLE, key=area[:-1] + bytes([area[-1] ^ 1])))


REFUSED = [
    ("another's quote", _quote(key=SoftwareTpm().area()), "quote's signature"),
    ("an RSA key's", lambda: evidence(replace(BY_RSA.quote(DATA), key=SoftwareTpm(RSASSA).area())),
     "quote's signature"),
    ("other report data", _quote(report_data=bytes(64)), "for other data"),
    ("short report data", _quote(report_data=DATA[:32]), "report data of another length"),
    ("another log", _quote(log=zlib.compress(make_log(EVENTS[:2]))), "another event log"),
    ("no log in place of one", _quote(log=b""), "another event log"),
    ("what isn't the TPM's", _attest(magic=0), "something else than a quote"),
    ("a certification", _attest(type=0x8017), "something else than a quote"),
    ("SHA-1's bank", _attest(bank=4), "SHA-256 bank alone"),
    ("two banks", _attest(banks=2), "SHA-256 bank alone"),
    ("a wider selection", _attest(size=4), "SHA-256 bank alone"),
    ("no register", _attest(selected=()), "no PCR"),
    ("a short digest", _attest(digest=bytes(20)), "no PCR"),
    ("something after the quote", _attest(after=b"\0"), "bytes after"),
    ("something after the signature", _signature(lambda _, s: s + b"\0"), "bytes after"),
    ("a signature cut short", _signature(lambda _, s: s[:-1]), "truncated"),
    ("RSASSA by an ECC key", _signature(lambda a, _: PLATFORM.sign(a, RSASSA)), "another scheme"),
    ("SHA-1 in the signature", _signature(lambda _, s: s[:3] + b"\4" + s[4:]), "another scheme"),
    ("a name by SHA-1", _key(name=4), "isn't named by SHA-256"),
    ("a signature by SHA-1", _key(hash=4), "doesn't sign by"),
    ("no scheme", _key(scheme=0x10), "doesn't sign by"),
    ("RSA's scheme for ECC", _key(scheme=RSASSA), "doesn't sign by"),
    ("a storage key", _key(symmetric=6), "doesn't sign by"),
    ("an HMAC key", _key(kind=8), "doesn't sign by"),
    ("a curve by another name", _key(curve=4), "another curve"),
    ("a derivation", _key(kdf=0x20), "another curve"),
    ("no point of the curve", _off_curve, "no point or modulus"),
    ("RSA of 1,024 bits", _key_of(rsa.generate_private_key(65537, 1024)), "another size"),  # noqa: S505
    ("RSA of another size", _key(rsa=1, bits=3072), "another size"),
    ("an initrd that wasn't booted", _log(make_log((*EVENTS, (9, b"other")))), "doesn't lead"),
    ("a log without the kernel", _log(make_log(EVENTS[:-1])), "doesn't lead"),
    ("another locality", _log(make_log(locality=3)), "doesn't lead"),
    ("a log of SHA-1", _log(make_log(banks=((4, 20),))), "without SHA-256"),
    ("a log of the old form", _log(make_log().replace(b"Spec ID", b"Spec Id")), "another form"),
    ("a log cut short", _log(make_log()[:-1]), "truncated"),
    ("a log with too many banks", _log(make_log(banks=((11, 32),) * 9)), "too many banks"),
    ("banks of another size", _log(make_log(banks=((11, 20),))), "unknown size"),
    ("an event of PCR 24", _log(make_log(((24, b""),))), "extends nothing"),
    ("a log that isn't packed", _packed(make_log()), "isn't compressed"),
    ("a log with something after", _packed(zlib.compress(make_log()) + b"\0"), "early or late"),
    ("half a packed log", _packed(zlib.compress(make_log())[:-2]), "early or late"),
    ("a log that unpacks to 2 MB", _packed(zlib.compress(bytes(1 << 21))), "too large"),
    ("endorsements", lambda: replace(evidence(WHOLE), endorsements=b"x"), "no endorsements"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "why"), [row[1:] for row in REFUSED], ids=[r[0] for r in REFUSED])
def test_anything_else_is_refused(make: Callable[[], Evidence], why: str) -> None:
    with pytest.raises(PeerFault, match=why):
        tpm.verify(make())


def test_a_log_is_bounded() -> None:
    noise = bytes(hashlib.sha256(bytes([n % 256, n // 256])).digest()[0] for n in range(LOG_MAX))
    with pytest.raises(PeerFault, match="too large"):
        tpm.verify(_packed(noise + b"\0")())
    with pytest.raises(PeerFault, match="too many events"):
        event_log.replay(make_log(((0, b""),) * 4097, banks=((11, 32),)))
    with pytest.raises(PeerFault, match="event is too large"):
        event_log.replay(make_log(((0, bytes(1 << 18)),)))


def test_a_late_start_and_its_locality() -> None:
    values = replayed(locality=3)
    platform = replace(PLATFORM, pcrs=values)
    facts = tpm.verify(platform.evidence(DATA, make_log(locality=3)))
    assert dict(facts.registers)["pcr0"] == values[0] != replayed()[0]


@pytest.mark.parametrize("scheme", [ECDSA, RSASSA, RSAPSS])
def test_no_byte_of_a_bundle_can_be_changed(scheme: int) -> None:
    platform = PLATFORM if scheme == ECDSA else SoftwareTpm(scheme)
    body, taken = platform.evidence(DATA, make_log()).body, []
    for at in range(len(body)):
        changed = body[:at] + bytes([body[at] ^ (1 << at % 8)]) + body[at + 1 :]
        try:
            facts = tpm.verify(Evidence("tpm", changed))
        except PeerFault:
            continue
        # Nobody can be kept from quoting with a key of his own: it is not the owner's.
        if facts.signer == platform.name:
            taken.append(at)
    assert not taken


@given(st.binary(max_size=400))
def test_garbage_gives_a_fault_and_nothing_else(data: bytes) -> None:
    quote = replace(WHOLE, log=b"")
    changed: list[dict[str, Any]] = [{"quoted": data}, {"key": data}, {"log": data or b"x"}]
    bundles = [Evidence("tpm", data), *(evidence(replace(quote, **one)) for one in changed)]
    for one in bundles:
        with pytest.raises(PeerFault):
            tpm.verify(one)


@settings(max_examples=200)
@given(st.data())
def test_a_broken_log_gives_a_fault_or_other_registers(data: st.DataObject) -> None:
    log = make_log()
    at, to = sorted(data.draw(st.integers(0, len(log))) for _ in range(2))
    broken = log[:at] + data.draw(st.binary(max_size=20)) + log[to:]
    with suppress(PeerFault):
        assert len(event_log.replay(broken)) == event_log.PCRS


@given(st.binary(max_size=200))
def test_a_broken_key_gives_a_fault_and_nothing_else(tail: bytes) -> None:
    area = PLATFORM.area()
    for cut in (0, 8, 10, 16, 20, len(area)):
        if area[:cut] + tail != area:
            with pytest.raises(PeerFault):
                tpm_structures.parse_key(area[:cut] + tail)


def test_a_p384_key_is_not_taken_for_p256() -> None:
    numbers = ec.generate_private_key(ec.SECP384R1()).public_key().public_numbers()
    area = PLATFORM.area(curve=4)[:-68]
    area += sized(numbers.x.to_bytes(48, "big")) + sized(numbers.y.to_bytes(48, "big"))
    with pytest.raises(PeerFault, match="another curve"):
        tpm_structures.parse_key(area)
