"""The process: performs what the machine says, in order, and durable before seen.

All events go through one queue. A batch is whatever is in it: the machine handles each event, what
is to be written down goes into one transaction, and only then is anything else done.
"""

import argparse
import asyncio
import json
import logging
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from coordinator.config import CoordinatorConfig
from coordinator.database import Store
from coordinator.downlink import Downlink
from coordinator.enclave_link import EnclaveLink
from coordinator.endorsements import endorsed
from coordinator.enrolment.service import Enrolment
from coordinator.enrolment.setup import load_signer, load_terms
from coordinator.events import (
    AnswerInclusion,
    AskEnclave,
    DropUpdate,
    Effect,
    EnclaveDown,
    EnclaveReplied,
    EnclaveRequest,
    EnclaveUp,
    Event,
    FannedOut,
    FinishTransfer,
    KeepBlobs,
    LinkDown,
    LinkUp,
    Log,
    Persist,
    Received,
    RenewCertificate,
    SendBlob,
    StartTransfer,
    Tick,
    TransferFinished,
    WriteChunk,
)
from coordinator.export import database_path, export
from coordinator.machine import CoordinatorMachine
from coordinator.models import ModelStore
from coordinator.requests import AdmittedUpdates, from_wire, to_wire
from coordinator.rollout.service import Fleet, RolloutService
from coordinator.rollout.shelf import Shelf
from coordinator.settings import load_settings
from coordinator.spool import Spool
from qflare import __version__
from qflare.effects import Publish
from qflare.enclave_wire import RoundOpened
from qflare.faults import LocalFault, PeerFault
from qflare.host import logs
from qflare.host.config import ConfigFault, load
from qflare.host.files import ensure_private_dir, take_lock
from qflare.host.link import Connected, Disconnected, Link, LinkConfig, Message, Publication
from qflare.host.link import Event as LinkEvent
from qflare.host.link_log import LinkLines, tell
from qflare.host.notify import notify, watchdog_seconds
from qflare.messages import PartyState, Presence
from qflare.names import Digest, FleetId
from qflare.topics import (
    CoordinatorState,
    Down,
    DownTopic,
    build,
    coordinator_filters,
    enrolment_filter,
)

TICK_S = 1.0
BATCH_MAX = 512  # events handled between two commits
_log = logs.get_logger("coordinator")


