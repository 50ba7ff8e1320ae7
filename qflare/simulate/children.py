"""The processes of a simulation: how they are started, and what the short ones say."""

import asyncio
import json
import os
import sys
from typing import Any

from qflare.faults import LocalFault, PeerFault
from qflare.names import Digest

ENVIRONMENT = {
    "PYTHONSAFEPATH": "1",
    "PYTHONUNBUFFERED": "1",
    # Many processes on few cores: a thread pool in each would only make them wait for each other.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # glibc's heaps per thread keep what the other threads could use.
    "MALLOC_ARENA_MAX": "1",
}


def python(module: str, *arguments: str) -> tuple[str, ...]:
    """The command that runs one of our modules with this interpreter."""
    return (sys.executable, "-m", module, *arguments)


async def run_json(module: str, *arguments: str) -> dict[str, Any]:
    """Run one of our commands and return the JSON object that it prints."""
    process = await asyncio.create_subprocess_exec(
        *python(module, *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **ENVIRONMENT},
    )
    try:
        out, err = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        raise
    try:
        value = json.loads(out)
    except ValueError:
        value = None
    if process.returncode or not isinstance(value, dict):
        raise LocalFault(f"{module} failed: {err.decode(errors='replace')[-2000:].strip()}")
    return value


async def measure() -> Digest:
    """What the enclave's code measures here; the simulated owner vouches for it."""
    try:
        return Digest.parse(str((await run_json("enclave.measure", "--json"))["measurement"]))
    except (KeyError, PeerFault):
        raise LocalFault("enclave.measure gave no measurement; install qflare again") from None


async def broker_version(kind: str, command: str) -> str:
    """The broker's name and version, as it says itself."""
    flag = "-h" if kind == "mosquitto" else "--version"
    process = await asyncio.create_subprocess_exec(
        command,
        flag,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    words = (out.decode(errors="replace").splitlines() or [""])[0].replace(":", " ").split()
    version = next((w.lstrip("v") for w in words if w.lstrip("v")[:1].isdigit()), "")
    return f"{'nats-server' if kind == 'nats' else kind} {version}".strip()
