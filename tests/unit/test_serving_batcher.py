"""Who shares a run with whom, with an engine that only counts."""

import asyncio
from typing import Any

import numpy as np
import pytest

from edge_runtime.serving.batcher import Batcher
from edge_runtime.serving.engine import Rows


class Counting:
    """An engine of batch 4 whose output is its input plus its own number; slow ones run in a
    thread until they are let go."""

    batch = 4

    def __init__(self, number: int = 0, quick: bool = True) -> None:
        self.number, self.quick = number, quick
        self.runs: list[list[int]] = []
        self.fail = False

    def run(self, parts: list[Rows]) -> Any:
        self.runs.append([len(part) for part in parts])
        if self.fail:
            raise RuntimeError("out of registers")
        whole = np.concatenate(parts)
        assert len(whole) <= self.batch
        return whole + np.float32(self.number)


def rows(count: int, value: float = 0.0) -> Any:
    return np.full((count, 1), value, np.float32) + np.arange(count, dtype=np.float32)[:, None]


def infer(batcher: Batcher, engine: Counting, given: Any) -> "asyncio.Task[Any]":
    return asyncio.create_task(batcher.infer(engine, given))  # type: ignore[arg-type]


@pytest.mark.parametrize("quick", [True, False])
def test_what_is_there_together_runs_together(quick: bool) -> None:
    async def case() -> None:
        batcher, engine = Batcher(), Counting(1, quick)
        jobs = [infer(batcher, engine, rows(1, 10.0 * i)) for i in range(6)]
        for i, outputs in enumerate(await asyncio.gather(*jobs)):
            assert outputs.tolist() == [[10.0 * i + 1]]
        assert engine.runs == [[1, 1, 1, 1], [1, 1]]
        assert (batcher.runs, batcher.rows) == (2, 6)
        batcher.close()

    asyncio.run(case())


@pytest.mark.parametrize("quick", [True, False])
def test_a_long_request_lets_a_short_one_between(quick: bool) -> None:
    async def case() -> None:
        batcher, engine = Batcher(), Counting(0, quick)
        ended: list[str] = []
        long, short = infer(batcher, engine, rows(41)), infer(batcher, engine, rows(1))
        long.add_done_callback(lambda _: ended.append("long"))
        short.add_done_callback(lambda _: ended.append("short"))
        assert (await long)[:, 0].tolist() == list(range(41))
        assert ended == ["short", "long"]
        assert engine.runs[:2] == [[4], [1, 3]]
        batcher.close()

    asyncio.run(case())


def test_a_request_keeps_the_model_that_it_began_with() -> None:
    async def case() -> None:
        batcher, old, new = Batcher(), Counting(100), Counting(200)
        jobs = [infer(batcher, engine, rows(3)) for engine in (old, new, old, new)]
        found = [int(outputs[0, 0]) for outputs in await asyncio.gather(*jobs)]
        assert found == [100, 200, 100, 200]
        assert all(sum(run) <= 4 for engine in (old, new) for run in engine.runs)
        batcher.close()

    asyncio.run(case())


def test_a_failed_run_fails_its_requests_and_no_others() -> None:
    async def case() -> None:
        batcher, engine = Batcher(), Counting()
        engine.fail = True
        jobs = [infer(batcher, engine, rows(3)) for _ in range(2)]
        for result in await asyncio.gather(*jobs, return_exceptions=True):
            assert isinstance(result, RuntimeError)
        engine.fail = False
        assert len(await infer(batcher, engine, rows(100))) == 100
        batcher.close()

    asyncio.run(case())


def test_who_went_away_is_not_computed_for() -> None:
    async def case() -> None:
        batcher, engine = Batcher(), Counting()
        gone, stays = infer(batcher, engine, rows(4)), infer(batcher, engine, rows(4))
        await asyncio.sleep(0)
        gone.cancel()
        assert len(await stays) == 4
        assert engine.runs == [[4]]
        batcher.close()

    asyncio.run(case())


def test_lingering_gathers_what_comes_a_little_later() -> None:
    async def case() -> None:
        batcher, engine = Batcher(linger_s=0.2), Counting()
        first = infer(batcher, engine, rows(1))
        await asyncio.sleep(0.01)
        second = infer(batcher, engine, rows(1))
        await asyncio.gather(first, second)
        assert engine.runs == [[1, 1]]
        batcher.close()

    asyncio.run(case())
