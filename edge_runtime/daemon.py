"""`qflare-edge`: one device, as systemd or a person starts it."""

import argparse
import asyncio
import logging
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# structlog imports rich wherever it is installed, for tracebacks that we never print: 3.5 MB of
# a device's memory. It is hidden while structlog looks for it, and then to be had again.
_HIDDEN = "rich" not in sys.modules
if _HIDDEN:
    sys.modules["rich"] = None  # type: ignore[assignment]

from edge_runtime.config import EdgeConfig, check_certificate, load, machine_settings  # noqa: E402
from edge_runtime.device import ENDING_S, GOODBYE_S, Device  # noqa: E402
from edge_runtime.reloading import Reloading, training_settings  # noqa: E402
from edge_runtime.standing import Standing  # noqa: E402
from edge_runtime.training.service import Training  # noqa: E402
from edge_runtime.watch import Watch  # noqa: E402
from qflare import __version__  # noqa: E402
from qflare.faults import LocalFault  # noqa: E402
from qflare.host import logs  # noqa: E402
from qflare.host.config import ConfigFault  # noqa: E402
from qflare.host.memory import one_heap  # noqa: E402
from qflare.host.notify import notify  # noqa: E402

if _HIDDEN:
    del sys.modules["rich"]

_EXAMPLES = """\
examples:
  qflare-edge --config /etc/qflare/edge.toml           run until SIGTERM
  qflare-edge --config /etc/qflare/edge.toml --check   check configuration, keys and data, and exit

Every key of the file can be set by the environment instead: QFLARE_EDGE__BROKER__URL=mqtt://host
SIGHUP reads the file again, and says what of it needs a new start.
exit status: 0 ended as asked, 1 failed (a new start may help), 78 the configuration is wrong
"""

_STOP_S = 2 * (GOODBYE_S + ENDING_S)  # what a stop may take, with a slow disk at its end


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
        serve(lambda: [load(arguments.config, os.environ).value])
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
    if config.data.kind == "npz" and not config.data.path.exists():
        raise ConfigFault(f"{config.data.path}: data.path: no such file; name the samples' file")
    password = config.broker.password_file
    if password is not None and not os.access(password, os.R_OK):
        raise ConfigFault(f"{password}: broker.password_file: cannot be read; check its owner")


def configure_logs(config: EdgeConfig) -> None:
    """Set up logging as this configuration says."""
    log = config.log
    logs.configure("edge", log.format, log.file, getattr(logging, log.level.upper()))


def serve(read: Callable[[], list[EdgeConfig]]) -> None:
    """Run the devices of these configurations in this process until SIGTERM, SIGINT, or a failure.

    A failure is raised. `read` is called again when the configuration is to be read again.
    """
    asyncio.run(_serve(read))


async def _serve(read: Callable[[], list[EdgeConfig]]) -> None:
    configs = read()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    training = Training(training_settings(configs[0]))
    devices: list[Device] = []
    try:
        devices += (Device(config, training) for config in configs)
        watch = Watch(configs[0], devices, training, time.time)
        reloading = Reloading(read, configs, devices, training, watch, configure_logs)
        # A reload that is asked for too early would end the process, without a handler.
        loop.add_signal_handler(signal.SIGHUP, reloading.now)
        await training.start()
        await watch.look()  # before the first round: until then every gate counts as open
        await _run(devices, training, watch, stopping)
    finally:
        await training.close()
        for device in devices:
            device.close()


async def _run(
    devices: Sequence[Device], training: Training, watch: Watch, stopping: asyncio.Event
) -> None:
    running = [asyncio.create_task(device.run()) for device in devices]
    stop = asyncio.create_task(stopping.wait())
    standing: asyncio.Task[None] = asyncio.create_task(Standing(devices, training).tell())
    watching = asyncio.create_task(watch.run())
    notify("READY=1", "STATUS=ready")
    for device in devices:
        device.ready()
    try:
        watched = [stop, standing, watching, *running]
        await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        for task in (standing, watching):
            if task.done():
                await task
        notify("STOPPING=1", "STATUS=stopping", f"EXTEND_TIMEOUT_USEC={_STOP_S * 1_000_000:.0f}")
        # The last words go out while the training process, which has none, is ended.
        goodbyes = asyncio.gather(*(device.stop() for device in devices), return_exceptions=True)
        await training.close()
        await goodbyes
        await asyncio.wait(running, timeout=ENDING_S)
        for task in running:
            if task.done():
                task.result()
    finally:
        stop.cancel()
        for task in (standing, watching, *running):
            task.cancel()
        await asyncio.gather(stop, standing, watching, *running, return_exceptions=True)


if __name__ == "__main__":
    sys.exit(main())
