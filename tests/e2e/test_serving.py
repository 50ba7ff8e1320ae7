"""Applications ask the model over the socket while it is trained and while it is switched."""

import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.interpreter import open_interpreter
from edge_runtime.serving.client import ModelClient, ModelError
from edge_runtime.slots import Slots
from qflare.host.model import read_model
from tests.serving_rig import MODELS, ROOT, put_model, server_process, write_config

ZOO = ROOT / "qflare/zoo"


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    return Slots(tmp_path / "state" / "model")


def test_an_application_gets_what_the_model_says(slots: Slots, tmp_path: Path) -> None:
    path = ZOO / "watch_cnn/watch_cnn.tflite"
    model, file = put_model(slots, 1, path)
    with server_process(write_config(tmp_path)), ModelClient(tmp_path / "model.sock") as client:
        says = client.metadata()
        mean, scale = np.float32(says["input"]["mean"]), np.float32(says["input"]["scale"])
        shape = says["input"]["shape"]
        rows = np.random.default_rng(1).normal(mean, scale, (40, *shape)).astype(np.float32)
        outputs = client.infer(rows)
        assert client.model == str(model)
        runner = open_interpreter(file).get_signature_runner("infer")
        scaled = (rows - mean) / scale
        for start in (0, 16):
            wanted = runner(x=scaled[start : start + 16])["output"]
            np.testing.assert_allclose(outputs[start : start + 16], wanted, atol=1e-6)
        assert outputs.shape == (40, len(says["classes"]))
        np.testing.assert_allclose(outputs.sum(axis=1), 1, atol=1e-5)
        status = client.status()
        assert status["model"] == str(model)
        assert (status["round"], status["since"]) == (1, 1.0)
        assert status["use"]["rows"] == 40


def test_nothing_is_lost_while_it_trains_and_switches(slots: Slots, tmp_path: Path) -> None:
    """Thousands of requests during ten switches: none fails, and none is of a model that wasn't
    active between its beginning and its end, or the moment before."""
    files = dict([put_model(slots, 0)])
    history = [(time.monotonic(), next(iter(files)))]
    rows = np.random.default_rng(1).normal(0, 1, (24, 6)).astype(np.float32)
    answers: list[tuple[float, float, str, int, np.ndarray]] = []
    failures: list[BaseException] = []
    done = threading.Event()

    def ask(which: int) -> None:
        random = np.random.default_rng(which)
        try:
            with ModelClient(tmp_path / "model.sock") as client:
                while not done.is_set():
                    count = int(random.integers(1, 24))
                    began = time.monotonic()
                    outputs = client.infer(rows[:count])
                    answers.append((began, time.monotonic(), client.model, count, outputs))
        except BaseException as error:
            failures.append(error)

    command = [sys.executable, "-c", TRAINING, str(MODELS / "classifier.tflite")]
    with server_process(write_config(tmp_path)):
        training = subprocess.Popen(command, cwd=ROOT)
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        try:
            for number in range(1, 11):
                goal = len(answers) + 300
                patience = time.monotonic() + 60
                while len(answers) < goal and not failures and time.monotonic() < patience:
                    time.sleep(0.005)
                assert training.poll() is None, "the training ended too soon"
                model, file = put_model(slots, number, active=False)
                files[model] = file
                slots.activate(model, number, float(number))
                history.append((time.monotonic(), model))
            goal = len(answers) + 300
            while len(answers) < goal and not failures and time.monotonic() < patience:
                time.sleep(0.005)
        finally:
            done.set()
            for thread in threads:
                thread.join()
            training.kill()
            training.wait()
    assert not failures
    assert len(answers) >= 3000
    wanted = {str(model): outputs_of(file, rows) for model, file in files.items()}
    names = [str(model) for _, model in history]
    assert {model for _, _, model, _, _ in answers} == set(names)
    for began, ended, model, count, outputs in answers:
        np.testing.assert_allclose(outputs, wanted[model][:count], atol=1e-6)
        i = names.index(model)
        assert history[i][0] <= ended + 1.0  # it is active from a moment before it is noted
        if i + 2 < len(history):  # a switch is followed while the next one is far away
            assert began <= history[i + 2][0]


def outputs_of(file: bytes, rows: np.ndarray) -> np.ndarray:
    runner, parts = open_interpreter(file).get_signature_runner("infer"), []
    says = read_model(file).manifest.input
    rows = (rows - np.float32(says.mean)) / np.float32(says.scale)
    for start in range(0, len(rows), 8):
        parts.append(runner(x=rows[start : start + 8])["output"])
    return np.concatenate(parts)


