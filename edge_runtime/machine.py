"""The device's machine: what happened in, what to do out. No clock, no thread, no file, no socket.

`handle` never raises for what came from outside: a message that breaks a rule is noted with its
reason, counted, and forgotten, and the next honest one works. Every wait has a retry by Tick, and
everything may arrive twice, late, or not at all.
"""

from collections import Counter
from collections.abc import Callable

from edge_runtime import events as ev
from edge_runtime.delivery import Delivery
from edge_runtime.events import Effect, Event
from edge_runtime.memory import Memory, RoundStats
from edge_runtime.phases import TRANSITIONS, Phase
from edge_runtime.releases import Releases
from edge_runtime.renewal import Renewal
from edge_runtime.reporting import Reporting
from edge_runtime.rounds import Rounds
from edge_runtime.state import Past, Settings, State
from edge_runtime.traffic import Bucket
from qflare import __version__, topics
from qflare.crypto.keys import VerifyKey
from qflare.effects import Publish
from qflare.faults import LocalFault, PeerFault, Reason
from qflare.messages import (
    DETAIL_MAX,
    CoordinatorHello,
    DeviceHello,
    PartyState,
    Presence,
    parse_any,
)
from qflare.names import Digest
from qflare.record import check
from qflare.topics import All, Down, StateTopic, Up
from qflare.transfer import ConsistencyAnswer, InclusionAnswer

GREET_FIRST_S = 10.0  # after a greeting; then twice as long each time
GREET_LAST_S = 3600.0


