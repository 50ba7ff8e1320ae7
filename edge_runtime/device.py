"""One device around its machine: performs effects, in order, and brings back what happens."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from threading import Event as Flag
from time import perf_counter, time
from typing import Any

from edge_runtime import events as ev
from edge_runtime.config import EdgeConfig, machine_settings
from edge_runtime.machine import Machine
from edge_runtime.phases import Phase
from edge_runtime.store import BlobGone, Store
from edge_runtime.workbench import Bench, Limits, Outcome, TrainJob, Workbench
from qflare.effects import Publish
from qflare.faults import LocalFault, PeerFault
from qflare.host.link import Link
from qflare.host.link_types import (
    Connected,
    Disconnected,
    LinkConfig,
    Message,
    Publication,
)
from qflare.host.link_types import Event as LinkEvent
from qflare.host.logs import get_logger
from qflare.topics import UpChunk, build

TICK_S = 1.0
GOODBYE_S = 2.0  # how long to wait for the broker to take the last words


class Device:
    """A machine, its store, its link, and its share of the worker.

    A write that fails ends the process: what is on disk is right, and the next start goes on from
    there. Nothing after the failed effect has happened.
    """

    def __init__(self, config: EdgeConfig, workbench: Workbench, worker: Executor) -> None:
        """Raise ConfigFault or LocalFault for what this device cannot start with."""
        settings = machine_settings(config)
        self.name = settings.identity.device
        self._log = get_logger("device").bind(device=str(self.name))
        self._workbench, self._worker = workbench, worker
        self._store = Store(config.device.state_dir)
        try:
            past = self._store.load()
            self._machine = Machine(settings, past, perf_counter)
        except PeerFault as fault:
            self._store.close()
            raise LocalFault(
                f"{config.device.state_dir}: stored manifest: {fault}; it is another owner's: "
                "move the directory away to join as a new device"
            ) from None
        self._bench = Bench(
            settings.identity,
            self._store.blobs,
            config.data.path,
            config.training.insecure_seed,
            config.device.state_dir,
            Limits(config.training.max_seconds, config.training.duty),
        )
        will = self._machine.will()
        self._link = Link(
            LinkConfig(
                url=config.broker.url,
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
        self._stops: dict[int, Flag] = {}
        self._jobs: set[asyncio.Future[Any]] = set()
        self._closing = False
        self._failure: asyncio.Future[None]

    @property
    def phase(self) -> Phase:
        return self._machine.phase

    @property
    def online(self) -> bool:
        return self._machine.online

    async def run(self) -> None:
        """Run until `stop`, or until something fails that only a new start can mend."""
        self._failure = asyncio.get_running_loop().create_future()
        ticking = asyncio.create_task(self._tick())
        running = asyncio.create_task(self._link.run(self._on_link))
        tasks: set[asyncio.Future[None]] = {ticking, running, self._failure}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for flag in self._stops.values():
                flag.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, *self._jobs, return_exceptions=True)
            self._store.close()

    async def stop(self) -> None:
        """End in good order: stop training, say goodbye."""
        if not self._closing:
            self.feed(ev.Stop())
            self._closing = True
            await self._link.drain(GOODBYE_S)
            self._link.close()

    def feed(self, event: ev.Event) -> None:
        """Hand one event to the machine and do what it says."""
        if self._closing:
            return
        for effect in self._machine.handle(event, time()):
            self._perform(effect)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.feed(ev.Tick())

    def _on_link(self, event: LinkEvent) -> None:
        match event:
            case Message(topic, payload, retained):
                self.feed(ev.Received(topic, payload, retained))
            case Connected():
                self._log.info("connected", protocol=event.protocol)
                self.feed(ev.LinkUp(self._link.max_payload(self._probe)))
            case Disconnected():
                level = "error" if event.refused else "warning"
                getattr(self._log, level)(
                    "disconnected", reason=event.reason, retry_in_s=round(event.retry_in_s, 1)
                )
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
            case ev.StoreBlob(blob, data):
                try:
                    self._store.blobs.write(blob, data)
                except BlobGone as fault:
                    self._later(ev.BlobLost(blob, str(fault)))
            case ev.KeepBlobs(blobs):
                self._store.blobs.keep(blobs)
            case ev.Train():
                self._train(effect)
            case ev.StopTraining(round_):
                if round_ in self._stops:
                    self._stops[round_].set()
            case ev.Evaluate():
                mine = self._store.personal()
                self._work(partial(self._workbench.evaluate, effect, self._bench, mine))
            case ev.Note(level, event, fields):
                getattr(self._log, level)(event, **dict(fields))

    def _train(self, order: ev.Train) -> None:
        job = TrainJob(order, self._bench, self._store.residual(), self._store.personal())
        self._stops[order.round] = job.stop
        self._work(partial(self._workbench.train, job), order.round)

    def _work(self, job: Callable[[], Outcome], round_: int | None = None) -> None:
        """Queue a job for the worker; what comes of it is the next event."""
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._worker, job)
        self._jobs.add(future)

        def done(future: asyncio.Future[Outcome]) -> None:
            self._jobs.discard(future)
            if round_ is not None:
                self._stops.pop(round_, None)
            if future.cancelled():
                return
            error = future.exception()
            if error is None:
                self._guard(future.result())
            else:
                self._fail(error)

        future.add_done_callback(done)

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
