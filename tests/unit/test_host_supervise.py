"""Child processes: ready before use, restarted, ended in order, and never orphaned."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from qflare.faults import LocalFault
from qflare.host.supervise import ChildEvent, ChildSpec, ChildState, Supervisor

SLEEP = ("sleep", "1000")


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)


def run(tmp_path: Path, body: Callable[[Supervisor, list[ChildEvent]], Awaitable[None]]) -> None:
    async def main() -> None:
        events: list[ChildEvent] = []
        async with Supervisor(tmp_path / "logs", events.append) as supervisor:
            await body(supervisor, events)

    asyncio.run(main())


def test_started_killed_restarted_stopped(tmp_path: Path) -> None:
    async def body(supervisor: Supervisor, events: list[ChildEvent]) -> None:
        await supervisor.start(ChildSpec("a", SLEEP))
        first = supervisor.pid("a")
        assert first is not None
        supervisor.kill("a")
        await until(lambda: supervisor.pid("a") not in (None, first))
        await supervisor.stop("a")
        assert supervisor.pid("a") is None
        states = [event.state for event in events]
        assert states == ["starting", "ready", "ended", "starting", "ready", "stopped"]
        assert "SIGKILL" in events[2].detail
        await supervisor.start(ChildSpec("a", SLEEP))  # the name is free again

    run(tmp_path, body)


def test_ready_is_waited_for_and_the_environment_is_given(tmp_path: Path) -> None:
    flag = tmp_path / "flag"

    async def ready() -> None:
        await until(flag.exists)

    async def body(supervisor: Supervisor, events: list[ChildEvent]) -> None:
        code = "import os, pathlib, time; pathlib.Path(os.environ['FLAG']).touch(); time.sleep(99)"
        await supervisor.start(
            ChildSpec("a", python(code), environment={"FLAG": str(flag)}, ready=ready)
        )
        assert flag.exists()

    run(tmp_path, body)


def test_what_ends_while_starting_is_told_with_its_last_words(tmp_path: Path) -> None:
    async def never() -> None:
        await asyncio.sleep(1000)

    async def body(supervisor: Supervisor, events: list[ChildEvent]) -> None:
        spec = ChildSpec("a", python("import sys; sys.exit('no such disk')"), ready=never)
        with pytest.raises(LocalFault, match=r"a exited with 1 while starting.*\n  no such disk"):
            await supervisor.start(spec)
        with pytest.raises(LocalFault, match="cannot run /no/such"):
            await supervisor.start(ChildSpec("b", ("/no/such",)))
        with pytest.raises(LocalFault, match="wasn't ready within"):
            await supervisor.start(ChildSpec("c", SLEEP, ready=never, ready_within_s=0.1))
        assert [supervisor.pid(name) for name in "abc"] == [None] * 3
        await supervisor.start(ChildSpec("a", SLEEP))

    run(tmp_path, body)


def test_a_child_that_keeps_falling_is_given_up(tmp_path: Path) -> None:
    async def body(supervisor: Supervisor, events: list[ChildEvent]) -> None:
        await supervisor.start(
            ChildSpec("a", python("raise SystemExit(3)"), restarts=2, backoff_first_s=0.001)
        )
        fault = await asyncio.wait_for(supervisor.failed(), 20)
        assert "a exited with 3" in str(fault)
        assert sum(event.state is ChildState.ENDED for event in events) == 3
        assert events[-1].state is ChildState.FAILED

    run(tmp_path, body)


def test_a_wrong_configuration_is_not_tried_twice(tmp_path: Path) -> None:
    async def body(supervisor: Supervisor, events: list[ChildEvent]) -> None:
        await supervisor.start(ChildSpec("a", python("raise SystemExit(78)")))
        await asyncio.wait_for(supervisor.failed(), 20)
        assert sum(event.state is ChildState.STARTING for event in events) == 1

    run(tmp_path, body)


def test_the_deaf_are_killed_and_all_end_in_reverse_order(tmp_path: Path) -> None:
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True)"
    deaf += "; time.sleep(99)"
    pids: list[int] = []

    async def body(supervisor: Supervisor, events: list[ChildEvent]) -> None:
        await supervisor.start(ChildSpec("one", SLEEP))
        await supervisor.start(ChildSpec("two", python(deaf), stop_within_s=0.2))
        await until(lambda: supervisor.log_file("two").read_text() != "")
        pids.extend(pid for name in ("one", "two") if (pid := supervisor.pid(name)))
        await supervisor.stop_all()
        stopped = [event.name for event in events if event.state is ChildState.STOPPED]
        assert stopped == ["two", "one"]

    run(tmp_path, body)
    assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_grandchildren_go_too(tmp_path: Path) -> None:
    code = "import subprocess, time; print(subprocess.Popen(['sleep', '999']).pid, flush=True)"
    code += "; time.sleep(99)"
    found: list[int] = []

    async def body(supervisor: Supervisor, events: list[ChildEvent]) -> None:
        await supervisor.start(ChildSpec("a", python(code)))
        await until(lambda: supervisor.log_file("a").read_text().endswith("\n"))
        found.append(int(supervisor.log_file("a").read_text()))

    run(tmp_path, body)
    assert gone(found[0])


def gone(pid: int) -> bool:
    """Has the process ended (a zombie has), soon?"""
    for _ in range(200):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def test_kill_9_of_the_parent_leaves_no_orphans(tmp_path: Path) -> None:
    script = f"""
import asyncio
from pathlib import Path
from qflare.host.supervise import ChildSpec, Supervisor
async def main():
    supervisor = Supervisor(Path({str(tmp_path / "logs")!r}))
    await supervisor.start(ChildSpec("a", {SLEEP!r}))
    print(supervisor.pid("a"), flush=True)
    await asyncio.sleep(1000)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert psutil.pid_exists(child)
        os.kill(parent.pid, signal.SIGKILL)
    assert gone(child)
    run(tmp_path, lambda supervisor, _events: supervisor.start(ChildSpec("a", SLEEP)))
