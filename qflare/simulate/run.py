"""One simulation: provision, start the real daemons, watch, collect, report.

Nothing is shared with the daemons but files, sockets and the broker: they are started as a person
or systemd would start them, and killing any of them is a normal event.
"""

import asyncio
import json
import os
import platform
import secrets
import signal
import time
from collections.abc import Coroutine, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qflare import __version__
from qflare.crypto.suites import parse_suite
from qflare.faults import LocalFault
from qflare.host.broker import (
    choose_broker,
    make_credentials,
    start_broker,
    write_credentials,
)
from qflare.host.broker.types import COORDINATOR, DASHBOARD
from qflare.host.link_types import LinkConfig
from qflare.host.supervise import ChildEvent, ChildSpec, ChildState, Supervisor
from qflare.names import DeviceId, FleetId
from qflare.policy import RoundPolicy
from qflare.simulate import data, provision
from qflare.simulate.children import ENVIRONMENT, broker_version, measure, python, run_json
from qflare.simulate.data import Share, folder
from qflare.simulate.data.cache import cache_dir
from qflare.simulate.display import Display, DisplayState, ProcessState
from qflare.simulate.failures import Failures, trouble
from qflare.simulate.knock import knock
from qflare.simulate.monitor import Monitor
from qflare.simulate.options import Options, bounds, policy
from qflare.simulate.provision import Site
from qflare.simulate.report.figures import build
from qflare.simulate.report.model import UNCOUNTED_TASKS, Report

_TELEMETRY_WITHIN_S = 30.0  # after the last round, for the devices' word on the final model
_ABANDONED_MAX = 3  # in a row; then the fleet is not going to finish


@dataclass
class _Progress:
    """What is known of the processes while they run."""

    status: dict[str, ProcessState] = field(default_factory=dict)
    restarts: list[tuple[str, float]] = field(default_factory=list)

    def note(self, event: ChildEvent) -> None:
        old = self.status.get(event.name, ProcessState(event.name, "starting"))
        words = {
            ChildState.STARTING: "restarting" if old.restarts else "starting",
            ChildState.READY: "running",
            ChildState.ENDED: "restarting",
            ChildState.FAILED: "failed",
            ChildState.STOPPED: "stopped",
        }
        restarts = old.restarts
        if event.state is ChildState.ENDED:
            restarts += 1
            self.restarts.append((event.name, time.time()))
        self.status[event.name] = ProcessState(event.name, words[event.state], restarts)


