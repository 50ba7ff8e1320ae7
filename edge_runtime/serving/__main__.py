"""Answer applications until SIGTERM, or until nobody has asked for long enough."""

import argparse
import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from edge_runtime.serving.connection import HEAD_MAX
from edge_runtime.serving.listening import bound, inherited
from edge_runtime.serving.server import LOOK_S, Server
from edge_runtime.serving.settings import Serving, load
from qflare.faults import LocalFault
from qflare.host import logs
from qflare.host.config import ConfigFault
from qflare.host.notify import notify, watchdog_seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 after an end in good order, 78 for a wrong configuration, else 1."""
    parser = argparse.ArgumentParser(prog="qflare-model", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="edge.toml")
    options = parser.parse_args(argv)
    logs.configure("model")
    try:
        serving = load(options.config, os.environ)
        listener = inherited()
        activated = listener is not None
        if listener is None:
            listener = bound(serving.section.socket, serving.section.group_id)
        asyncio.run(_serve(serving, listener, activated))
    except LocalFault as fault:
        sys.stderr.write(f"qflare-model: {fault}\n")
        return ConfigFault.exit_code if isinstance(fault, ConfigFault) else 1
    return 0


async def _serve(serving: Serving, listener: socket.socket, activated: bool) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    server = Server(serving)
    server.models.look()
    await server.models.close()  # the first answer should not have to wait for the model
    listening = await asyncio.start_unix_server(server.accept, sock=listener, limit=HEAD_MAX)
    notify("READY=1")
    idle_s = serving.section.idle_exit_s if activated else 0.0
    try:
        await _watch(server, stopping, idle_s)
    finally:
        notify("STOPPING=1")
        listening.close()
        await server.stop()
    if not activated:
        serving.section.socket.unlink(missing_ok=True)


async def _watch(server: Server, stopping: asyncio.Event, idle_s: float) -> None:
    """Follow the stable path, tell systemd how it goes; return when it is time to end."""
    every = min(watchdog_seconds() or LOOK_S, LOOK_S)
    said = ""
    while not stopping.is_set():
        server.models.look()
        engine = server.models.engine
        says = f"model {engine.slot.model.short}" if engine else "no model yet"
        words = [f"STATUS={says}; {server.connections} connections"]
        notify("WATCHDOG=1", *(words if words != [said] else []))
        said = words[0]
        if idle_s and not server.connections and time.monotonic() - server.asked_at > idle_s:
            return
        try:
            await asyncio.wait_for(stopping.wait(), every)
        except TimeoutError:
            continue


if __name__ == "__main__":
    sys.exit(main())