class Machine:
    """One device: feed it events in order, and perform its effects in order."""

    def __init__(
        self,
        settings: Settings,
        past: Past | None = None,
        clock: Callable[[], float] = lambda: 0.0,
        today: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """`clock` counts seconds, and serves only to tell how long appraisal took; `today` is the
        time of day in Unix seconds, by which the dates of evidence are judged.

        Raises PeerFault if the stored manifest isn't the owner's.
        """
        past = past or Past()
        self._state = State(settings, past, clock, today)
        self._rounds = Rounds(self._state)
        self._releases = Releases(self._state, past.refused)
        self._delivery = Delivery(self._state)
        self._reporting = Reporting(self._state)
        self._renewal = Renewal(self._state)
        self._stopping = False
        self._answered = False  # since the last greeting, by anything that is meant for us alone
        self._greet_s, self._greet_at = GREET_FIRST_S, 0.0
        if past.manifest is not None:
            self._state.trust.take_manifest(past.manifest)
        self._delivery.prove()
        self._phase = self.phase

    @property
    def phase(self) -> Phase:
        """What the device is doing about rounds."""
        state = self._state
        if self._rounds.training:
            return Phase.TRAINING
        if self._rounds.fetching:
            return Phase.FETCHING
        if state.appraiser.offer_waits:
            return Phase.APPRAISING
        return Phase.SENDING if len(state.uploads) else Phase.WAITING

    @property
    def online(self) -> bool:
        """Is there a connection to the broker?"""
        return self._state.online

    @property
    def session(self) -> int:
        """Of this run of the device."""
        return self._state.session

    @property
    def counters(self) -> Counter[str]:
        """What happened since the start, by name."""
        return self._state.counters

    @property
    def memory(self) -> Memory:
        """What is remembered, durable or about to be."""
        return self._state.memory

    @property
    def learned(self) -> RoundStats | None:
        """Of the last update that counted, or may yet; None if there was none."""
        return self._state.learned

    @property
    def kbit(self) -> float | None:
        """Kilobits a second that transfers reached lately; None if too little came to tell."""
        return self._state.traffic.meter.kbit(self._state.now)

    @property
    def coordinator_key(self) -> VerifyKey | None:
        """What the coordinator signs with; None until the owner's manifest is here."""
        trust = self._state.trust
        return trust.coordinator_key if trust.ready else None

    @property
    def down_limit(self) -> Bucket:
        """What all chunks together may take of the network on their way down."""
        return self._state.traffic.down

    def subscriptions(self) -> tuple[str, ...]:
        """The filters that this device subscribes to."""
        return topics.device_filters(self._state.settings.fleet, self._state.device)

    def will(self) -> Publish:
        """What the broker says (retained) when the connection is lost."""
        return self._presence(Presence.LOST)

    def presence(self, status: Presence, detail: str = "") -> Publish:
        """How this device stands (retained): what it says itself, unless it can't go on."""
        state = self._state
        topic = topics.build(StateTopic(state.settings.fleet, state.device))
        said = PartyState(status, state.session, __version__[:32], detail[:DETAIL_MAX])
        return Publish(topic, said.to_bytes(), retain=True)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event; return what to do, in order.

        `now` counts seconds by a clock that only goes on, whatever people do to the time of day.
        """
        state = self._state
        state.now, state.out = now, []
        try:
            self._dispatch(event)
            self._settle_down()
        except LocalFault as fault:
            state.counters["local_faults"] += 1
            state.note("error", "local fault", detail=str(fault))
        phase = self.phase
        if phase not in (self._phase, *TRANSITIONS[self._phase]):
            state.counters["odd_transitions"] += 1
            state.note("error", "odd transition", before=self._phase, after=phase)
        self._phase = phase
        return state.out

    def _dispatch(self, event: Event) -> None:
        state = self._state
        match event:
            case ev.Received():
                try:
                    self._receive(event)
                except PeerFault as fault:
                    state.refuse(event.topic[:160], fault)
            case ev.LinkUp(max_payload):
                state.online, state.max_payload = True, max_payload
                self._greet()
            case ev.LinkDown():
                state.online = False
            case ev.TrainingFinished():
                self._rounds.finished(event)
            case ev.TrainingFailed():
                self._rounds.failed(event)
            case ev.Evaluated():
                self._releases.evaluated(event)
                self._releases.keep_blobs(self._rounds.weights)
            case ev.EvaluationFailed():
                self._releases.failed(event)
            case ev.SlotLost():
                self._releases.slot_lost(event)
            case ev.BlobLost():
                self._blob_lost(event)
            case ev.Tick():
                pass
            case ev.Quiet(reason):
                state.traffic.quiet = reason
                state.note("info", "quiet" if reason else "not quiet any more", reason=reason)
            case ev.Held(reason):
                state.held = reason
                if state.online:
                    state.emit(self._presence(Presence.ONLINE))
            case ev.Updating(says):
                state.updating = says
                if state.online:
                    state.emit(self._presence(Presence.ONLINE))
            case ev.Looked(health):
                self._reporting.take(health)
            case ev.Stop():
                self._stop()

    def _settle_down(self) -> None:
        """Whatever has become possible or due; the same after every event."""
        state = self._state
        if self._stopping:
            return
        if state.trust.ready:
            self._rounds.proceed()
            self._releases.proceed()
            ask = state.appraiser.ask(state.now) if state.online else None
            if ask is not None:
                state.say(Up.ASK, ask)
        state.ask_for_blobs()
        self._delivery.tick()
        if self._renewal.use():
            self._answered = False
            self._greet_s, self._greet_at = GREET_FIRST_S / 2, state.now
        if state.online and state.now >= self._greet_at:
            self._say_hello()
        self._reporting.tick()

    def _greet(self) -> None:
        """Own certificate, and everything open again: to whom may know nothing of it."""
        state = self._state
        self._answered, self._greet_s = False, GREET_FIRST_S / 2
        self._say_hello()
        state.downloads.reconnect()
        state.appraiser.reconnect()
        self._delivery.reconnect()
        self._releases.say_again()

    def _say_hello(self) -> None:
        """That we are here, and who we are, unless somebody shows to know: either may be lost."""
        state = self._state
        self._greet_s = min(2 * self._greet_s, GREET_LAST_S)
        self._greet_at = state.now + self._greet_s
        state.emit(self._presence(Presence.ONLINE))
        if not self._answered:
            state.say(Up.HELLO, DeviceHello(state.settings.certificate, state.session))

    def _stop(self) -> None:
        self._stopping = True
        self._rounds.abandon("the device stops")
        if self._state.online:
            self._state.emit(self._presence(Presence.STOPPED))

    def _presence(self, status: Presence) -> Publish:
        state = self._state
        words = (state.held, state.updating, state.settings.notice)
        detail = "; ".join(filter(None, words)) if status is Presence.ONLINE else ""
        return self.presence(status, detail)

    def _receive(self, event: ev.Received) -> None:
        state = self._state
        topic = topics.parse(event.topic)
        check(topic.fleet == state.settings.fleet, "topic of another fleet", Reason.WRONG_FLEET)
        match topic:
            case topics.AllTopic(kind=kind):
                self._from_all(kind, event)
            case topics.DownTopic(device=device, kind=down) if device == state.device:
                self._answered = True
                self._from_coordinator(down, event.payload)
            case topics.DownChunk(device=device) if device == state.device:
                self._answered = True
                self._chunk(topic.transfer, topic.index, event.payload)
            case topics.AllChunk():
                self._chunk(topic.transfer, topic.index, event.payload)
            case topics.CoordinatorState():
                said = PartyState.parse(event.payload)
                state.note("debug", "coordinator", status=said.status, session=said.session)
            case _:
                raise PeerFault(Reason.WRONG_TOPIC, "a topic that is not for this device")

    def _from_all(self, kind: All, event: ev.Received) -> None:
        state, payload = self._state, event.payload
        match kind:
            case All.MANIFEST if payload:
                if state.trust.take_manifest(payload):
                    state.emit(ev.SaveManifest(payload, state.memory))
                    state.note("info", "manifest", version=state.manifest.version)
                    self._rounds.abandon("the owner manifest changed")
            case All.MODEL if payload:
                state.appraiser.put_model(payload)
            case All.OFFER if payload:
                state.appraiser.put_offer(payload)
            case All.OFFER:
                state.appraiser.withdraw_offer()
                self._rounds.abandon("the offer was withdrawn")
            case All.HELLO:
                CoordinatorHello.parse(payload)
                self._greet()
            case _:
                pass  # a retained message was cleared
        self._appraise(event.retained)

    def _appraise(self, retained: bool) -> None:
        """Models before offers: an offer builds on a model."""
        before, appraised = self._state.memory, self._state.trust.verification
        self._releases.appraise(retained, self._rounds.overtaken)
        self._releases.keep_downloads(self._rounds.weights)
        self._delivery.prove()
        if self._state.trust.ready:
            self._rounds.appraise()
        if self._state.memory.checkpoint != before.checkpoint:
            self._state.emit(ev.SaveMemory(self._state.memory))
        found = self._state.trust.verification
        if found is not None and found is not appraised:
            self._state.emit(ev.KeepVerification(found.to_bytes()))

    def _from_coordinator(self, kind: Down, payload: bytes) -> None:
        match kind:
            case Down.GRANT:
                self._delivery.grant(payload)
            case Down.RECEIPT:
                self._delivery.receipt(payload)
            case Down.CERTIFICATE:
                self._renewal.take(payload)
            case Down.ANSWER:
                answer = parse_any(payload, InclusionAnswer, ConsistencyAnswer)
                if isinstance(answer, InclusionAnswer):
                    self._delivery.inclusion(answer)
                else:
                    self._state.appraiser.put_proof(answer)
                    self._appraise(retained=True)

    def _chunk(self, blob: Digest, index: int, payload: bytes) -> None:
        state = self._state
        asked = state.downloads.asked_at(blob, index)
        if asked is not None:
            state.traffic.meter.add(len(payload), asked, state.now)
        piece = state.downloads.take(blob, index, payload, state.now)
        if piece is None:
            return
        if not piece.last:
            state.emit(ev.KeepPart(blob, piece, state.size_of(blob)))
            return
        state.have.add(blob)
        state.counters["blobs_fetched"] += 1
        state.emit(ev.StoreBlob(blob, piece.data, piece.offset))

    def _blob_lost(self, event: ev.BlobLost) -> None:
        state = self._state
        state.lose(event.blob)
        state.counters["blobs_lost"] += 1
        state.note("error", "blob lost", blob=event.blob.short, reason=event.reason)
        self._rounds.blob_lost(event)
        self._releases.blob_lost()