class Simulation:
    """The processes of one run; `run` returns what they did."""

    def __init__(self, options: Options, site: Site, logs: Path, display: Display) -> None:
        self._options = options
        self._site = site
        self._logs = logs
        self._display = display
        self._progress = _Progress()
        self._failures = Failures(logs)
        self._trouble = ""
        self._changed = asyncio.Event()
        self._accuracy: dict[int, float] = {}
        self._loss: dict[int, float] = {}
        self._began = time.time()
        self._broker = ""
        self._failure = ""
        self._supervisor: Supervisor | None = None
        self._cache = cache_dir(site.state / "cache")

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to one of the run's processes, as a person with `kill` would."""
        if self._supervisor is None:
            raise LocalFault("nothing is running")
        self._supervisor.kill(name, number)

    def pid(self, name: str) -> int | None:
        """The process id of one of the run's processes, while it runs."""
        return self._supervisor.pid(name) if self._supervisor else None

    async def run(self) -> Report:
        """Run to the end; raise LocalFault when it can't be finished."""
        options = self._options
        made = policy(options)
        fleet = FleetId.parse(f"sim-{secrets.token_hex(4)}")
        devices, measurement = await asyncio.gather(asyncio.to_thread(self._shares), measure())
        model = options.model_file
        owner = provision.Owner.make(fleet, parse_suite(options.suite))
        names = [device.device for device in devices]
        async with Supervisor(self._logs, self._note) as supervisor:
            self._supervisor = supervisor
            url, passwords = await self._start_broker(supervisor, fleet, names)

            def broker(name: str) -> provision.Table:
                return {"url": url, "password_file": passwords[name]}

            enclave = provision.enclave(self._site, owner, options)
            coordinator = provision.coordinator(
                self._site,
                owner,
                options,
                made,
                bounds(made),
                model,
                measurement,
                broker(COORDINATOR),
            )
            configs = [
                provision.device(self._site, owner, options, device, broker(device.device))
                for device in devices
            ]
            link = LinkConfig(url, DASHBOARD, password_file=passwords[DASHBOARD])
            monitor = Monitor(fleet, link, self._changed.set)
            monitor.start()
            try:
                await self._start_daemons(supervisor, enclave, coordinator, configs)
                await self._watch(supervisor, monitor)
            except LocalFault as fault:
                self._failure = str(fault)
            finally:
                wall_s = time.time() - self._began
                await monitor.stop()
            self._show(monitor, "stopping")
        export = await run_json("coordinator.daemon", "--config", str(coordinator), "export")
        reference, score = None, None
        if self._wants_reference:
            what = "training in plain float, for comparison"
            reference = await self._while_showing(monitor, what, self._reference(made))
        if last := self._last_model(export):
            score = await self._while_showing(monitor, "judging anomalies", self._score(last))
        return build(export, reference, self._facts(wall_s) | {"score": score})

    async def _while_showing(
        self, monitor: Monitor, what: str, work: Coroutine[Any, Any, dict[str, Any] | None]
    ) -> dict[str, Any] | None:
        """The result of `work`, with a display that lives in the meantime."""
        running = asyncio.ensure_future(work)
        try:
            while not running.done():
                self._show(monitor, what)
                await asyncio.wait({running}, timeout=0.5)
            return running.result()
        finally:
            running.cancel()

    def _shares(self) -> Sequence[Share]:
        """What the devices know."""
        options = self._options
        if options.dataset not in data.DATASETS:
            return folder.take(Path(options.dataset), options.devices)
        return data.loader(options.dataset)(self._cache, options.devices, options.seed)

    @property
    def _wants_reference(self) -> bool:
        # Who was invited to which round is the enclave's choice; the plain run has no such choice.
        everybody = self._options.invited == self._options.devices
        return self._options.reference and everybody and not self._failure

    async def _start_broker(
        self, supervisor: Supervisor, fleet: FleetId, names: Sequence[DeviceId]
    ) -> tuple[str, dict[str, Path]]:
        asked = self._options.broker
        credentials = make_credentials([COORDINATOR, DASHBOARD, *names])
        passwords = write_credentials(self._site.state / "passwords", credentials)
        if "://" in asked:
            self._broker = f"external ({asked})"
            await knock(asked, COORDINATOR, passwords[COORDINATOR])
            return asked, passwords
        kind = choose_broker(asked)
        home = self._site.state / "broker"
        plan = await start_broker(supervisor, kind, home, fleet, credentials, len(names))
        self._broker = await broker_version(kind.value, plan.command[0])
        return plan.url, passwords

    async def _start_daemons(
        self,
        supervisor: Supervisor,
        enclave: Path,
        coordinator: Path,
        devices: Sequence[Path],
    ) -> None:
        await supervisor.start(
            ChildSpec(
                "enclave",
                python("enclave.server", "--config", str(enclave)),
                ENVIRONMENT,
                ready=self._socket_is_there,
            )
        )
        await supervisor.start(
            ChildSpec(
                "coordinator",
                python("coordinator.daemon", "--config", str(coordinator)),
                ENVIRONMENT,
            )
        )
        await self.start_fleet(supervisor, devices)

    async def start_fleet(self, supervisor: Supervisor, devices: Sequence[Path]) -> None:
        """Start the devices of these configurations, many in a process."""
        workers = self._options.processes
        for worker in range(workers):
            mine = [f"--config={path}" for path in devices[worker::workers]]
            await supervisor.start(
                ChildSpec(f"fleet-{worker + 1}", python("edge_runtime.fleet", *mine), ENVIRONMENT)
            )

    async def _socket_is_there(self) -> None:
        while not self._site.socket.exists():
            await asyncio.sleep(0.02)

    async def _watch(self, supervisor: Supervisor, monitor: Monitor) -> None:
        failed = asyncio.ensure_future(supervisor.failed())
        done_at: float | None = None
        try:
            while True:
                self._changed.clear()
                nobody = self._look_for_trouble(monitor)
                self._show(monitor)
                run = monitor.metric("run")
                if failed.done():
                    raise failed.result()
                abandoned = int(run.get("abandoned_in_a_row", 0))
                if nobody and abandoned:  # in one round alone, a crash may be the reason
                    raise LocalFault(f"{self._trouble}; mend that, or see {self._logs}")
                if abandoned >= _ABANDONED_MAX:
                    why = f" ({self._trouble})" if self._trouble else ""
                    raise LocalFault(
                        f"{_ABANDONED_MAX} rounds in a row had too few updates{why}; see "
                        f"{self._logs}"
                    )
                if run.get("done"):
                    done_at = done_at or time.monotonic()
                    all_there = int(run.get("telemetry", 0)) >= self._options.invited
                    if all_there or time.monotonic() - done_at > _TELEMETRY_WITHIN_S:
                        return
                changed = asyncio.ensure_future(self._changed.wait())
                await asyncio.wait(
                    {failed, changed}, timeout=0.5, return_when=asyncio.FIRST_COMPLETED
                )
                changed.cancel()
        finally:
            failed.cancel()

    def _look_for_trouble(self, monitor: Monitor) -> bool:
        """Note who could not train in the round that runs; whether nobody could."""
        round_ = monitor.metric("round")
        number, invited = int(round_.get("round", 0)), int(round_.get("invited", 0))
        failed = self._failures.of(number)
        self._trouble = trouble(failed, number, invited) or self._trouble
        return 0 < invited <= len(failed)

    def _note(self, event: ChildEvent) -> None:
        self._progress.note(event)
        self._changed.set()

    def _show(self, monitor: Monitor, phase: str = "") -> None:
        run, round_ = monitor.metric("run"), monitor.metric("round")
        released = int(run.get("released", 0))
        everybody = int(run.get("telemetry", 0)) >= self._options.invited
        if released and everybody and isinstance(run.get("accuracy"), int | float):
            self._accuracy[released] = float(run["accuracy"])
            self._loss[released] = float(run["loss"])
        done = bool(run.get("done"))
        self._display.update(
            DisplayState(
                step=int(round_.get("step", 0)) or 1,
                steps=self._options.rounds,
                phase=phase or ("done" if done else str(round_.get("phase", "starting"))),
                elapsed_s=time.time() - self._began,
                invited=0 if done else int(round_.get("invited", 0)),
                received=int(round_.get("accepted", 0)),
                training=tuple(str(name) for name in round_.get("awaited", ())),
                accuracy=tuple(self._accuracy[step] for step in sorted(self._accuracy)),
                loss=tuple(self._loss[step] for step in sorted(self._loss)),
                counted=self._options.model_file.manifest.task not in UNCOUNTED_TASKS,
                judged=max(self._accuracy, default=0),
                bytes_up=int(run.get("bytes_up", 0)),
                bytes_down=int(run.get("bytes_down", 0)),
                refused=sum(int(n) for n in monitor.metric("refusals").values()),
                trouble=self._trouble,
                processes=tuple(self._progress.status.values()),
            )
        )

    async def _reference(self, made: RoundPolicy) -> dict[str, Any]:
        """The same schedule in plain float arithmetic, in a process of its own."""
        home = self._site.state / "reference"
        home.mkdir(exist_ok=True)
        for device in (self._site.state / "devices").iterdir():
            os.link(device / "samples.npz", home / f"{device.name}.npz")
        (home / "schedule.json").write_text(json.dumps(asdict(made.schedule)))
        final = home / "final"
        result = await run_json(
            "edge_runtime.reference",
            f"--workdir={home}",
            f"--schedule={home / 'schedule.json'}",
            f"--model={self._graph}",
            f"--seed={self._options.seed}",
            f"--weight-cap={made.weight_cap}",
            f"--save={final}",
            "--json",
        )
        return result | {"seconds": result.get("wall_s"), "score": await self._score(final)}

    @property
    def _graph(self) -> Path:
        """The model file that the coordinator started from."""
        return self._site.coordinator / "genesis" / "graph"

    def _last_model(self, export: dict[str, Any]) -> Path | None:
        """The weights that the last round released."""
        models = [r["model"] for r in export["rounds"] if r.get("status") == "released"]
        path = self._site.coordinator / "state" / "models" / str(models[-1] if models else "")
        return path if path.is_file() else None

    async def _score(self, weights: Path) -> dict[str, Any] | None:
        """How well an autoencoder tells the data set's anomalies; None for anything else."""
        if self._options.model_file.manifest.task != "autoencoder":
            return None
        judged = await asyncio.to_thread(data.judgement, self._options.dataset, self._cache)
        if judged is None:
            return None
        path = self._site.state / "judged.npz"
        np.savez(path, x=judged[0], anomalous=judged[1])
        return await run_json(
            "edge_runtime.scoring",
            f"--model={self._graph}",
            f"--weights={weights}",
            f"--data={path}",
            "--json",
        )

    def _facts(self, wall_s: float) -> dict[str, Any]:
        options = self._options
        return {
            "devices": options.devices,
            "rounds": options.rounds,
            "cohort": options.invited,
            "seed": options.seed,
            "dataset": options.dataset,
            "model": options.model,
            "task": options.model_file.manifest.task,
            "parameters": options.model_file.manifest.size,
            "suite": options.suite,
            "codec": options.codec,
            "wall_s": wall_s,
            "started_at": self._began,
            "broker": self._broker,
            "fleet_processes": options.processes,
            "versions": {"qflare": __version__, "python": platform.python_version()},
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
            "restarts": self._progress.restarts,
            "failure": self._failure,
            "command": options.command,
        }