class Daemon:
    """Everything that touches the machine's outside."""

    def __init__(self, config: CoordinatorConfig) -> None:
        """Take the state directory's lock, open what is in it, and resume. Raises LocalFault."""
        state_dir = ensure_private_dir(config.coordinator.state_dir)
        busy = f"{state_dir} is in use by another coordinator; stop it first"
        self._lock = take_lock(state_dir / "coordinator.lock", busy)
        self._models = ModelStore(state_dir / "models")
        settings = load_settings(config, self._models, session=time.time_ns() // 1000)
        self._fleet, self._manifest = settings.fleet, settings.manifest_bytes
        self._spool = Spool(state_dir / "spool")
        self._store = Store(database_path(config))
        self._machine = CoordinatorMachine(settings, self._store.load(), time.time())
        self._spool.keep(self._machine.kept_updates())
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._proofs = AdmittedUpdates(0, [])
        self._unsaid: dict[str, Publish] = {}  # retained, and the link's queue was full
        self._enrolment = Enrolment(config, self._tell) if config.enrolment else None
        enrolling = [enrolment_filter(settings.fleet)] if self._enrolment else []
        self._lines = LinkLines()
        self._link = Link(
            _link_config(config),
            subscriptions=[*coordinator_filters(settings.fleet), *enrolling],
            will=self._state(Presence.LOST, settings.session),
            birth=[self._state(Presence.ONLINE, settings.session)],
        )
        self._goodbye = self._state(Presence.STOPPED, settings.session)
        self._downlink = Downlink(
            self._link, self._read_chunk, settings.fleet, lambda m: self._put(FannedOut(m))
        )
        book = self._machine.book
        self._rollout = RolloutService(
            Shelf(state_dir / "rollout"),
            Fleet(
                settings.fleet,
                settings.key,
                book.registry,
                book.limiter,
                self._tell,
                self._downlink.send,
                time.time,
            ),
        )
        self._endorsements = config.enclave.endorsements
        self._enclave = EnclaveLink(
            config.enclave.socket,
            on_up=lambda: self._put(EnclaveUp()),
            on_down=lambda: self._put(EnclaveDown()),
            on_reply=self._on_reply,
        )

    def _state(self, status: Presence, session: int) -> Publication:
        state = PartyState(status, session, __version__[:32], "")
        return Publication(build(CoordinatorState(self._fleet)), state.to_bytes(), retain=True)

    def _put(self, event: Event) -> None:
        self._events.put_nowait(event)

    async def run(self) -> None:
        """Work until SIGTERM or SIGINT; raise LocalFault when this machine can't go on."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        tasks = [
            asyncio.create_task(work)
            for work in (
                self._link.run(self._on_link),
                self._enclave.run(),
                self._downlink.run(),
                self._rollout.run(),
                self._tick(),
                self._work(),
                stop.wait(),
                *([self._enrolment.run()] if self._enrolment else []),
            )
        ]
        notify("READY=1")
        _log.info("coordinator ready", phase=self._machine.book.phase)
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set():
                await self._say_goodbye(tasks[0])
        finally:
            notify("STOPPING=1")
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._store.close()
            if self._enrolment:
                self._enrolment.close()
        for task in done:
            task.result()

    async def _say_goodbye(self, link: asyncio.Task[Any]) -> None:
        """Leave word that we stopped, and take leave of the broker, which else says we are lost."""
        goodbye = self._goodbye
        self._link.publish(goodbye.topic, goodbye.payload, goodbye.retain)
        await self._link.drain(2.0)
        self._link.close()
        await asyncio.wait({link}, timeout=2.0)

    # --- events --------------------------------------------------------------------------------

    def _on_link(self, event: LinkEvent) -> None:
        match event:
            case Message(topic, payload, retained):
                if self._enrolment and self._enrolment.take(topic, payload):
                    return
                if self._rollout.take(topic, payload):
                    return
                self._put(Received(topic, payload, retained))
            case Connected():
                tell(_log, self._lines.connected(event))
                self._put(LinkUp())
                self._rollout.connected()
            case Disconnected():
                tell(_log, self._lines.disconnected(event, time.monotonic()))
                self._put(LinkDown())

    async def _on_reply(self, request: EnclaveRequest, frame: bytes, seconds: float) -> None:
        reply = from_wire(frame, self._models)
        if isinstance(reply, RoundOpened) and self._endorsements is not None:
            reply = endorsed(reply, self._endorsements)
        self._put(EnclaveReplied(request, reply, seconds))

    async def _tick(self) -> None:
        watchdog = watchdog_seconds()
        while True:
            await asyncio.sleep(min(TICK_S, watchdog or TICK_S))
            self._put(Tick())
            notify("WATCHDOG=1")

    # --- effects -------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            batch = [await self._events.get()]
            while len(batch) < BATCH_MAX and not self._events.empty():
                batch.append(self._events.get_nowait())
            effects: list[Effect] = []
            for event in batch:
                effects += self._machine.handle(event, time.time())
            writes = [effect.write for effect in effects if isinstance(effect, Persist)]
            if writes:
                await asyncio.to_thread(self._store.commit, writes)
            for effect in effects:
                self._perform(effect)
            self._say_unsaid()
            await asyncio.sleep(0)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Publish():
                self._publish(effect)
            case AskEnclave(request):
                frame = to_wire(request, self._manifest, self._models, self._spool.read)
                self._enclave.send(request, frame)
            case StartTransfer(device, transfer, size):
                self._spool.start(device, transfer, size)
            case WriteChunk(device, transfer, offset, data):
                self._spool.write(device, transfer, offset, data)
            case FinishTransfer(device, transfer):
                whole = self._spool.finish(device, transfer)
                if whole is not None:
                    self._put(TransferFinished(device, transfer, whole))
            case DropUpdate(device, transfer):
                self._spool.drop(device, transfer)
            case SendBlob(device, blob, indices):
                self._downlink.send(device, blob, indices)
            case RenewCertificate(device):
                if self._enrolment:
                    self._enrolment.renew(device)
            case AnswerInclusion(device, round_, update):
                # Everybody asks about the newest round: its tree is built once.
                if self._proofs.round != round_:
                    self._proofs = AdmittedUpdates(round_, self._store.admitted(round_))
                answer = self._proofs.answer(device, update)
                if answer:
                    topic = build(DownTopic(self._fleet, device, Down.ANSWER))
                    self._publish(Publish(topic, answer.to_bytes()))
            case KeepBlobs(digests):
                self._models.keep(digests)
            case Log(level, event, fields):
                _log.log(logging.getLevelNamesMapping()[level.upper()], event, **fields)

    def _publish(self, publish: Publish) -> None:
        """Hand over to the link; what is retained is said again until it takes it."""
        if publish.retain:
            self._unsaid.pop(publish.topic, None)
        taken = self._link.publish(publish.topic, publish.payload, publish.retain)
        if publish.retain and not taken and self._link.connected:
            self._unsaid[publish.topic] = publish

    def _read_chunk(self, blob: Digest, index: int) -> bytes:
        chunk = self._rollout.read_chunk(blob, index)
        return self._models.read_chunk(blob, index) if chunk is None else chunk

    def _tell(self, topic: str, payload: bytes, retain: bool) -> None:
        """What enrolment and the roll-out have to say."""
        self._publish(Publish(topic, payload, retain))

    def _say_unsaid(self) -> None:
        if not self._link.connected:
            self._unsaid.clear()  # the machine says everything retained again at LinkUp
        for publish in list(self._unsaid.values()):
            self._publish(publish)


def _link_config(config: CoordinatorConfig) -> LinkConfig:
    return LinkConfig(
        url=config.broker.url,
        username=config.broker.username,
        password_file=config.broker.password_file,
        ca_file=config.broker.ca_file,
        protocol=config.broker.protocol,
        backoff_max_s=5.0,
    )


def check(config: CoordinatorConfig) -> None:
    """Read everything that the configuration names; raise LocalFault for what is wrong."""
    FleetId.parse(config.coordinator.fleet)
    load_settings(config, None, session=1)
    if config.enrolment:
        load_terms(config, load_signer(config), time.time())


_EPILOG = """\
examples:
  qflare-coordinator --config /etc/qflare/coordinator.toml           run until SIGTERM
  qflare-coordinator --config /etc/qflare/coordinator.toml --check   read it all, say what is wrong
  qflare-coordinator --config coordinator.toml export > run.json     what happened so far, as JSON

exit codes: 0 stopped as asked, 1 this machine can't go on, 78 the configuration is wrong
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `qflare-coordinator`."""
    parser = argparse.ArgumentParser(
        prog="qflare-coordinator",
        description="Run the rounds of a fleet: offer, collect, release, publish.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="TOML file")
    parser.add_argument("--check", action="store_true", help="check the configuration and exit")
    parser.add_argument("command", nargs="?", choices=["run", "export"], default="run")
    options = parser.parse_args(arguments)
    try:
        config = load(CoordinatorConfig, "coordinator", options.config).value
        if options.command == "export":
            print(json.dumps(export(config), allow_nan=False))
            return 0
        if options.check:
            check(config)
            print(f"{options.config}: all right")
            return 0
        level = logging.getLevelNamesMapping()[config.log.level.upper()]
        logs.configure("coordinator", config.log.format, config.log.file, level)
        with suppress(KeyboardInterrupt):
            asyncio.run(Daemon(config).run())
    except ConfigFault as fault:
        print(f"qflare-coordinator: {fault}", file=sys.stderr)
        return ConfigFault.exit_code
    except (LocalFault, PeerFault, OSError) as fault:
        print(f"qflare-coordinator: {fault}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
