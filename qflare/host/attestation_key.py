"""Find out, once, that an attestation key is in a genuine TPM; then the owner's manifest names it.

`python -m qflare.host.attestation_key challenge`, on the owner's machine, checks the certificate
that the TPM's maker gave its endorsement key (EK), and encrypts a secret to that EK and to the name
of the attestation key: TPM2_MakeCredential, done in software (TCG "TPM 2.0 Library", part 1,
section 24). Only a TPM that holds both keys gives the secret back (tpm2_activatecredential);
`accept` compares it and prints the digest that goes into the manifest as `signer`.
"""

import argparse
import hmac
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_bytes
from struct import pack
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode

from qflare.faults import LocalFault, PeerFault
from qflare.names import Digest
from qflare.verifiers.facts import refused
from qflare.verifiers.nitro import NO_CERTIFICATE
from qflare.verifiers.tpm_structures import Reader, TpmKey, parse_key

EK_CERTIFICATE: Final = x509.ObjectIdentifier("2.23.133.8.1")  # tcg-kp-EKCertificate
_FILE_MAX = 16 * 1024
_TOOLS = pack(">II", 0xBADCC0DE, 1)  # how tpm2-tools' credential files start
_SECRET = 32
_CHAIN_MAX = 4


def parse_public(data: bytes) -> TpmKey:
    """The attestation key in tpm2-tools' file (TPM2B_PUBLIC); raise PeerFault if it is none."""
    reader = Reader(data)
    key = parse_key(reader.sized())
    reader.end()
    if key.missing:
        raise refused(f"no attestation key: {key.missing}")
    return key


def verify_endorsement(
    certificate: x509.Certificate, authorities: Iterable[x509.Certificate], now: int
) -> rsa.RSAPublicKey:
    """The EK of a certificate that leads to one of the makers' roots; raise PeerFault otherwise.

    `authorities` are roots, which have signed themselves, and what is between. CRLs of TPM makers
    aren't asked for: an EK that its maker has revoked is for the owner to strike.
    """
    try:
        key = certificate.public_key()
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        _verify_issued(certificate, list(authorities), datetime.fromtimestamp(now, UTC))
    except NO_CERTIFICATE as error:
        raise refused(f"no certificate of an endorsement key: {str(error)[:120]}") from None
    if EK_CERTIFICATE not in usage:
        raise refused("the certificate is not one of an endorsement key")
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != 2048:
        raise refused("the endorsement key is not RSA of 2,048 bits: ask for that one (-G rsa)")
    return key


def _verify_issued(
    certificate: x509.Certificate, authorities: list[x509.Certificate], when: datetime
) -> None:
    for depth in range(_CHAIN_MAX + 1):
        if not certificate.not_valid_before_utc <= when <= certificate.not_valid_after_utc:
            raise refused(f"{certificate.subject.rfc4514_string()} is not of this time")
        for authority in authorities:
            with suppress(ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
                certificate.verify_directly_issued_by(authority)
                break
        else:
            raise refused("none of the given authorities has signed it")
        basic = authority.extensions.get_extension_for_class(x509.BasicConstraints).value
        if not basic.ca:
            raise refused("it was signed by what is no authority")
        if authority == certificate and depth:
            return
        certificate = authority
    raise refused("its chain is too long")


def make_credential(endorsement: rsa.RSAPublicKey, name: Digest, secret: bytes) -> bytes:
    """A credential file of tpm2-tools for the key of this name (without its algorithm).

    For an EK of the TCG's template L-1: RSA 2,048, SHA-256, AES-128 in CFB mode.
    """
    full = b"\0\x0b" + name.raw
    seed = token_bytes(32)
    oaep = padding.OAEP(padding.MGF1(SHA256()), SHA256(), b"IDENTITY\0")
    key = _kdfa(seed, b"STORAGE", full, 16)
    # The initial vector is zero by the specification; the key is used this once.
    encryptor = Cipher(algorithms.AES(key), CFB(bytes(16))).encryptor()
    identity = encryptor.update(pack(">H", len(secret)) + secret) + encryptor.finalize()
    mac = hmac.digest(_kdfa(seed, b"INTEGRITY", b"", 32), identity + full, "sha256")
    blob = pack(">H", len(mac)) + mac + identity
    sealed = endorsement.encrypt(seed, oaep)
    return _TOOLS + pack(">H", len(blob)) + blob + pack(">H", len(sealed)) + sealed


def _kdfa(key: bytes, label: bytes, context: bytes, size: int) -> bytes:
    """KDFa of part 1, section 11.4.10.2: SP 800-108 in counter mode."""
    place = CounterLocation.BeforeFixed
    form = (Mode.CounterMode, size, 4, 4, place, label, context, None)
    return KBKDFHMAC(SHA256(), *form).derive(key)


def challenge(certificate: bytes, authorities: bytes, key: bytes, now: int) -> tuple[bytes, bytes]:
    """The credential file, and the secret that is in it; raise PeerFault for what isn't genuine.

    `certificate` is DER or PEM, `authorities` are PEM, `key` is tpm2-tools' file.
    """
    name = parse_public(key).name
    try:
        pem = certificate.startswith(b"-----")
        load = x509.load_pem_x509_certificate if pem else x509.load_der_x509_certificate
        parsed = load(certificate)
        roots = x509.load_pem_x509_certificates(authorities)
    except NO_CERTIFICATE as error:
        raise refused(f"no certificate: {str(error)[:120]}") from None
    endorsement = verify_endorsement(parsed, roots, now)
    secret = token_bytes(_SECRET)
    return make_credential(endorsement, name, secret), secret


def accept(key: bytes, secret: bytes, answer: bytes) -> Digest:
    """The signer for the manifest; raise PeerFault unless `answer` is the secret."""
    name = parse_public(key).name
    if len(secret) != _SECRET or not hmac.compare_digest(secret, answer):
        raise refused("another secret came back: no TPM has both keys, or it was another challenge")
    return name


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_FILE_MAX + 1)
    if len(data) > _FILE_MAX:
        raise LocalFault(f"{path} is larger than {_FILE_MAX} bytes; name another file")
    return data


def _write(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(data)


def main(arguments: list[str] | None = None) -> int:
    """0 done, 1 refused."""
    parser = argparse.ArgumentParser(prog="attestation_key", description=__doc__.split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    ask = verbs.add_parser("challenge", help="a secret that only a TPM with both keys can read")
    ask.add_argument("--certificate", type=Path, required=True, help="the EK's (DER or PEM)")
    ask.add_argument("--authorities", type=Path, required=True, help="the TPM maker's (PEM)")
    ask.add_argument("-o", "--output", type=Path, required=True, help="file for the host")
    take = verbs.add_parser("accept", help="compare the secret, print the manifest's signer")
    take.add_argument("--answer", type=Path, required=True, help="what the TPM made of it")
    for verb in (ask, take):
        verb.add_argument("--key", type=Path, required=True, help="ak.pub of tpm2-tools")
        verb.add_argument("--secret", type=Path, required=True, help="file that stays here")
    options = parser.parse_args(arguments)
    try:
        key = _read(options.key)
        if options.verb == "accept":
            digest = accept(key, _read(options.secret), _read(options.answer))
            sys.stdout.write(f"{digest}\n")
            return 0
        parts = (_read(options.certificate), _read(options.authorities), key)
        made, secret = challenge(*parts, int(datetime.now(UTC).timestamp()))
        _write(options.secret, secret)
        _write(options.output, made)
    except (PeerFault, LocalFault, OSError) as fault:
        sys.stderr.write(f"{fault}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
