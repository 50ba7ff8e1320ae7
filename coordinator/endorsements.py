"""What speaks for the enclave's platform, from the file that the operator keeps fresh.

For Intel's platforms the file is the collateral as JSON, in the form that dcap-qvl fetches; for
AMD's it is PEM: the chip's certificate (or the cloud's), ASK, ARK and the revocation list.
docs/enclave-hardware.md says how either is fetched. It is read for each offer.
"""

import re
from dataclasses import replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from qflare.enclave_wire import RoundOpened
from qflare.faults import LocalFault
from qflare.host.logs import get_logger
from qflare.host.typed import Typed, decode
from qflare.messages import KIB, Evidence
from qflare.verifiers.dcap import Collateral
from qflare.verifiers.snp import pack_table

FILE_MAX = 256 * KIB
_log = get_logger("endorsements")
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----[^-]+-----END \1-----")


class CollateralFile(Typed):
    """Collateral as dcap-qvl's `QuoteCollateralV3` writes it; bytes are hexadecimal."""

    pck_crl_issuer_chain: str
    root_ca_crl: str
    pck_crl: str
    tcb_info_issuer_chain: str
    tcb_info: str
    tcb_info_signature: str
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: str
    pck_certificate_chain: str | None = None


def endorsed(opened: RoundOpened, path: Path) -> RoundOpened:
    """With the file's endorsements in its evidence; as it was if there are none that fit."""
    evidence = opened.evidence
    try:
        with path.open("rb") as file:
            data = file.read(FILE_MAX + 1)
        found = replace(evidence, endorsements=pack(evidence.provider, data))
        if len(found.to_bytes()) > Evidence.CEILING:
            raise LocalFault("evidence with these endorsements is too large for an offer")
    except (OSError, LocalFault) as fault:
        _log.error("the platform's endorsements can't be used", file=path, error=fault)
        return opened
    return replace(opened, evidence=found)


def pack(provider: str, data: bytes) -> bytes:
    """A file's content as evidence of `provider` carries it; raise LocalFault for what is none."""
    if len(data) > FILE_MAX:
        raise LocalFault(f"a file of more than {FILE_MAX} bytes; fetch it again")
    match provider:
        case "tdx" | "sgx":
            return pack_collateral(data)
        case "sev_snp":
            return pack_certificates(data)
    raise LocalFault(f"evidence of {provider} has no endorsements; take the line from [enclave]")


def pack_collateral(data: bytes | str) -> bytes:
    """Intel's collateral, from JSON; raise LocalFault for anything else."""
    try:
        file = decode(CollateralFile, data.encode() if isinstance(data, str) else data)
        tcb, qe = _chain(file.tcb_info_issuer_chain), _chain(file.qe_identity_issuer_chain)
        return Collateral(
            root=tcb[-1],
            tcb_chain=tcb[:-1],
            tcb_info=file.tcb_info,
            tcb_signature=bytes.fromhex(file.tcb_info_signature),
            qe_chain=qe[:-1],
            qe_identity=file.qe_identity,
            qe_signature=bytes.fromhex(file.qe_identity_signature),
            root_crl=bytes.fromhex(file.root_ca_crl),
            pck_crl=bytes.fromhex(file.pck_crl),
        ).pack()
    except Exception as error:  # the library has a dozen kinds for what isn't a certificate
        raise LocalFault(f"no collateral as dcap-qvl writes it ({error}); fetch it again") from None


def _chain(pem: str) -> tuple[bytes, ...]:
    found = x509.load_pem_x509_certificates(pem.encode())
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in found)


def pack_certificates(data: bytes) -> bytes:
    """AMD's certificates and revocation list, from PEM; raise LocalFault for anything else."""
    entries: dict[str, bytes] = {}
    try:
        for match in _PEM.finditer(data):
            if match[1] == b"X509 CRL":
                crl = x509.load_pem_x509_crl(match[0])
                entries["crl"] = crl.public_bytes(Encoding.DER)
                continue
            certificate = x509.load_pem_x509_certificate(match[0])
            (name,) = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
            entries[_kind(str(name.value))] = certificate.public_bytes(Encoding.DER)
    except Exception as error:
        raise LocalFault(f"no certificates in PEM ({error}); fetch them again") from None
    if len(entries) != 4 or not {"ask", "ark", "crl"} < entries.keys():
        found = ", ".join(sorted(entries)) or "nothing"
        raise LocalFault(f"want VCEK or VLEK, ASK, ARK and a revocation list; found {found}")
    return pack_table(entries)


def _kind(name: str) -> str:
    """Which of AMD's certificates it is by its common name."""
    if name in ("SEV-VCEK", "SEV-VLEK"):
        return name.removeprefix("SEV-").lower()
    return "ark" if name.startswith("ARK-") else "ask"
