"""A daemon that takes releases into its slots, beside the server that applications ask."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.interpreter import open_interpreter
from edge_runtime.serving.client import ModelClient
from edge_runtime.slots import Slots, read_slot
from qflare.names import Digest
from qflare.topics import All
from tests.e2e.conftest import RunningBroker, WithBroker
from tests.e2e.test_edge_process import ROOT, count, desk, device, until, write_device
from tests.edge_lab import Lab
from tests.serving_rig import server_process

pytestmark = pytest.mark.slow


def weights(lab: Lab, scale: float) -> bytes:
    return (np.frombuffer(lab.genesis, "<f4") * np.float32(scale)).tobytes()


def linked(config: Path) -> str:
    try:
        return (config.parent / "state/model/active").readlink().name
    except OSError:
        return ""


def test_releases_reach_applications(with_broker: WithBroker, tmp_path: Path) -> None:
    async def body(broker: RunningBroker) -> None:
        lab = Lab.with_zoo()
        config = write_device(tmp_path, lab, broker)
        config.write_text(
            config.read_text() + '\n[serving]\nsocket = "model.sock"\nmin_examples = 1\n'
        )
        first, second, bad, third = (weights(lab, s) for s in (1.0, 0.99, float("nan"), 0.98))
        async with desk(broker, lab) as it:
            it.blobs |= {Digest.of(w): w for w in (first, second, bad, third)}
            it.to_all(All.MODEL, lab.release(1, first))
            async with device(config):
                await until(lambda: linked(config) == str(Digest.of(first)))
                with server_process(config):
                    client = ModelClient(tmp_path / "model.sock")
                    rows = np.zeros((3, 128, 6), np.float32)
                    await asyncio.to_thread(client.infer, rows)
                    assert client.model == str(Digest.of(first))
                    it.to_all(All.MODEL, lab.release(2, second))
                    await until(lambda: linked(config) == str(Digest.of(second)))
                    await until(lambda: ask(client, rows) == str(Digest.of(second)))
                    it.to_all(All.MODEL, lab.release(3, bad))
                    await until(lambda: count(config, "model refused") == 1)
                    assert linked(config) == str(Digest.of(second))
                    assert ask(client, rows) == str(Digest.of(second))
                    client.close()
            slots = Slots(tmp_path / "state/model")
            assert slots.refused == {Digest.of(bad)}
            (slots.link.resolve() / "model.tflite").write_bytes(b"rot")
            async with device(config):  # finds the refusal, and the slot that rots
                await until(lambda: count(config, "slot lost") == 1)
                it.to_all(All.MODEL, lab.release(4, third))
                await until(lambda: linked(config) == str(Digest.of(third)))
                assert count(config, "model refused") == 1
                slot = read_slot(slots.link)
                runner = open_interpreter(slot.read()).get_signature_runner("infer")
                assert np.isfinite(runner(x=np.zeros((16, 128, 6), np.float32))["output"]).all()
                assert slot.manifest.examples == 20

    with_broker(body)


def ask(client: ModelClient, rows: np.ndarray) -> str:
    client.infer(rows)
    return client.model


def test_a_technician_rolls_back_while_it_runs(with_broker: WithBroker, tmp_path: Path) -> None:
    async def body(broker: RunningBroker) -> None:
        lab = Lab.with_zoo()
        config = write_device(tmp_path, lab, broker)
        first, second, third = (weights(lab, s) for s in (1.0, 0.99, 0.98))
        async with desk(broker, lab) as it:
            it.blobs |= {Digest.of(w): w for w in (first, second, third)}
            async with device(config) as process:
                for number, release in enumerate((first, second), 1):
                    it.to_all(All.MODEL, lab.release(number, release))
                    await until(lambda r=release: linked(config) == str(Digest.of(r)))
                command = [sys.executable, "-m", "qflare.cli", "slots", "--config", str(config)]
                await asyncio.to_thread(
                    subprocess.run, [*command, "rollback"], cwd=ROOT, check=True, env=os.environ
                )
                assert linked(config) == str(Digest.of(first))
                process.kill()
            async with device(config):
                await until(lambda: count(config, "connected") == 2)
                await asyncio.sleep(1.0)
                assert linked(config) == str(Digest.of(first))
                it.to_all(All.MODEL, lab.release(3, third))
                await until(lambda: linked(config) == str(Digest.of(third)))

    with_broker(body)
