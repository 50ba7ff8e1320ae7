"""Run the frameworks in turns, each in a process of its own, so that noise hits all alike."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
LOSS_STEPS: Final = 50
WARM_UP: Final = 20
TURN_S: Final = 0.3  # one framework's share of a turn
STEPS: Final = 1000  # in a turn at most
WARM_UP_S: Final = 30  # at most; compilation is in the first steps
PAUSE_S: Final = 0.05  # until the last framework's threads have stopped spinning

CLOSE_S: Final = 20


class Failed(Exception):
    """A child process ended; the last lines that it wrote."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to train one model."""

    side: str
    variant: str
    python: str
    file: Path | None = None

    @property
    def title(self) -> str:
        name = {"qflare": "QFLARE", "tensorflow": "TensorFlow", "torch": "PyTorch"}
        return f"{name.get(self.side, self.side)}, {self.variant}"


@dataclass(slots=True)
class Result:
    """What one way gave; times are microseconds of single steps."""

    way: Way
    losses: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    medians: list[float] = field(default_factory=list)  # of each turn
    memory: dict[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.times)

    @property
    def p90(self) -> float:
        return statistics.quantiles(self.times, n=10)[-1]


def environment(threads: int) -> dict[str, str]:
    """The same number of threads for every library, no chatter and no GPU."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "PYTHONUNBUFFERED": "1"}
    return os.environ | dict.fromkeys(names, str(threads)) | quiet


def command(python: str, module: str, *arguments: object) -> list[str]:
    # Without docstrings, as a device runs Python.
    options = ["-OO"] if module == "device" else []
    return [python, *options, "-m", f"benchmarks.training.{module}", *map(str, arguments)]


def child(python: str, module: str, *arguments: object, threads: int = 1) -> Any:
    """Run a module to its end and return the JSON on its last line; Failed says why not."""
    done = subprocess.run(
        command(python, module, *arguments),
        cwd=ROOT,
        env=environment(threads),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failed("\n".join(done.stderr.strip().splitlines()[-3:]) or f"exit {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


class Worker:
    """A `benchmarks.training.worker` that waits for its next command."""

    def __init__(self, way: Way, model: str, threads: int) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the worker
        arguments = ("--side", way.side, "--model", model, "--variant", way.variant)
        file = ("--file", way.file) if way.file else ()
        self._process = subprocess.Popen(
            command(way.python, "worker", *arguments, "--threads", threads, *file),
            cwd=ROOT,
            env=environment(threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._answer()  # that it is ready

    def ask(self, line: str) -> Any:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except OSError:
            raise Failed(self._last_words()) from None
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed(self._last_words())
        return json.loads(line)

    def _last_words(self) -> str:
        self._errors.seek(0)
        return "\n".join(self._errors.read().strip().splitlines()[-3:])

    def close(self) -> None:
        """Let it end by itself, so that it clears up its temporary files."""
        try:
            self._process.communicate(timeout=CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._errors.close()


@contextmanager
def _workers(
    ways: Sequence[Way], model: str, threads: int
) -> Iterator[tuple[dict[Way, Worker], dict[Way, str]]]:
    """Those that can start and train, warm; and why the others can't."""
    with ExitStack() as stack:
        ready, failed = {}, {}
        for way in ways:
            try:
                worker = Worker(way, model, threads)
                stack.callback(worker.close)
                worker.ask(f"time {WARM_UP} {WARM_UP_S}")
                ready[way] = worker
            except Failed as fault:
                failed[way] = str(fault)
        yield ready, failed


def race(
    ways: Sequence[Way], model: str, threads: int, turns: int
) -> tuple[list[Result], dict[Way, str]]:
    """Losses, times and memory of every way that works, and why the others don't."""
    with _workers(ways, model, threads) as (workers, failed):
        results = {way: Result(way) for way in workers}
        for way, worker in workers.items():
            results[way].losses = worker.ask(f"losses {LOSS_STEPS}")
        for turn in range(turns):
            for way in _rotated(list(workers), turn):
                time.sleep(PAUSE_S)
                found = workers[way].ask(f"time {STEPS} {TURN_S}")
                results[way].times += found
                results[way].medians.append(statistics.median(found))
        for way, worker in workers.items():
            results[way].memory = worker.ask("memory")
    return list(results.values()), failed


def _rotated(ways: list[Way], turn: int) -> Iterable[Way]:
    """Another one begins each time."""
    start = turn % len(ways) if ways else 0
    return ways[start:] + ways[:start]


def start_to_first_step(python: str, *arguments: object, times: int) -> list[float]:
    """Seconds from starting a process to its first step's end, again and again.

    The module that `arguments` names prints when that was, by the system's monotonic clock.
    """
    found = []
    for _ in range(times):
        before = time.monotonic()
        found.append(child(python, *map(str, arguments))["first_step_at"] - before)
    return found


def ask_versions(pythons: dict[str, str]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """What each framework says of itself, and why the others are missing."""
    said, missing = {}, {}
    for side, python in pythons.items():
        try:
            said[side] = child(python, "worker", "--side", side)
        except (Failed, OSError) as fault:
            missing[side] = str(fault).splitlines()[-1] if str(fault) else "doesn't start"
    return said, missing


def default_pythons(tensorflow: str, torch: str) -> dict[str, str]:
    return {
        "qflare": sys.executable,
        "tensorflow": tensorflow,
        "torch": torch,
        "numpy": sys.executable,
    }
