"""The training process for real: what it gives, what it may take, and every way it can end."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime import events as ev
from edge_runtime.training import answers, process
from edge_runtime.training.memory import Kills
from edge_runtime.training.messages import (
    EvaluateOrder,
    Evaluation,
    Failed,
    Lost,
    Result,
    Trained,
    TrainOrder,
)
from edge_runtime.training.process import ProcessSettings, environment
from edge_runtime.training.service import Job, ServiceSettings, Training
from edge_runtime.workbench import Workbench
from qflare.faults import LocalFault
from qflare.names import Digest
from tests import models
from tests.edge_lab import POLICY, Lab
from tests.training_kit import bench_in, keep_blobs, order_of

NAME = "private"
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def lab() -> Lab:
    contract = models.contract(NAME)
    start = models.start(NAME).astype("<f4").tobytes()
    return Lab(models.tflite(NAME), start, contract.spec.tensors, contract.rows)


@pytest.fixture
def folder(lab: Lab, tmp_path: Path) -> Path:
    keep_blobs(tmp_path, lab.graph, lab.genesis)
    arrays = {}
    for part, size in (("train", 44), ("test", 25)):
        samples = models.samples(NAME, size, 1)
        arrays[f"x_{part}"] = samples.x * 2 + np.float32(0.5)
        arrays[f"y_{part}"] = samples.y
    np.savez(tmp_path / "data.npz", **arrays)  # type: ignore[arg-type]
    return tmp_path


def order(lab: Lab, folder: Path, number: int, epochs: int = 1) -> TrainOrder:
    schedule = replace(POLICY.schedule, local_epochs=epochs, learning_rate=0.001)
    effect = ev.Train(lab.claims(1), replace(POLICY, schedule=schedule), Digest.of(lab.graph))
    return order_of(effect, bench_in(folder), number=number)


def endless(lab: Lab, folder: Path, number: int) -> TrainOrder:
    """A training that is still on when the test does something to it."""
    return replace(order(lab, folder, number, 1000), bench=replace(bench_in(folder), duty=0.1))


def submit(training: Training, order: TrainOrder) -> Job:
    return training.submit(order, answers.ceiling(Path(order.bench.blobs), order))


def serving(
    body: Callable[[Training], Awaitable[None]], settings: ServiceSettings | None = None
) -> None:
    async def main() -> None:
        training = Training(settings or ServiceSettings())
        await training.start()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await body(training)
        finally:
            await training.close()
        assert training.pid is None

    asyncio.run(main())


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


async def under_way(job: Job) -> None:
    await until(lambda: job.stage == "training")


def pid_of(training: Training) -> int:
    pid = training.pid
    assert pid is not None
    return pid


def failure(result: Result) -> Failed:
    assert isinstance(result, Failed), result
    return result


def test_it_gives_what_the_workbench_gives_and_stays_for_the_next_job(
    lab: Lab, folder: Path
) -> None:
    async def body(training: Training) -> None:
        assert training.pid is None  # it was only tried
        first = await submit(training, order(lab, folder, training.next_job)).result
        pid = pid_of(training)
        wanted = Workbench().do(order(lab, folder, 1))
        assert isinstance(first, Trained)
        assert isinstance(wanted, Trained)
        for name in ("examples", "encoded", "tallies", "residual", "personal"):
            assert getattr(first, name) == getattr(wanted, name)
        check = EvaluateOrder(
            training.next_job, bench_in(folder), Digest.of(lab.graph), Digest.of(lab.genesis)
        )
        assert isinstance(await training.submit(check, 0).result, Evaluation)
        lost = replace(order(lab, folder, training.next_job), model=Digest.of(b"nowhere"))
        assert isinstance(await submit(training, lost).result, Lost)
        assert training.pid == pid

    serving(body)


def test_it_takes_limits_and_no_secrets(
    lab: Lab, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials")
    monkeypatch.setenv("QFLARE_EDGE__BROKER__URL", "mqtt://elsewhere")

    async def body(training: Training) -> None:
        await submit(training, order(lab, folder, training.next_job)).result
        proc = Path(f"/proc/{pid_of(training)}")
        told = (proc / "environ").read_text()
        assert "CREDENTIALS" not in told
        assert "QFLARE_" not in told
        assert "PYTHONSAFEPATH=1" in told
        assert resource.prlimit(pid_of(training), resource.RLIMIT_DATA)[0] == 300 * 2**20
        assert resource.prlimit(pid_of(training), resource.RLIMIT_CORE) == (0, 0)
        own = int(Path("/proc/self/oom_score_adj").read_text())
        assert int((proc / "oom_score_adj").read_text()) == min(1000, own + 500)
        assert os.getpriority(os.PRIO_PROCESS, pid_of(training)) >= 7
        status = (proc / "status").read_text()
        assert "NoNewPrivs:\t1" in status
        maps = (proc / "maps").read_text()
        assert "numpy" in maps
        assert "cryptography" not in maps  # nothing there could sign

    serving(body, ServiceSettings(ProcessSettings(memory_mb=300, nice=7)))


def test_a_training_that_is_held_from_the_start_costs_no_process(lab: Lab, folder: Path) -> None:
    """It isn't sent there before it may go on, so that it opens the data of then."""

    async def body(training: Training) -> None:
        held = submit(training, order(lab, folder, training.next_job))
        held.hold()
        other = submit(training, order(lab, folder, training.next_job))
        assert isinstance(await other.result, Trained)  # it lets others pass
        await training._dismiss()
        await asyncio.sleep(0.2)
        assert (training.pid, held.stage, held.result.done()) == (None, "", False)
        held.resume()
        assert isinstance(await held.result, Trained)
        stopped = submit(training, order(lab, folder, training.next_job))
        stopped.hold()
        await asyncio.sleep(0)
        stopped.stop()
        assert failure(await stopped.result).stopped

    serving(body)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_crash_costs_the_round(lab: Lab, folder: Path, number: signal.Signals) -> None:
    async def body(training: Training) -> None:
        job = submit(training, endless(lab, folder, training.next_job))
        next_job = submit(training, order(lab, folder, training.next_job))
        await under_way(job)
        os.kill(pid_of(training), number)
        failed = failure(await job.result)
        assert f"was killed ({number.name}); the memory may have run out" in failed.reason
        assert "process.memory_mb (now 512)" in failed.reason
        assert isinstance(await next_job.result, Trained)

    serving(body)


