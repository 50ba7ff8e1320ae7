"""Slots with models in them, and a server over them, for the tests of what applications use."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from edge_runtime.serving.export import application_file
from edge_runtime.slots import SlotManifest, Slots
from qflare.host.model import read_model
from qflare.host.typed import tree_of
from qflare.names import Digest

MODELS = Path(__file__).parent / "models"
ROOT = Path(__file__).parents[1]
PATIENCE_S = 60.0


def file_of(model: Digest) -> bytes:
    """Stands for an application's file where nobody runs it."""
    return b"file of " + model.raw


def manifest_of(model: Digest, correct: int = 0) -> SlotManifest:
    return SlotManifest(
        model=str(model),
        graph="0" * 64,
        file=str(Digest.of(file_of(model))),
        name="tiny",
        version=1,
        task="classification",
        input={},
        output=[2],
        classes=["a", "b"],
        batch=4,
        examples=10,
        correct=correct,
    )


def weights_of(number: int, path: Path) -> bytes:
    """Weights that differ with the number."""
    start = np.frombuffer(read_model(path.read_bytes()).weights, "<f4")
    noise = np.random.default_rng(number).normal(0, 0.3, len(start))
    return (start + noise).astype("<f4").tobytes()


def put_model(
    slots: Slots, number: int, path: Path = MODELS / "classifier.tflite", *, active: bool = True
) -> tuple[Digest, bytes]:
    """Stage a real model with weights of its own, and activate it; its digest and its file."""
    tflite, weights = path.read_bytes(), weights_of(number, path)
    it = read_model(tflite).manifest
    model, file = Digest.of(weights), application_file(tflite, weights)
    manifest = SlotManifest(
        model=str(model),
        graph=str(Digest.of(tflite)),
        file=str(Digest.of(file)),
        name=it.name,
        version=it.version,
        task=it.task,
        input=tree_of(it.input),
        output=list(it.output),
        classes=list(it.classes),
        batch=it.batch,
        examples=64,
        correct=60,
        loss_sum=4.0,
    )
    slots.stage(model, file, manifest)
    if active:
        slots.activate(model, number, float(number))
    return model, file


def write_config(folder: Path, *lines: str) -> Path:
    """An edge.toml as the server reads it; the socket is `model.sock` beside it."""
    path = folder / "edge.toml"
    text = [
        "[device]",
        'state_dir = "state"',
        'name = "pump-1"',  # other parts' settings, which aren't the server's to judge
        "[broker]",
        'url = "mqtt://nowhere"',
        "[serving]",
        'socket = "model.sock"',
        *lines,
    ]
    path.write_text("\n".join(text) + "\n")
    return path


@contextmanager
def server_process(config: Path, **environ: str) -> Iterator["subprocess.Popen[str]"]:
    """The server as it runs on a device, until the block ends; ready when it is given."""
    command = [sys.executable, "-m", "edge_runtime.serving", "--config", str(config)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | environ, text=True, stderr=subprocess.PIPE
    )
    try:
        wait_for(config.parent / "model.sock", process)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        finally:
            process.kill()
            assert process.stderr is not None
            process.stderr.close()


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    patience = time.monotonic() + PATIENCE_S
    while not path.is_socket():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < patience, f"{path} does not appear"
        time.sleep(0.01)


async def exchange(path: Path, data: bytes) -> bytes:
    """Send bytes, whatever they are, and read until the server closes."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(data)
    writer.write_eof()
    try:
        return await reader.read()
    finally:
        writer.close()
