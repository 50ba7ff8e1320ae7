"""One device around its machine: performs effects, in order, and brings back what happens."""

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from time import CLOCK_BOOTTIME, clock_gettime, perf_counter, time
from typing import Any

from edge_runtime import certificate_file
from edge_runtime import events as ev
from edge_runtime.activation import Activation
from edge_runtime.ailing import until_begun
from edge_runtime.config import EdgeConfig, machine_settings
from edge_runtime.jobs import Jobs
from edge_runtime.machine import Machine
from edge_runtime.phases import Phase
from edge_runtime.renewal import with_certificate
from edge_runtime.sources.arrivals import Arrivals
from edge_runtime.state import Past
from edge_runtime.storage.opening import SAMPLES, open_store, purpose_key
from edge_runtime.store import GUARD, BlobGone, StoreFault, refused
from edge_runtime.training.service import Training
from edge_runtime.upgrade.beside import Beside, receiver
from edge_runtime.upgrade.health import HealthNote
from qflare import verification
from qflare.effects import Publish
from qflare.faults import LocalFault, PeerFault
from qflare.host.config import ConfigFault
from qflare.host.files import write_atomic
from qflare.host.link import Link
from qflare.host.link_log import LinkLines, tell
from qflare.host.link_types import (
    Connected,
    Disconnected,
    LinkConfig,
    Message,
    Publication,
)
from qflare.host.link_types import Event as LinkEvent
from qflare.host.logs import get_logger
from qflare.messages import Presence
from qflare.names import Digest
from qflare.topics import UpChunk, build

TICK_S = 1.0
GOODBYE_S = 2.0  # how long to wait for the broker to take the last words
ENDING_S = 1.0  # and for the connection to end after them


