"""One device around its machine: performs effects, in order, and brings back what happens."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from time import CLOCK_BOOTTIME, clock_gettime, perf_counter, time
from typing import Any

import msgspec

from edge_runtime import events as ev
from edge_runtime.config import EdgeConfig, machine_settings
from edge_runtime.machine import Machine
from edge_runtime.phases import Phase
from edge_runtime.slots import Slots
from edge_runtime.sources.arrivals import Arrivals
from edge_runtime.storage.opening import SAMPLES, open_store, purpose_key
from edge_runtime.store import BlobGone
from edge_runtime.training import answers
from edge_runtime.training.messages import Bench, EvaluateOrder, TrainOrder
from edge_runtime.training.service import Job, Training
from edge_runtime.upgrade.beside import Beside, receiver
from edge_runtime.upgrade.health import HealthNote
from qflare.effects import Publish
from qflare.faults import LocalFault, PeerFault
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
from qflare.messages import ZERO
from qflare.names import Digest
from qflare.topics import UpChunk, build

TICK_S = 1.0
GOODBYE_S = 2.0  # how long to wait for the broker to take the last words
ENDING_S = 1.0  # and for the connection to end after them


class Device:
    """A machine, its store, its link, and its share of the training process.

    A write that fails ends the process: what is on disk is right, and the next start goes on from
    there. Nothing after the failed effect has happened.
    """

    def __init__(self, config: EdgeConfig, training: Training) -> None:
        """Raise ConfigFault or LocalFault for what this device cannot start with."""
        settings = machine_settings(config)
        self.name = settings.identity.device
        self._identity = settings.identity
        self._training = training
        state = config.device.state_dir
        self._slots = _slots_of(config)
        self._store = open_store(state, config.storage, os.environ)
        self._samples_key = purpose_key(state, config.storage, os.environ, SAMPLES)
        self.configure(config)
        try:
            past = self._store.load()
            if self._slots is not None:
                past = replace(past, refused=self._slots.refused)
            self._machine = Machine(settings, past, perf_counter)
        except PeerFault as fault:
            self._store.close()
            raise LocalFault(
                f"{config.device.state_dir}: stored manifest: {fault}; it is another owner's: "
                "move the directory away to join as a new device"
            ) from None
        will = self._machine.will()
        self._link = Link(
            LinkConfig(
                url=config.broker.url,
                fallbacks=config.broker.fallbacks,
                ca_file=config.broker.ca_file,
                username=str(self.name),
                password_file=config.broker.password_file,
                protocol=config.broker.protocol,
            ),
            subscriptions=self._machine.subscriptions(),
            will=Publication(will.topic, will.payload, will.retain),
        )
        self._probe = build(
            UpChunk(settings.fleet, self.name, settings.identity.certificate, 2**20 - 1)
        )
        self._lines = LinkLines()
        self._health = HealthNote(config.device.state_dir)
        beside = Beside(settings, self._machine, self._link, self._start, self.feed)
        self._updates = receiver(config.device.state_dir, beside)
        self._round: tuple[int, Job] | None = None  # that trains, or waits for its turn
        self._held = self._quiet = ""
        self._jobs: set[asyncio.Task[None]] = set()
        self._closing = self._closed = False
        self._failure: asyncio.Future[None]
        self.turned = _now()  # when the machine last took an event, by a clock that only goes on

    def configure(self, config: EdgeConfig) -> None:
        """Take from a configuration what may change while the device runs, for the next job."""
        self._log = get_logger("device").bind(device=str(self.name))
        training = config.training
        self.arrivals = Arrivals(config.data)
        self._bench = Bench(
            self.name,
            str(blobs_of(config.device.state_dir)),
            str(config.device.state_dir),
            msgspec.json.encode(config.data, enc_hook=str),
            training.insecure_seed,
            float(training.max_seconds),
            float(training.duty),
            self._samples_key,
        )

    @property
    def phase(self) -> Phase:
        return self._machine.phase

    @property
    def online(self) -> bool:
        return self._machine.online

    @property
    def trouble(self) -> str:
        """What keeps the device from its broker, in words."""
        return self._lines.trouble

    @property
    def at_work(self) -> bool:
        """Does a training run that has begun?"""
        begun = self._round is not None and self._round[1].stage not in ("", "preparing")
        return begun and not self._held

    @property
    def machine(self) -> Machine:
        """To be looked at, not to be fed."""
        return self._machine

    @property
    def doing(self) -> str:
        """What the device does, in words."""
        said = str(self.phase)
        if self._round is not None and self.phase is Phase.TRAINING:
            number, job = self._round
            said = f"training round {number}"
            if not job.stage:
                said += ", its turn is yet to come"
            elif job.stage == "training":
                said += f", step {job.steps}"
            else:
                said += f", {job.stage}"
        return f"{said}; paused: {self._held}" if self._held else said

    def hold(self, reason: str) -> None:
        """Let no training go on, for this reason; one that runs pauses and loses nothing."""
        if not self._held:
            self._log.info("training is paused", reason=reason)
        if reason != self._held:
            self.feed(ev.Held(reason))
        self._held = reason
        if self._round is not None:
            self._round[1].hold()

    def resume(self) -> None:
        """Training may go on."""
        if self._held:
            self._log.info("training may go on")
            self.feed(ev.Held(""))
        self._held = ""
        if self._round is not None:
            self._round[1].resume()

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
        self._failure = asyncio.get_running_loop().create_future()
        self._mend_slots()
        ticking = asyncio.create_task(self._tick())
        running = asyncio.create_task(self._link.run(self._on_link))
        tasks: set[asyncio.Future[None]] = {ticking, running, self._failure}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            if self._round is not None:
                self._round[1].stop()
            for task in (*tasks, *self._jobs):
                task.cancel()
            await asyncio.gather(*tasks, *self._jobs, return_exceptions=True)
            self.close()

    def close(self) -> None:
        """Let go of the state directory."""
        if not self._closed:
            self._closed = True
            self._store.close()

    async def stop(self) -> None:
        """End in good order: stop training, say goodbye. Takes GOODBYE_S at most."""
        if not self._closing:
            self.feed(ev.Stop())
            self._closing = True
            await self._link.drain(GOODBYE_S)
            self._link.close()

    def feed(self, event: ev.Event) -> None:
        """Hand one event to the machine and do what it says."""
        if self._closing:
            return
        for effect in self._machine.handle(event, _now()):
            self._perform(effect)
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
                self._start(self._train(effect))
            case ev.StopTraining(round_):
                if self._round is not None and self._round[0] == round_:
                    self._round[1].stop()
            case ev.Evaluate():
                self._start(self._evaluate(effect))
            case ev.Activate() | ev.Refuse() if self._slots is not None:
                self._switch(effect, self._slots)
            case ev.Note(level, event, fields):
                getattr(self._log, level)(event, **dict(fields))

    def _keep(self, blob: Digest, write: Callable[[], None]) -> None:
        try:
            write()
        except BlobGone as fault:
            self._later(ev.BlobLost(blob, str(fault)))

    async def _train(self, effect: ev.Train) -> None:
        claims, policy = effect.claims, effect.policy
        shortage = self._store.shortage()
        if shortage is not None:
            self.feed(ev.TrainingFailed(effect.round, claims.digest, shortage))
            return
        order = TrainOrder(
            self._training.next_job,
            self._bench,
            effect.graph,
            claims.model,
            claims.step,
            policy.schedule,
            policy.codec,
            policy.clip_norm,
            policy.weight_cap,
            self._store.residual(),
            self._store.personal(),
        )
        job = self._training.submit(order, answers.ceiling(Path(self._bench.blobs), order))
        mine = self._round = (effect.round, job)
        if self._held:
            job.hold()
        try:
            result = await job.result
        finally:
            if self._round is mine:
                self._round = None
        self.feed(answers.of_training(result, effect, self._identity))

    def _switch(self, effect: ev.Activate | ev.Refuse, slots: Slots) -> None:
        """What fails here is tried again: nothing else on the device depends on it."""
        try:
            match effect:
                case ev.Activate(model, round_):
                    slots.activate(model, round_, time())
                case ev.Refuse(model, reason):
                    slots.refuse(model, reason)
        except (LocalFault, OSError) as fault:
            self._log.error("slots", model=effect.model.short, detail=str(fault))
            if isinstance(effect, ev.Activate):
                self._later(ev.SlotLost(effect.model, str(fault)))

    def _mend_slots(self) -> None:
        """The model that was accepted last is usable, or it is made so again."""
        model, slots = self._machine.memory.active, self._slots
        if slots is None or model == ZERO or model in slots.refused or slots.sound(model):
            return
        self.feed(ev.SlotLost(model, "its slot is missing or damaged"))

    async def _evaluate(self, effect: ev.Evaluate) -> None:
        mine = self._store.personal()
        number = self._training.next_job
        order = EvaluateOrder(
            number,
            self._bench,
            effect.graph,
            effect.model,
            mine,
            "" if self._slots is None else str(self._slots.link.parent),
        )
        job = self._training.submit(order, 0)
        try:
            result = await job.result
        finally:
            job.stop()
        self.feed(answers.of_evaluation(result, effect))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Work beside the machine; what comes of it is an event that it feeds."""
        task = asyncio.create_task(work)
        self._jobs.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self._jobs.discard(task)
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
        if not self._failure.done():
            self._failure.set_exception(error)

    def _later(self, event: ev.Event) -> None:
        asyncio.get_running_loop().call_soon(self._guard, event)


def _slots_of(config: EdgeConfig) -> Slots | None:
    serving = config.serving
    if not serving.enabled:
        return None
    return Slots(serving.slots_in(config.device.state_dir), serving.group_id)


def blobs_of(state_dir: Path) -> Path:
    """Where the store of this directory keeps its blobs."""
    return state_dir / "blobs"


def _now() -> float:
    """Seconds of a clock that goes on while the machine sleeps, and that nobody sets."""
    return clock_gettime(CLOCK_BOOTTIME)