TRAINING = """
import sys
from pathlib import Path
import numpy as np
from edge_runtime.contract import parse_contract
from edge_runtime.sources.base import Samples
from edge_runtime.trainer import Plan, Trainer
from qflare.host.model import read_model
tflite = Path(sys.argv[1]).read_bytes()
trainer = Trainer(parse_contract(tflite), tflite)
x = np.random.default_rng(1).normal(0, 1, (512, 6)).astype("float32")
y = (x[:, 0] > 0).astype("int32")
start = np.frombuffer(read_model(tflite).weights, "<f4")
while True:
    trainer.train(start, Samples(x, y), Plan(0.01, 5, 1))
"""


def test_it_waits_for_the_first_model(slots: Slots, tmp_path: Path) -> None:
    with server_process(write_config(tmp_path)), ModelClient(tmp_path / "model.sock") as client:
        with pytest.raises(ModelError, match="wait until a model") as caught:
            client.infer(np.zeros((1, 6), np.float32))
        assert caught.value.status == 503
        assert client.status()["model"] is None
        model, _ = put_model(slots, 1)
        patience = time.monotonic() + 30
        while client.status()["model"] is None and time.monotonic() < patience:
            time.sleep(0.05)
        client.infer(np.zeros((1, 6), np.float32))
        assert client.model == str(model)


def test_a_damaged_model_leaves_the_one_that_answers(slots: Slots, tmp_path: Path) -> None:
    one, _ = put_model(slots, 1)
    with server_process(write_config(tmp_path)), ModelClient(tmp_path / "model.sock") as client:
        client.infer(np.zeros((1, 6), np.float32))
        two, _ = put_model(slots, 2, active=False)
        (slots.link.parent / "slots" / str(two) / "model.tflite").write_bytes(b"rot")
        slots.link.unlink()
        slots.link.symlink_to(Path("slots") / str(two))
        patience = time.monotonic() + 30
        while not client.status()["trouble"] and time.monotonic() < patience:
            time.sleep(0.05)
        assert "damaged" in client.status()["trouble"]
        client.infer(np.zeros((1, 6), np.float32))
        assert client.model == str(one)


def test_sigterm_answers_what_was_asked(slots: Slots, tmp_path: Path) -> None:
    put_model(slots, 1)
    rows = np.zeros((2000, 6), np.float32)
    with server_process(write_config(tmp_path)) as process:
        with ModelClient(tmp_path / "model.sock") as client:
            client.infer(rows)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert not (tmp_path / "model.sock").exists()


def test_a_wrong_configuration_is_78(slots: Slots, tmp_path: Path) -> None:
    config = write_config(tmp_path, "connections = 0")
    command = [sys.executable, "-m", "edge_runtime.serving", "--config", str(config)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert "serving.connections" in done.stderr


def test_systemd_s_socket_is_taken_and_given_back(slots: Slots, tmp_path: Path) -> None:
    """As systemd does it: the socket is the third descriptor, and stays when the process ends."""
    put_model(slots, 1)
    config = write_config(tmp_path, "idle_exit_s = 0.2")
    path = tmp_path / "activated.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        for _ in range(2):
            script = f"import os; os.dup2({listener.fileno()}, 3); "
            script += "os.environ |= {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '1'}; "
            script += "from edge_runtime.serving.__main__ import main; "
            script += f"raise SystemExit(main(['--config', {str(config)!r}]))"
            process = subprocess.Popen(
                [sys.executable, "-c", script], cwd=ROOT, pass_fds=(listener.fileno(),)
            )
            with ModelClient(path) as client:
                client.infer(np.zeros((1, 6), np.float32))
            assert process.wait(30) == 0  # nobody asks any more
    assert not (tmp_path / "model.sock").exists()


@pytest.mark.skipif(not shutil.which("curl"), reason="curl isn't installed")
def test_curl_gets_an_answer(slots: Slots, tmp_path: Path) -> None:
    model, _ = put_model(slots, 1)
    with server_process(write_config(tmp_path)):
        command = ["curl", "-sS", "--unix-socket", str(tmp_path / "model.sock")]
        command += ["-H", "Content-Type: application/json", "http://model/v1/infer"]
        command += ["-d", '{"inputs": [[1, 2, 3, 4, 5, 6]]}']
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert str(model) in told
        assert '"classes"' in told
        # A long body makes curl ask first whether it may send it.
        big = tmp_path / "rows"
        big.write_bytes(bytes(60_000 * 6 * 4))
        command = [*command[:4], "-H", "Content-Type: application/octet-stream"]
        command += ["http://model/v1/infer", "--data-binary", f"@{big}", "-o", str(tmp_path / "y")]
        subprocess.run(command, check=True)
        assert (tmp_path / "y").stat().st_size == 60_000 * 3 * 4
