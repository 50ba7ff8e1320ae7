"""What devices say: greet, offer, send, ask, report. Everything here is untrusted. Pure."""

from datetime import UTC, datetime

from coordinator.acceptance import verify_update
from coordinator.book import Accepted, Book, Phase
from coordinator.events import (
    AnswerInclusion,
    DeviceRegistered,
    DropUpdate,
    Effect,
    FinishTransfer,
    Log,
    Persist,
    Received,
    RenewCertificate,
    ReportStored,
    SendBlob,
    StartTransfer,
    TelemetryStored,
    TransferFinished,
    UpdateStored,
    WriteChunk,
)
from coordinator.limiter import Kind
from coordinator.registry import Device
from coordinator.transfers import Transfer
from qflare.crypto.certificates import DeviceCertificate, verify_device
from qflare.crypto.suites import parse_suite
from qflare.effects import Publish
from qflare.envelope import open_signed
from qflare.faults import PeerFault, Reason
from qflare.messages import CHUNK_MAX, DeviceHello, PartyState, Telemetry, parse_any
from qflare.names import DeviceId, Digest
from qflare.record import check
from qflare.report import DeviceReport
from qflare.topics import (
    CoordinatorState,
    Down,
    DownTopic,
    StateTopic,
    Up,
    UpChunk,
    UpTopic,
    build,
    parse,
)
from qflare.transfer import (
    AskBlob,
    AskConsistency,
    AskInclusion,
    ConsistencyAnswer,
    Grant,
    TransferOffer,
)

_REFUSED_IS_FINAL = frozenset({Reason.REVOKED, Reason.EXPIRED_CERTIFICATE})


def _renewal(certificate: DeviceCertificate, now: float) -> list[Effect]:
    """Renew what is in the last third of its time."""
    first, last = certificate.not_before.timestamp(), certificate.not_after.timestamp()
    return [RenewCertificate(certificate.device)] if now > last - (last - first) / 3 else []


