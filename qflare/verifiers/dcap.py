"""`tdx` and `sgx`: quotes of Intel's DCAP, verified by dcap-qvl without any network.

What speaks for a platform (its TCB's standing, the quoting enclave's identity, revocation lists) is
signed by Intel and is relayed by the coordinator. Whether a TCB status is good enough is for
appraisal.py; here dcap-qvl refuses what can't be genuine or safe at all: a bad signature or chain,
a revoked key or TCB, dates that don't hold, debug mode, a TD that may migrate or has a service TD.
"""

import json
import zlib
from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

from qflare.faults import PeerFault, Reason
from qflare.messages import KIB, Evidence
from qflare.names import Digest
from qflare.record import Record, check
from qflare.verifiers.facts import Facts, Tier, refused
from qflare.verifiers.quote import body_end, tdx_measurement, trim

TDX: Final = "tdx"
SGX: Final = "sgx"
# SHA-256 of "Intel SGX Root CA" (DER), valid until 2049, the root of SGX and TDX.
INTEL_ROOT: Final = Digest.parse("44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3")
_DEBUG = {SGX: 0x02, TDX: 0x01}  # bit of the first byte of the attributes
_TD_REPORTS = ("TD10", "TD15", "TD15Ex")
_BEGIN, _END = b"-----BEGIN CERTIFICATE-----\n", b"-----END CERTIFICATE-----\n"
_REGISTERS = ("mr_td", "rt_mr0", "rt_mr1", "rt_mr2", "rt_mr3")


@dataclass(frozen=True)
class Collateral(Record):
    """Endorsements of a DCAP quote (Intel's PCS v4): on the wire, compressed by zlib.

    Chains are DER certificates, the signer first, without the root.
    """

    CEILING: ClassVar[int] = 96 * KIB

    root: bytes
    tcb_chain: tuple[bytes, ...]
    tcb_info: str  # JSON, as Intel signed it
    tcb_signature: bytes
    qe_chain: tuple[bytes, ...]
    qe_identity: str  # JSON, as Intel signed it
    qe_signature: bytes
    root_crl: bytes
    pck_crl: bytes

    def pack(self) -> bytes:
        """The bytes that evidence carries."""
        return zlib.compress(self.to_bytes(), 9)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """The inverse of `pack`; raise PeerFault for anything else."""
        check(bool(data), "no endorsements: the coordinator has to add the platform's collateral")
        inflater = zlib.decompressobj()
        try:
            plain = inflater.decompress(data, cls.CEILING + 1)
        except zlib.error:
            raise PeerFault(Reason.MALFORMED, "endorsements that aren't compressed") from None
        check(len(plain) <= cls.CEILING, "endorsements: too large", Reason.TOO_LARGE)
        whole = inflater.eof and not inflater.unused_data
        check(whole, "endorsements end too early or late", Reason.MALFORMED)
        return cls.parse(plain)


def verify(evidence: Evidence, insecure_roots: tuple[Digest, ...], now: int) -> Facts:
    """Verify a quote at `now` (Unix seconds); raise PeerFault for what is not genuine.

    A root in `insecure_roots` is taken in place of Intel's, and its evidence is worth nothing.
    """
    try:
        import dcap_qvl  # 6 MB, for those who meet such evidence
    except ImportError:
        raise refused("no verifier for Intel's quotes here: pip install dcap-qvl") from None
    collateral = Collateral.unpack(evidence.endorsements)
    root = Digest.of(collateral.root)
    if root != INTEL_ROOT and root not in insecure_roots:
        raise refused(f"its root {root.short} is not Intel's")
    quote = evidence.body
    check(quote == trim(quote), "something after the quote", Reason.MALFORMED)
    nested = quote[0] == 3 or quote[body_end(quote) + 132 :][:2] == b"\6\0"  # which it overlooks
    check(nested, "the quote's certification is of another kind", Reason.MALFORMED)
    policy = dcap_qvl.QuotePolicy.claims_only(now)  # signatures, revocation, dates and attributes
    try:
        _check_chain(
            dcap_qvl.parse_quote(quote).cert_chain_pem_bytes() or b"", quote, collateral.root
        )
        verified = dcap_qvl.QuoteVerifier(collateral.root).verify_with_policy(
            quote, _their_form(dcap_qvl, collateral), now, policy
        )
    except ValueError as error:
        raise refused(f"the quote doesn't verify: {str(error)[:120]}") from None
    tier = Tier.HARDWARE if root == INTEL_ROOT else Tier.SIMULATED
    return _facts(evidence.provider, tier, json.loads(verified.to_json()))


def _check_chain(pem: bytes, quote: bytes, root: bytes) -> None:
    """Nothing is beside the platform's chain: three certificates in their one spelling.

    dcap-qvl reads the certificates that it needs, and would overlook the rest. Raises ValueError.
    """
    check(quote.removesuffix(b"\0").endswith(pem), "the quote doesn't end with its chain")
    chain = [b64decode(block.removesuffix(_END)) for block in pem.split(_BEGIN)[1:]]
    check(len(chain) == 3 and chain[2] == root, "the quote's chain ends in another root")
    check(pem == b"".join(map(_pem, chain)), "the quote's chain is not in its one spelling")


def _pem(der: bytes) -> bytes:
    text = b64encode(der)
    lines = (text[at : at + 64] + b"\n" for at in range(0, len(text), 64))
    return b"".join((_BEGIN, *lines, _END))


def _their_form(dcap_qvl: Any, collateral: Collateral) -> Any:
    def chain(certificates: tuple[bytes, ...]) -> str:
        return b"".join(_pem(der) for der in (*certificates, collateral.root)).decode()

    return dcap_qvl.QuoteCollateralV3(
        pck_crl_issuer_chain="",  # the list's issuer is in the quote's own chain
        root_ca_crl=collateral.root_crl,
        pck_crl=collateral.pck_crl,
        tcb_info_issuer_chain=chain(collateral.tcb_chain),
        tcb_info=collateral.tcb_info,
        tcb_info_signature=collateral.tcb_signature,
        qe_identity_issuer_chain=chain(collateral.qe_chain),
        qe_identity=collateral.qe_identity,
        qe_identity_signature=collateral.qe_signature,
    )


def _facts(provider: str, tier: Tier, claims: dict[str, Any]) -> Facts:
    ((kind, report),) = claims["report"].items()
    check((kind in _TD_REPORTS) == (provider == TDX), f"a quote that isn't {provider}'s")
    tcb = claims["tcb"]
    attributes = bytes.fromhex(report["td_attributes" if provider == TDX else "attributes"])
    registers = tuple((n, bytes.fromhex(report[n])) for n in _REGISTERS if n in report)
    signer = product = svn = None
    if provider == SGX:
        measurement = Digest(bytes.fromhex(report["mr_enclave"]))
        signer = Digest(bytes.fromhex(report["mr_signer"]))
        product, svn = report["isv_prod_id"], report["isv_svn"]
    else:
        measurement = tdx_measurement(b"".join(value for _, value in registers))
    return Facts(
        tier=tier,
        report_data=bytes.fromhex(report["report_data"]),
        measurement=measurement,
        registers=registers,
        signer=signer,
        product=product or 0,
        svn=svn or 0,
        debug=bool(attributes[0] & _DEBUG[provider]),
        tcb_status=tcb["status"],
        advisories=tuple(tcb["advisory_ids"]),
        tcb_evaluation=tcb["eval_data_number"],
        expires=min(claims["earliest_expiration_date"], claims["qe_iden_earliest_expiration_date"]),
    )