def test_a_crash_between_jobs_costs_nothing(lab: Lab, folder: Path) -> None:
    async def body(training: Training) -> None:
        await submit(training, order(lab, folder, training.next_job)).result
        os.kill(pid_of(training), signal.SIGKILL)
        again = submit(training, order(lab, folder, training.next_job))
        result = await again.result
        # If the order was quicker than the news of the end, it is that round which is lost.
        assert isinstance(result, Trained) or "SIGKILL" in failure(result).reason

    serving(body)


def test_a_model_that_was_being_checked_gets_a_second_process(lab: Lab, folder: Path) -> None:
    async def body(training: Training) -> None:
        check = EvaluateOrder(
            training.next_job, bench_in(folder), Digest.of(lab.graph), Digest.of(lab.genesis)
        )
        job = training.submit(check, 0)
        await until(lambda: training.pid)
        os.kill(pid_of(training), signal.SIGKILL)
        assert isinstance(await job.result, Evaluation)

    serving(body)


def test_one_that_stands_still_is_killed_and_one_that_is_held_is_not(
    lab: Lab, folder: Path
) -> None:
    async def body(training: Training) -> None:
        held = submit(training, endless(lab, folder, training.next_job))
        await under_way(held)
        held.hold()
        await asyncio.sleep(2.5)
        assert not held.result.done()
        assert not training.overdue
        steps = held.steps
        await asyncio.sleep(1.2)
        assert held.steps == steps
        held.resume()
        await until(lambda: held.steps > steps)
        os.kill(pid_of(training), signal.SIGSTOP)
        assert "did nothing for 2 s" in failure(await held.result).reason
        assert isinstance(
            await submit(training, order(lab, folder, training.next_job)).result, Trained
        )

    # It tells of its steps once a second at most.
    serving(body, ServiceSettings(hung_after_s=2.0))


def test_a_job_can_be_stopped_at_work_and_while_it_waits(lab: Lab, folder: Path) -> None:
    async def body(training: Training) -> None:
        job = submit(training, endless(lab, folder, training.next_job))
        waiting = submit(training, endless(lab, folder, training.next_job))
        await under_way(job)
        waiting.stop()
        assert failure(await waiting.result).stopped
        pid = pid_of(training)
        job.hold()
        job.stop()
        assert failure(await job.result).stopped
        assert training.pid == pid

    serving(body)