class Device:
    """A machine, its store, its link, and its share of the training process.

    When a write fails, nothing after it has happened: what is on disk is right, and the machine
    begins anew from there, as after a restart, as soon as the disk takes writes again.
    """

    def __init__(self, config: EdgeConfig, training: Training) -> None:
        """Raise ConfigFault or LocalFault for what this device cannot start with.

        A disk that is full, or one that a device was at work on and that can't be written now, is
        no reason: `run` says so and waits.
        """
        settings = self._settings = machine_settings(config)
        self.name, self.state_dir = settings.identity.device, config.device.state_dir
        self._jobs = Jobs(training, settings.identity)
        self._config = config
        self._log = get_logger("device").bind(device=str(self.name))
        self._samples_key: bytes | None = None
        self._trouble: StoreFault | None = None  # why nothing is done
        self._failure: asyncio.Future[None] | None = None
        self._open = ExitStack()  # the store, while there is one
        self._used = (config.device.state_dir / GUARD).exists()
        try:
            self._begin()
        except StoreFault as fault:
            if isinstance(fault, ConfigFault) and not self._used:
                raise
            self._trouble = fault
            self._machine = Machine(settings, Past(session=0))  # it only gives us our will
            self._link = self._new_link()
        self.configure(config)
        self._probe = build(
            UpChunk(settings.fleet, self.name, settings.identity.certificate, 2**20 - 1)
        )
        self._lines = LinkLines()
        self._health = HealthNote(config.device.state_dir)
        self._quiet = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self.turned = _now()  # when the machine last took an event, by a clock that only goes on

    def _begin(self) -> None:
        """Make everything from what is on the disk; raise StoreFault if that refuses."""
        config, settings = self._config, self._settings
        state = config.device.state_dir
        if self._used and not (state / GUARD).exists():
            raise StoreFault(f"{state}: what was there is gone; is its disk mounted?")
        self._activation = Activation(config)
        store = open_store(state, config.storage, os.environ)
        try:
            past = replace(store.load(), refused=self._activation.refused)
            self._machine = Machine(settings, past, perf_counter, time)
            self._samples_key = purpose_key(state, config.storage, os.environ, SAMPLES)
        except PeerFault as fault:
            store.close()
            raise LocalFault(
                f"{state}: stored manifest: {fault}; it is another owner's: "
                "move the directory away to join as a new device"
            ) from None
        except BaseException:
            store.close()
            raise
        self._open.callback(store.close)
        self._store, self._used, self._trouble = store, True, None
        self._link = self._new_link(self._machine.subscriptions())
        beside = Beside(settings, self._machine, self._link, self._start, self.feed)
        self._updates = receiver(state, beside, config.updates.fetch)
        self._tell_findings()

    def _new_link(
        self, subscriptions: Sequence[str] = (), birth: Sequence[Publication] = ()
    ) -> Link:
        broker, will = self._config.broker, self._machine.will()
        config = LinkConfig(
            url=broker.url,
            fallbacks=broker.fallbacks,
            ca_file=broker.ca_file,
            username=str(self.name),
            password_file=broker.password_file,
            protocol=broker.protocol,
        )
        said = Publication(will.topic, will.payload, will.retain)
        return Link(config, subscriptions=subscriptions, will=said, birth=birth)

    def _tell_findings(self) -> None:
        """What the store had to mend since it was asked last."""
        while self._store.findings:
            self._log.error("storage", detail=self._store.findings.pop(0))

    def configure(self, config: EdgeConfig) -> None:
        """Take from a configuration what may change while the device runs, for the next job."""
        self._config = config
        self._log = get_logger("device").bind(device=str(self.name))
        self.arrivals = Arrivals(config.data)
        self._jobs.configure(config, self._samples_key)

    @property
    def phase(self) -> Phase:
        return Phase.WAITING if self._trouble else self._machine.phase

    @property
    def online(self) -> bool:
        return self._link.connected

    @property
    def trouble(self) -> str:
        """What keeps the device from its broker, in words."""
        return self._lines.trouble

    @property
    def at_work(self) -> bool:
        """Does a training run that has begun?"""
        return self._jobs.at_work

    @property
    def machine(self) -> Machine:
        """To be looked at, not to be fed."""
        return self._machine

    @property
    def doing(self) -> str:
        """What the device does, in words."""
        if self._trouble is not None:
            return f"waiting for its disk: {self._trouble}"
        said = str(self.phase)
        if self.phase is Phase.TRAINING:
            said = self._jobs.doing or said
        return f"{said}; paused: {self._jobs.held}" if self._jobs.held else said

    def hold(self, reason: str) -> None:
        """Let no training go on, for this reason; one that runs pauses and loses nothing."""
        before = self._jobs.held
        if not before:
            self._log.info("training is paused", reason=reason)
        self._jobs.hold(reason)
        if reason != before:
            self.feed(ev.Held(reason))

    def resume(self) -> None:
        """Training may go on."""
        if self._jobs.held:
            self._log.info("training may go on")
            self.feed(ev.Held(""))
        self._jobs.resume()

    def ready(self) -> None:
        """The daemon is ready: an upgrade on trial wants to know."""
        self._health.ready()

    def reconnect(self) -> None:
        """Try the broker now if it is away: whoever asks may have mended what is in the way."""
        self._link.retry_now()

    def keep_quiet(self, reason: str) -> None:
        """Let no chunk move, for this reason; with an empty one they may again."""
        if reason != self._quiet:
            self._quiet = reason
            self.feed(ev.Quiet(reason))

    async def run(self) -> None:
        """Run until `stop`, or until something fails that only a new start can mend."""
        try:
            while not self._closing:
                if self._trouble is None:
                    await self._live()
                else:
                    await self._ail(self._trouble)
        finally:
            self.close()

    async def _live(self) -> None:
        """Until `stop`, or until the disk refuses, which `_trouble` then tells."""
        failure = self._failure = asyncio.get_running_loop().create_future()
        if self._jobs.held:
            self.feed(ev.Held(self._jobs.held))
        if self._quiet:
            self.feed(ev.Quiet(self._quiet))
        missing = self._activation.missing(self._machine.memory.active)
        if missing is not None:
            self.feed(missing)
        ticking = asyncio.create_task(self._tick())
        running = asyncio.create_task(self._link.run(self._on_link))
        tasks: set[asyncio.Future[None]] = {ticking, running, failure}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except StoreFault as fault:
            self._trouble = fault
        finally:
            for task in (*tasks, *self._tasks):
                task.cancel()
            await asyncio.gather(*tasks, *self._tasks, return_exceptions=True)
            self._failure = None
            self.close()

    async def _ail(self, trouble: StoreFault) -> None:
        """Say what is wrong until the disk takes writes again, and begin anew."""
        self.close()
        self._log.error("the disk refuses", detail=str(trouble))
        said = self._machine.presence(Presence.ONLINE, str(trouble))
        birth = Publication(said.topic, said.payload, said.retain)
        link = self._link = self._new_link(birth=[birth])

        def look() -> bool:
            self.turned = _now()
            return self._closing

        await until_begun(link, self._config.device.state_dir, self._begin, look)
        if self._trouble is None:
            self._log.info("the disk takes writes again", session=self._machine.session)
            self.configure(self._config)

    def close(self) -> None:
        """Let go of the state directory."""
        self._open.close()

    async def stop(self) -> None:
        """End in good order: stop training, say goodbye. Takes GOODBYE_S at most."""
        if not self._closing:
            self.feed(ev.Stop())
            if self._trouble is not None:
                said = self._machine.presence(Presence.STOPPED)
                self._link.publish(said.topic, said.payload, said.retain)
            self._closing = True
            await self._link.drain(GOODBYE_S)
            self._link.close()

    def feed(self, event: ev.Event) -> None:
        """Hand one event to the machine and do what it says."""
        if self._closing or self._trouble is not None:
            return
        try:
            for effect in self._machine.handle(event, _now()):
                self._perform(effect)
        except (StoreFault, OSError) as error:
            fault = error if isinstance(error, StoreFault) else refused(self.state_dir, error)
            self._trouble = fault
            self._fail(fault)
        self.turned = _now()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.feed(ev.Tick())
            self._updates.tick(_now(), self._quiet if self.online else "offline")

    def _on_link(self, event: LinkEvent) -> None:
        match event:
            case Message(topic, payload, retained):
                if not self._updates.take(topic, payload, _now()):
                    self.feed(ev.Received(topic, payload, retained))
            case Connected():
                tell(self._log, self._lines.connected(event))
                if not event.dates_checked:
                    self._log.warning(
                        "the clock isn't set: certificates' dates are not checked yet"
                    )
                self._health.online()
                self._updates.reconnect()
                self.feed(ev.LinkUp(self._link.max_payload(self._probe)))
            case Disconnected():
                tell(self._log, self._lines.disconnected(event, _now()))
                self.feed(ev.LinkDown())

    def _perform(self, effect: ev.Effect) -> None:
        match effect:
            case Publish(topic, payload, retain):
                try:
                    self._link.publish(topic, payload, retain)  # False: it will be said again
                except LocalFault as fault:
                    self._log.error("too large for the broker", topic=topic, detail=str(fault))
            case ev.SaveMemory(memory):
                self._store.save_memory(memory)
            case ev.KeepVerification(record):
                with suppress(OSError):  # it is for people: a full disk stops no round over it
                    write_atomic(self.state_dir / verification.FILE, record)
            case ev.UseCertificate(certificate):
                granted = self._config.device.certificate.read_bytes()
                certificate_file.keep(self.state_dir, granted, certificate)
                self._settings = with_certificate(self._settings, certificate)
                self._jobs.identity = self._settings.identity
            case ev.SaveManifest():
                self._store.save_manifest(effect)
            case ev.Commit():
                self._store.commit(effect)
            case ev.Settle():
                self._store.settle(effect)
            case ev.KeepPart(blob, piece, size):
                self._keep(blob, lambda: self._store.blobs.put_by(blob, piece, size))
            case ev.StoreBlob(blob, data, offset):
                self._keep(blob, lambda: self._store.blobs.write(blob, data, offset))
            case ev.KeepBlobs(blobs):
                self._store.blobs.keep(blobs)
            case ev.Train():
                self._start(self._answer(self._jobs.train(effect, self._store)))
            case ev.StopTraining(round_):
                self._jobs.stop(round_)
            case ev.Evaluate():
                slots = self._activation.directory
                self._start(self._answer(self._jobs.evaluate(effect, self._store, slots)))
            case ev.Activate() | ev.Refuse():
                lost = self._activation.perform(effect)
                if lost is not None:
                    self._later(lost)
            case ev.Note(level, event, fields):
                getattr(self._log, level)(event, **dict(fields))

    def _keep(self, blob: Digest, write: Callable[[], None]) -> None:
        try:
            write()
        except BlobGone as fault:
            self._later(ev.BlobLost(blob, str(fault)))

    async def _answer(self, work: Coroutine[Any, Any, ev.Event]) -> None:
        event = await work
        self._tell_findings()
        self.feed(event)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Work beside the machine; what comes of it is an event that it feeds."""
        task = asyncio.create_task(work)
        self._tasks.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            error = None if task.cancelled() else task.exception()
            if error is not None:
                self._fail(error)

        task.add_done_callback(done)

    def _guard(self, event: ev.Event) -> None:
        """Feed an event from a callback, where an exception would only be logged and forgotten."""
        try:
            self.feed(event)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)

    def _later(self, event: ev.Event) -> None:
        asyncio.get_running_loop().call_soon(self._guard, event)


def _now() -> float:
    """Seconds of a clock that goes on while the machine sleeps, and that nobody sets."""
    return clock_gettime(CLOCK_BOOTTIME)
