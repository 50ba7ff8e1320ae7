"""Which devices there are, and which of them are here. Pure.

A device is *here* while it is online, for a while after its link broke, and for a while after ours
came back: a broker that restarts makes everybody look lost, and a round shouldn't end for that.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from qflare.crypto.certificates import DeviceCertificate
from qflare.faults import Reason
from qflare.messages import PartyState, Presence
from qflare.names import DeviceId

LOST_GRACE_S = 10.0
RETURN_GRACE_S = 30.0
DEVICES_MAX = 100_000


@dataclass
class Device:
    """What is known of one device."""

    name: DeviceId
    certificate: DeviceCertificate | None = None  # verified
    der: bytes = field(default=b"", repr=False)
    refused: Reason | None = None  # why its certificate doesn't count
    renewed: tuple[DeviceCertificate, bytes] | None = None  # shown in a round that has the old one
    online: bool = False
    session: int = -1
    heard: float = 0.0
    here_until: float = 0.0  # though it isn't online


class Registry:
    """All devices by name."""

    def __init__(self) -> None:
        self._devices: dict[DeviceId, Device] = {}

    def get(self, name: DeviceId) -> Device | None:
        """The device, if it was ever heard of."""
        return self._devices.get(name)

    def register(self, certificate: DeviceCertificate, der: bytes) -> None:
        """A device showed a certificate that verifies."""
        device = self._entry(certificate.device)
        device.certificate, device.der, device.refused = certificate, der, None

    def defer(self, certificate: DeviceCertificate, der: bytes) -> None:
        """Keep a renewed certificate for the next round: an update stands under the old one."""
        self._entry(certificate.device).renewed = (certificate, der)

    def take_renewed(self) -> list[tuple[DeviceId, bytes]]:
        """Let the renewed certificates count from now on."""
        taken = []
        for device in self._devices.values():
            if device.renewed is not None:
                certificate, der = device.renewed
                device.renewed = None
                self.register(certificate, der)
                taken.append((device.name, der))
        return taken

    def refuse(self, name: DeviceId, reason: Reason) -> None:
        """A device's certificate no longer counts."""
        device = self._entry(name)
        device.certificate, device.refused = None, reason

    def heard(self, name: DeviceId, now: float, session: int | None = None) -> None:
        """A device said something. Only a greeting (with its session) says that it is online:
        the rest may have waited in the broker for a while.
        """
        device = self._devices.get(name)
        if device:
            device.heard = now
            if session is not None:
                device.online, device.session = True, session
            else:
                device.here_until = max(device.here_until, now + LOST_GRACE_S)

    def state(self, name: DeviceId, state: PartyState, retained: bool, now: float) -> None:
        """A device's birth or death; the death of an earlier session says nothing."""
        device = self._devices.get(name)
        if device is None and len(self._devices) >= DEVICES_MAX:
            return
        device = self._entry(name)
        if state.status is Presence.ONLINE:
            device.online, device.session, device.heard = True, state.session, now
        elif device.session in (-1, state.session):
            grace = state.status is Presence.LOST and not retained and device.online
            device.online = False
            device.here_until = now + LOST_GRACE_S if grace else 0.0

    def link_returned(self, now: float) -> None:
        """Our own link is back: whoever was here, or may be, has a while to say so."""
        for device in self._devices.values():
            if device.certificate:
                device.online, device.here_until = False, now + RETURN_GRACE_S

    def online(self) -> list[DeviceId]:
        """Devices that are registered and online, sorted."""
        return sorted(d.name for d in self._devices.values() if d.certificate and d.online)

    def here(self, now: float, among: Iterable[DeviceId] = ()) -> set[DeviceId]:
        """Registered devices that are here, or should be given time; all if `among` is empty."""
        chosen = [self._devices[n] for n in among if n in self._devices] if among else ()
        return {
            d.name
            for d in (chosen if among else self._devices.values())
            if d.certificate and (d.online or now < d.here_until)
        }

    def _entry(self, name: DeviceId) -> Device:
        return self._devices.setdefault(name, Device(name))