def test_closing_ends_everything_at_any_moment(lab: Lab, folder: Path) -> None:
    async def main() -> None:
        for moment in range(4):
            training = Training(ServiceSettings())
            await training.start()
            job = submit(training, endless(lab, folder, training.next_job))
            waiting = submit(training, endless(lab, folder, training.next_job))
            if moment == 1:
                await until(lambda it=training: it.pid)  # type: ignore[misc]
            elif moment >= 2:
                await under_way(job)
            pid = training.pid
            if moment == 3 and pid:
                os.kill(pid, signal.SIGSTOP)
            await training.close()
            assert failure(await job.result).stopped
            assert failure(await waiting.result).stopped
            assert pid is None or not Path(f"/proc/{pid}").exists()

    asyncio.run(main())


def test_it_goes_when_it_has_nothing_to_do(lab: Lab, folder: Path) -> None:
    async def body(training: Training) -> None:
        await submit(training, order(lab, folder, training.next_job)).result
        pid = pid_of(training)
        await until(lambda: training.pid is None)
        await until(lambda: not Path(f"/proc/{pid}").exists())
        again = await submit(training, order(lab, folder, training.next_job)).result
        assert isinstance(again, Trained)

    serving(body, ServiceSettings(idle_s=0.2))


def test_too_little_memory_is_a_reason(lab: Lab, folder: Path) -> None:
    async def body(training: Training) -> None:
        failed = failure(await submit(training, order(lab, folder, training.next_job)).result)
        assert "process.memory_mb (now 24)" in failed.reason

    serving(body, ServiceSettings(ProcessSettings(memory_mb=24)))


def test_it_does_not_outlive_its_daemon(tmp_path: Path) -> None:
    script = """
        import asyncio, sys
        from edge_runtime.training.process import Process, ProcessSettings

        async def main():
            child, _ = await Process.start(ProcessSettings())
            print(child.pid, flush=True)
            await asyncio.sleep(3600)

        asyncio.run(main())
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        pid = int(daemon.stdout.readline())
        os.kill(pid, signal.SIGTERM)  # the daemon ends it, nobody else
        os.kill(pid, 0)
        daemon.kill()

    def gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    async def wait() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await until(gone)

    asyncio.run(wait())


def speaking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str) -> None:
    """In place of the training process, a script; `line` is its socket."""
    script = tmp_path / "python"
    head = f"""\
        #!{sys.executable}
        import socket, struct, sys, time
        sys.argv[1:] = sys.argv[4:]
        line = socket.socket(fileno=int(sys.argv[1]))
    """
    script.write_text(textwrap.dedent(head) + textwrap.dedent(lines))
    script.chmod(0o755)
    monkeypatch.setattr(process.sys, "executable", str(script))


def start() -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await Training(ServiceSettings()).start()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("lines", "word"),
    [
        ("sys.exit(3)", "ended with status 3"),
        ("line.send(struct.pack('>I', 2**31))", "wanted to say 2147483648 bytes"),
        ("line.send(struct.pack('>I', 3) + b'abc'); time.sleep(60)", "makes no sense"),
        (
            "from edge_runtime.training.messages import *\n"
            "said = Ready((), 'numpy is not installed').to_bytes()\n"
            "line.send(HEAD.pack(len(said)) + said)",
            "numpy is not installed",
        ),
    ],
)
def test_one_that_cannot_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, word: str
) -> None:
    speaking(tmp_path, monkeypatch, lines)
    with pytest.raises(LocalFault, match=word):
        start()


def test_no_interpreter_to_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process.sys, "executable", "/nowhere/python")
    with pytest.raises(LocalFault, match="can't be started"):
        start()


def test_the_environment_keeps_what_is_the_daemons() -> None:
    given = {"PATH": "/bin", "NOTIFY_SOCKET": "/s", "WATCHDOG_PID": "1", "LISTEN_FDS": "1"}
    made: dict[str, Any] = environment(given)
    assert made == {"PATH": "/bin", "PYTHONSAFEPATH": "1", "OPENBLAS_NUM_THREADS": "1"}


@pytest.mark.parametrize("text", ["", "garbage", "oom_kill", "oom_kill x", "oom_kill -1", "\xff"])
def test_kills_that_nobody_counts(tmp_path: Path, text: str) -> None:
    group = tmp_path / "sys/fs/cgroup/system.slice/qflare"
    group.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/system.slice/qflare\n")
    (group / "memory.events").write_text(text)
    assert Kills(tmp_path).count() == 0
    (group / "memory.events").write_text("low 0\noom 2\noom_kill 12\noom_group_kill 0\n")
    assert Kills(tmp_path).count() == 12
    assert Kills(tmp_path / "nothing").count() == 0
