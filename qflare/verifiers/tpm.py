"""`tpm`: quotes of a TPM 2.0 over its PCRs, with the firmware's event log if there is one.

Structures: TCG "TPM 2.0 Library", part 2 (TPMS_ATTEST, TPMT_PUBLIC, TPMT_SIGNATURE). A quote is as
good as the key that signed it. That a TPM holds this key was found out once, when it was enrolled
(qflare/host/attestation_key.py); since then the owner's manifest names it, as the signer.

The measurement is the digest over the quoted PCRs. An event log adds no trust: it explains how they
came about, and is refused if it doesn't.
"""

import zlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from qflare.faults import PeerFault, Reason
from qflare.messages import Evidence
from qflare.names import Digest
from qflare.record import check
from qflare.verifiers.event_log import PCRS, replay
from qflare.verifiers.facts import REPORT_DATA, Facts, Tier, refused
from qflare.verifiers.registers import LOG_MAX, TpmQuote, qualifying_data, tpm_measurement
from qflare.verifiers.tpm_structures import RSASSA, SHA256, Reader, TpmKey, parse_key

_MAGIC, _QUOTE = 0xFF544347, 0x8018
_SELECTION = PCRS // 8  # bytes
_UNPACKED_MAX = 1 << 20  # bytes of an event log


def verify(evidence: Evidence) -> Facts:
    """Verify a quote; raise PeerFault for what is not genuine."""
    check(not evidence.endorsements, "a TPM's evidence has no endorsements")
    quote = TpmQuote.parse(evidence.body)
    check(len(quote.report_data) == REPORT_DATA, "report data of another length", Reason.MALFORMED)
    key = parse_key(quote.key)
    if key.missing:
        raise refused(f"its key is no attestation key: {key.missing}")
    reader = Reader(quote.quoted)
    attest = reader.sized()
    try:
        _verify_signature(key, attest, reader)
    except InvalidSignature:
        raise refused("the quote's signature doesn't verify") from None
    bound, selected, digest = _parse_attest(attest)
    if bound != qualifying_data(quote.report_data, quote.log):
        raise refused("the quote is for other data, or for another event log")
    return Facts(
        tier=Tier.TPM,
        report_data=quote.report_data,
        measurement=tpm_measurement(attest),
        registers=_registers(quote.log, selected, digest),
        signer=key.name,
    )


def _verify_signature(key: TpmKey, attest: bytes, reader: Reader) -> None:
    """TPMT_SIGNATURE by the key's own scheme, with SHA-256; raise InvalidSignature."""
    check(reader.numbers("HH") == (key.scheme, SHA256), "a signature of another scheme")
    if isinstance(key.public, ec.EllipticCurvePublicKey):
        r, s = (int.from_bytes(reader.sized(32), "big") for _ in range(2))
        reader.end()
        key.public.verify(encode_dss_signature(r, s), attest, ec.ECDSA(hashes.SHA256()))
        return
    signature = reader.sized(512)
    reader.end()
    scheme: padding.AsymmetricPadding = padding.PKCS1v15()
    if key.scheme != RSASSA:  # the salt is as long as the TPM's hash, or as the key lets it be
        scheme = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.AUTO)
    key.public.verify(signature, attest, scheme, hashes.SHA256())


def _parse_attest(attest: bytes) -> tuple[bytes, list[int], bytes]:
    """Of TPMS_ATTEST: the qualifying data, the quoted PCRs' numbers, and the digest over them."""
    reader = Reader(attest)
    if reader.numbers("IH") != (_MAGIC, _QUOTE):
        raise refused("the TPM signed something else than a quote")
    reader.sized()  # qualifiedSigner: the key's place in its hierarchy
    bound = reader.sized()
    reader.take(25)  # clock, counts of resets and restarts, whether the clock is safe; firmware
    banks, algorithm, size = reader.numbers("IHB")
    one = banks == 1 and algorithm == SHA256 and size == _SELECTION
    check(one, "a quote that isn't of the SHA-256 bank alone")
    bits = int.from_bytes(reader.take(_SELECTION), "little")
    digest = reader.sized()
    check(bits != 0 and len(digest) == 32, "a quote of no PCR")
    reader.end()
    return bound, [number for number in range(PCRS) if bits >> number & 1], digest


def _registers(log: bytes, selected: list[int], digest: bytes) -> tuple[tuple[str, bytes], ...]:
    """Each PCR as the log says, which has to agree with the quote; without a log their digest."""
    names = ", ".join(map(str, selected))
    if not log:
        return ((f"digest of PCRs {names}", digest),)
    values = replay(_unpack(log))
    if Digest.of(*(values[number] for number in selected)).raw != digest:
        raise refused(f"the event log doesn't lead to the quoted PCRs {names}")
    return tuple((f"pcr{number}", values[number]) for number in selected)


def _unpack(log: bytes) -> bytes:
    check(len(log) <= LOG_MAX, "the event log is too large", Reason.TOO_LARGE)
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(log, _UNPACKED_MAX + 1)
    except zlib.error:
        raise PeerFault(Reason.MALFORMED, "an event log that isn't compressed") from None
    check(len(plain) <= _UNPACKED_MAX, "the event log is too large", Reason.TOO_LARGE)
    whole = inflater.eof and not inflater.unused_data
    check(whole, "an event log ends too early or late", Reason.MALFORMED)
    return plain