class Intake:
    """Handlers of device messages; each returns effects, and none lets a fault out."""

    def __init__(self, book: Book) -> None:
        self.book = book

    def receive(self, event: Received, now: float) -> list[Effect]:
        """Handle one message from the broker."""
        device: DeviceId | None = None
        try:
            topic = parse(event.topic)
            if isinstance(topic, CoordinatorState):
                return []  # our own, brought back by the filter for states
            if not isinstance(topic, UpTopic | UpChunk | StateTopic):
                raise PeerFault(Reason.WRONG_TOPIC, "not a topic that a device writes")
            device = topic.device
            check(topic.fleet == self.book.settings.fleet, "another fleet", Reason.WRONG_FLEET)
            match topic:
                case StateTopic():
                    return self._state(device, event, now)
                case UpChunk():
                    return self._chunk(topic, event.payload, now)
                case UpTopic(kind=Up.HELLO):
                    return self._hello(device, event.payload, now)
                case UpTopic(kind=Up.OFFER):
                    return self._offer(device, event.payload, now)
                case UpTopic(kind=Up.ASK):
                    return self._ask(device, event.payload, now)
                case UpTopic(kind=Up.REPORT):
                    return self._report(device, event.payload, now)
                case UpTopic():
                    return self._telemetry(device, event.payload, now)
        except PeerFault as fault:
            return self.refused(fault, device, now)

    def refused(self, fault: PeerFault, device: DeviceId | None, now: float) -> list[Effect]:
        """Count a refusal, and say it in the log unless this device fills the log."""
        self.book.refusals[fault.reason] += 1
        if not self.book.limiter.allow(device, Kind.GARBAGE, now):
            return []
        fields = {"device": device, "reason": fault.reason, "detail": fault.detail}
        return [Log("warning", "message refused", fields)]

    def _limit(self, device: DeviceId, kind: Kind, now: float) -> None:
        if not self.book.limiter.allow(device, kind, now):
            raise PeerFault(Reason.RATE_LIMITED, kind)

    # --- presence ------------------------------------------------------------------------------

    def _state(self, device: DeviceId, event: Received, now: float) -> list[Effect]:
        if event.payload:  # nothing at all: somebody cleared the retained message
            state = PartyState.parse(event.payload)
            self.book.registry.state(device, state, event.retained, now)
        return []

    def _hello(self, device: DeviceId, payload: bytes, now: float) -> list[Effect]:
        self._limit(device, Kind.HELLO, now)
        hello = DeviceHello.parse(payload)
        registry = self.book.registry
        known = registry.get(device)
        if known and known.certificate and known.der == hello.certificate:
            registry.heard(device, now, hello.session)
            return _renewal(known.certificate, now)
        try:
            certificate = self.verify_certificate(hello.certificate, now)
            check(certificate.device == device, "certificate of another", Reason.BAD_CERTIFICATE)
        except PeerFault as fault:
            if fault.reason in _REFUSED_IS_FINAL and not (known and known.certificate):
                registry.refuse(device, fault.reason)
            if fault.reason is not Reason.EXPIRED_CERTIFICATE:
                raise
            return [*self.refused(fault, device, now), RenewCertificate(device)]
        if self._stands_under(known, certificate):
            registry.defer(certificate, hello.certificate)
            registry.heard(device, now, hello.session)
            return []
        registry.register(certificate, hello.certificate)
        registry.heard(device, now, hello.session)
        return [
            Persist(DeviceRegistered(device, hello.certificate, now)),
            Log("info", "device registered", {"device": device}),
            *_renewal(certificate, now),
        ]

    def _stands_under(self, known: Device | None, renewed: DeviceCertificate) -> bool:
        """Is there an update in the open round under an earlier certificate of the same key?"""
        current, earlier = self.book.round, known.certificate if known else None
        if current is None or earlier is None or earlier.verify_key != renewed.verify_key:
            return False
        return renewed.device in current.updates

    def take_renewed(self, now: float) -> list[Effect]:
        """Between two rounds: certificates that were shown in the last one count from now on."""
        return [
            Persist(DeviceRegistered(device, der, now))
            for device, der in self.book.registry.take_renewed()
        ]

    def verify_certificate(self, der: bytes, now: float) -> DeviceCertificate:
        """Verify a device certificate by the owner manifest; raise PeerFault."""
        manifest = self.book.settings.manifest
        return verify_device(
            der,
            manifest.device_cas,
            datetime.fromtimestamp(now, UTC),
            manifest.fleet,
            manifest.revoked_serials,
            parse_suite(manifest.suite),
        )

    def _registered(self, device: DeviceId) -> DeviceCertificate:
        found = self.book.registry.get(device)
        if found is None or found.certificate is None:
            raise PeerFault(Reason.UNKNOWN_DEVICE, "it hasn't shown a certificate that verifies")
        return found.certificate

    # --- transfers -----------------------------------------------------------------------------

    def _offer(self, device: DeviceId, payload: bytes, now: float) -> list[Effect]:
        self._limit(device, Kind.OFFER, now)
        offer = TransferOffer.parse(payload)
        found = self.book.registry.get(device)
        if found and found.refused:
            return self._receipt_refused(device, offer, PeerFault(found.refused, "offer"), now)
        self._registered(device)
        self.book.registry.heard(device, now)
        known = self.book.known(device, offer.transfer)
        if known:
            topic, receipt = self.book.receipt(device, offer.transfer, known.round, known.refused)
            return [Publish(topic, receipt)]
        try:
            self._check_offer(device, offer)
        except PeerFault as fault:
            return self._receipt_refused(device, offer, fault, now)
        started = self.book.transfers.offer(device, offer, now)
        effects = [_start(started)] if started else []
        return [*effects, *self.grants(now, device)]

    def _check_offer(self, device: DeviceId, offer: TransferOffer) -> None:
        book, current = self.book, self.book.round
        if current is None or current.number != offer.round or book.phase is not Phase.COLLECTING:
            known = offer.round <= book.last_number
            reason = Reason.ROUND_CLOSED if known else Reason.WRONG_ROUND
            raise PeerFault(reason, f"round {offer.round} is not open")
        cohort = current.offer.cohort if current.offer else ()
        check(not cohort or device in cohort, "not in the cohort", Reason.NOT_INVITED)
        ceiling = book.settings.update_ceiling
        check(offer.size <= ceiling, f"{offer.size} bytes, at most {ceiling}", Reason.TOO_LARGE)
        if device in current.updates:
            raise PeerFault(Reason.DUPLICATE, "this device's update is here already")

    def _receipt_refused(
        self, device: DeviceId, offer: TransferOffer, fault: PeerFault, now: float
    ) -> list[Effect]:
        """Tell the device for good, so that it can drop what will never be taken."""
        topic, receipt = self.book.receipt(device, offer.transfer, offer.round, fault.reason)
        return [*self.refused(fault, device, now), Publish(topic, receipt)]

    def grants(self, now: float, device: DeviceId | None = None) -> list[Effect]:
        """Give out credit that is free."""
        return [
            self._down(to, Down.GRANT, grant)
            for to, grant in self.book.transfers.grants(now, device)
        ]

    def _chunk(self, topic: UpChunk, payload: bytes, now: float) -> list[Effect]:
        book = self.book
        chunk = book.transfers.chunk(topic.device, topic.transfer, topic.index, len(payload), now)
        if chunk is None:
            return []
        book.registry.heard(topic.device, now)
        book.bytes_up += len(payload)
        effects: list[Effect] = [WriteChunk(topic.device, topic.transfer, chunk.offset, payload)]
        if chunk.complete:
            effects.append(FinishTransfer(topic.device, topic.transfer))
            effects += [_start(transfer) for transfer in book.transfers.start_waiting(now)]
        return [*effects, *self.grants(now, topic.device)]

    def finished(self, event: TransferFinished, now: float) -> list[Effect]:
        """An update is whole: accept it, or refuse it and say so."""
        book, current, device = self.book, self.book.round, event.device
        transfer = book.transfers.drop(device)
        drop = DropUpdate(device, event.transfer)
        if transfer is None or transfer.offer.transfer != event.transfer:
            return []  # the round ended meanwhile, and the spool was told
        offer = transfer.offer
        try:
            self._check_offer(device, offer)
            certificate = self._registered(device)
            ends = certificate.not_after.timestamp()
            check(now <= ends, "certificate ended", Reason.EXPIRED_CERTIFICATE)
            if current is None or current.terms is None:
                raise PeerFault(Reason.ROUND_CLOSED, "no round is open")
            verify_update(event.data, event.transfer, device, certificate, current.terms)
        except PeerFault as fault:
            effects = [*self._receipt_refused(device, offer, fault, now), drop]
            if current is None or current.number != offer.round:
                return effects
            if fault.reason not in (Reason.ROUND_CLOSED, Reason.DUPLICATE):
                current.done.add(device)
            current.refused[fault.reason] += 1
            book.remember(device, event.transfer, offer.round, fault.reason)
            stored = UpdateStored(
                offer.round, device, event.transfer, offer.size, fault.reason, now
            )
            return [Persist(stored), *effects]
        current.updates[device] = Accepted(event.transfer, offer.size)
        current.done.discard(device)
        book.remember(device, event.transfer, offer.round, "")
        topic, receipt = book.receipt(device, event.transfer, offer.round, "")
        stored = UpdateStored(offer.round, device, event.transfer, offer.size, "", now)
        return [Persist(stored), Publish(topic, receipt)]

    def tick(self, now: float) -> list[Effect]:
        """Take back grants that led to nothing, and give them out again."""
        given_up, started = self.book.transfers.tick(now)
        return [
            *(DropUpdate(t.device, t.offer.transfer) for t in given_up),
            *(_start(t) for t in started),
            *self.grants(now),
        ]

    # --- questions and reports -----------------------------------------------------------------

    def _ask(self, device: DeviceId, payload: bytes, now: float) -> list[Effect]:
        self._limit(device, Kind.ASK, now)
        self._registered(device)
        self.book.registry.heard(device, now)
        match parse_any(payload, AskBlob, AskInclusion, AskConsistency):
            case AskBlob(blob, indices):
                return self._blob(device, blob, indices)
            case AskInclusion(round_, update):
                current = self.book.round
                known = round_ <= self.book.last_number and (not current or round_ < current.number)
                check(known, f"round {round_} isn't released")
                return [AnswerInclusion(device, round_, update)]
            case AskConsistency(old, new):
                proof = self.book.ledger.consistency(old, new)
                return [self._down(device, Down.ANSWER, ConsistencyAnswer(old, new, proof))]
        return []

    def _blob(self, device: DeviceId, blob: Digest, indices: tuple[int, ...]) -> list[Effect]:
        size = self.book.blobs.get(blob)
        check(size is not None, f"no blob {blob.short}", Reason.WRONG_DIGEST)
        # A blob is followed by an empty chunk: who doesn't know the size sees an end.
        wanted = tuple(dict.fromkeys(i for i in indices if (i - 1) * CHUNK_MAX < (size or 0)))
        if not wanted:  # beyond the end, from somebody who doesn't know where that is
            return []
        sent = sum(min(CHUNK_MAX, max(0, (size or 0) - i * CHUNK_MAX)) for i in wanted)
        self.book.bytes_down += sent
        return [SendBlob(device, blob, wanted)]

    def _telemetry(self, device: DeviceId, payload: bytes, now: float) -> list[Effect]:
        self._limit(device, Kind.TELEMETRY, now)
        book = self.book
        report = open_signed(Telemetry, payload, self._registered(device).verify_key)
        check(report.fleet == book.settings.fleet, "another fleet", Reason.WRONG_FLEET)
        check(report.device == device, f"of {report.device}", Reason.UNKNOWN_DEVICE)
        check(1 <= report.round <= book.last_number, f"no round {report.round}", Reason.WRONG_ROUND)
        check(report.model in book.blobs, "no such model", Reason.WRONG_DIGEST)
        book.registry.heard(device, now)
        if book.last and report.model == book.last.model:
            book.reports[device] = (report.examples, report.correct, report.loss_sum)
        stored = TelemetryStored(
            report.round,
            device,
            report.model,
            report.examples,
            report.correct,
            report.loss_sum,
            report.stages,
            report.counters,
            now,
        )
        return [Persist(stored)]

    def _report(self, device: DeviceId, payload: bytes, now: float) -> list[Effect]:
        self._limit(device, Kind.REPORT, now)
        report = open_signed(DeviceReport, payload, self._registered(device).verify_key)
        check(report.fleet == self.book.settings.fleet, "another fleet", Reason.WRONG_FLEET)
        check(report.device == device, f"of {report.device}", Reason.UNKNOWN_DEVICE)
        self.book.registry.heard(device, now)
        return [Persist(ReportStored(device, report.session, report.number, report.health, now))]

    def _down(self, device: DeviceId, kind: Down, message: Grant | ConsistencyAnswer) -> Publish:
        topic = build(DownTopic(self.book.settings.fleet, device, kind))
        return Publish(topic, message.to_bytes())


def _start(transfer: Transfer) -> Effect:
    return StartTransfer(transfer.device, transfer.offer.transfer, transfer.offer.size)
