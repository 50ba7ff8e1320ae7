"""A certificate that lasts longer: sent by the coordinator, verified, and used when free. Pure."""

from dataclasses import replace

from edge_runtime.events import UseCertificate
from edge_runtime.state import Settings, State
from qflare.faults import PeerFault, Reason
from qflare.names import Digest
from qflare.policy import OwnerManifest
from qflare.record import check


class Renewal:
    """At most one renewed certificate that waits to be used."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._waiting = b""

    def take(self, payload: bytes) -> None:
        """Verify what the coordinator sent; raise PeerFault if it isn't ours, or isn't longer."""
        state = self._state
        if state.trust.ready:  # else it is sent again when we greet again
            self._waiting = verify_renewed(payload, state.settings, state.manifest)

    def use(self) -> bool:
        """Use it if no update stands under the old one; is it another one than before?"""
        state = self._state
        if not self._waiting or len(state.uploads):
            return False
        state.settings = with_certificate(state.settings, self._waiting)
        state.emit(UseCertificate(self._waiting))
        state.note("info", "certificate renewed", certificate=Digest.of(self._waiting).short)
        self._waiting = b""
        return True


def with_certificate(settings: Settings, certificate: bytes) -> Settings:
    """The same device with another certificate."""
    identity = replace(settings.identity, certificate=Digest.of(certificate))
    return replace(settings, identity=identity, certificate=certificate)


def verify_renewed(payload: bytes, settings: Settings, manifest: OwnerManifest) -> bytes:
    """The certificate (DER) in a CertificateRenewed.

    Raises PeerFault: what `verify_device` raises, BAD_CERTIFICATE for another device or key,
    ROLLBACK for one that doesn't last longer than the one in use.
    """
    from cryptography import x509  # here, since reading X.509 costs a device 2 MB

    from qflare.crypto.certificates import verify_device
    from qflare.crypto.suites import parse_suite
    from qflare.enrolment import CertificateRenewed

    identity, der = settings.identity, CertificateRenewed.parse(payload).certificate
    found = verify_device(
        der,
        manifest.device_cas,
        None,  # a clock that is wrong must not keep a device from the certificate that it needs
        settings.fleet,
        manifest.revoked_serials,
        parse_suite(manifest.suite),
    )
    ours = found.device == identity.device and found.verify_key == identity.key.verify_key
    check(ours, "a certificate of another device or key", Reason.BAD_CERTIFICATE)
    now = x509.load_der_x509_certificate(settings.certificate).not_valid_after_utc
    if found.not_after <= now and der != settings.certificate:
        raise PeerFault(Reason.ROLLBACK, "it doesn't last longer than the one in use")
    return b"" if der == settings.certificate else der
