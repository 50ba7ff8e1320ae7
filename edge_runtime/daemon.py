"""`qflare-edge`: one device, as systemd or a person starts it."""

import argparse
import asyncio
import logging
import os
import signal
import sqlite3
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# numpy's BLAS makes a thread, and memory for it, for every core when it is imported; a device
# multiplies nothing that is large.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# structlog imports rich wherever it is installed, for tracebacks that we never print: 3.5 MB of
# a device's memory. It is hidden while structlog looks for it, and then to be had again.
_HIDDEN = "rich" not in sys.modules
if _HIDDEN:
    sys.modules["rich"] = None  # type: ignore[assignment]

from edge_runtime.config import EdgeConfig, check_certificate, load, machine_settings  # noqa: E402
from edge_runtime.device import Device  # noqa: E402
from edge_runtime.workbench import Workbench  # noqa: E402
from qflare import __version__  # noqa: E402
from qflare.faults import LocalFault  # noqa: E402
from qflare.host import logs  # noqa: E402
from qflare.host.config import ConfigFault  # noqa: E402
from qflare.host.memory import one_heap  # noqa: E402
from qflare.host.notify import notify, watchdog_seconds  # noqa: E402

if _HIDDEN:
    del sys.modules["rich"]

_EXAMPLES = """\
examples:
  qflare-edge --config /etc/qflare/edge.toml           run until SIGTERM
  qflare-edge --config /etc/qflare/edge.toml --check   check configuration, keys and data, and exit

Every key of the file can be set by the environment instead: QFLARE_EDGE__BROKER__URL=mqtt://host
exit status: 0 ended as asked, 1 failed (a new start may help), 78 the configuration is wrong
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one device; return the exit status."""
    one_heap()
    parser = argparse.ArgumentParser(
        prog="qflare-edge",
        description="Take part in a QFLARE fleet: appraise rounds, train, send sealed updates.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="edge.toml")
    parser.add_argument("--check", action="store_true", help="check the configuration and exit")
    parser.add_argument("--version", action="version", version=f"qflare {__version__}")
    arguments = parser.parse_args(argv)
    try:
        config = load(arguments.config, os.environ).value
        if arguments.check:
            check(config)
            sys.stdout.write(f"{arguments.config}: {config.device.name} is ready to run\n")
            return 0
        configure_logs(config)
        serve([config])
    except LocalFault as fault:
        return complain(fault)
    except (OSError, sqlite3.Error) as error:
        return complain(LocalFault(f"{type(error).__name__}: {error}"))
    return 0


def complain(fault: LocalFault) -> int:
    """Say what is wrong on standard error; the exit status that goes with it."""
    sys.stderr.write(f"qflare-edge: {fault}\n")
    return ConfigFault.exit_code if isinstance(fault, ConfigFault) else 1


def check(config: EdgeConfig) -> None:
    """Raise ConfigFault for what `run` would stumble over, without touching the state."""
    check_certificate(config.device, machine_settings(config))
    if not config.data.path.is_file():
        raise ConfigFault(f"{config.data.path}: data.path: no such file; name the samples' file")
    password = config.broker.password_file
    if password is not None and not os.access(password, os.R_OK):
        raise ConfigFault(f"{password}: broker.password_file: cannot be read; check its owner")


def configure_logs(config: EdgeConfig) -> None:
    """Set up logging as this configuration says."""
    log = config.log
    logs.configure("edge", log.format, log.file, getattr(logging, log.level.upper()))


def serve(configs: Sequence[EdgeConfig]) -> None:
    """Run these devices in this process until SIGTERM, SIGINT, or a failure, which is raised."""
    with ThreadPoolExecutor(1, thread_name_prefix="trainer") as worker:
        workbench = Workbench(configs[0].training.threads)
        devices = [Device(config, workbench, worker) for config in configs]
        asyncio.run(_run(devices))


async def _run(devices: Sequence[Device]) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    running = [asyncio.create_task(device.run()) for device in devices]
    stop = asyncio.create_task(stopping.wait())
    status = asyncio.create_task(_report(devices))
    notify("READY=1")
    try:
        done, _ = await asyncio.wait([stop, *running], return_when=asyncio.FIRST_COMPLETED)
        notify("STOPPING=1")
        await asyncio.gather(*(device.stop() for device in devices), return_exceptions=True)
        failed = [task for task in done if task is not stop]
        if failed:
            await failed[0]
        await asyncio.gather(*running)
    finally:
        for task in (stop, status, *running):
            task.cancel()
        await asyncio.gather(stop, status, *running, return_exceptions=True)


async def _report(devices: Sequence[Device]) -> None:
    """Tell systemd that the loop turns, and what it turns at."""
    every = watchdog_seconds()
    while True:
        online = sum(device.online for device in devices)
        phases = sorted({str(device.phase) for device in devices})
        notify(f"STATUS={online} of {len(devices)} online; {', '.join(phases)}", "WATCHDOG=1")
        await asyncio.sleep(min(every or 10.0, 10.0))


if __name__ == "__main__":
    sys.exit(main())
