"""`qflare simulate` as a person uses it: what it prints, how it ends, and what it leaves behind."""

import getpass
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from qflare.host.broker import mosquitto, pick_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.xdist_group("e2e")]

SMALL = ("--devices", "3", "--rounds", "2", "--workers", "1")
LONG = ("--devices", "3", "--rounds", "500", "--workers", "2", "--no-reference")
PATIENCE_S = 60.0
REQUIRED = {
    "final_accuracy",
    "reference_accuracy",
    "rounds",
    "devices",
    "wall_s",
    "overhead_s_per_round_median",
    "update_bytes_median",
    "update_float32_bytes",
    "broker",
    "suite",
    "evidence",
}


class Shell:
    """Starts the command with a $TMPDIR of its own, and ends what a failed test left."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.tmp = home / "t"  # short: a socket's path has to fit
        self.tmp.mkdir()
        self.started: list[subprocess.Popen[str]] = []
        # Children inherit it, whatever becomes of their parent: that is how they are found.
        self.mark = f"QFLARE_TEST_MARK={home}"

    def environment(self) -> dict[str, str]:
        name, value = self.mark.split("=", 1)
        return {**os.environ, "TMPDIR": str(self.tmp), name: value}

    def start(self, *arguments: str, workdir: str = "run") -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "qflare", "simulate", *arguments]
        process = subprocess.Popen(
            [*command, "--workdir", str(self.home / workdir)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(),
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, *arguments: str, workdir: str = "run") -> "Finished":
        return finish(self.start(*arguments, workdir=workdir))

    def processes(self) -> list[psutil.Process]:
        """Everything alive that was started by this test's commands."""
        name, value = self.mark.split("=", 1)
        found = []
        for process in psutil.process_iter():
            try:
                marked = process.environ().get(name) == value
                if marked and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def ports(self) -> list[int]:
        """Ports on which those processes listen."""
        out = []
        for process in self.processes():
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    out.append(connection.laddr.port)
        return out

    def until_collecting(self, process: subprocess.Popen[str], workdir: str = "run") -> None:
        """Wait until the run is in the middle: a round is done, everybody is there."""
        log = self.home / workdir / "logs" / "coordinator.log"
        until(
            lambda: (
                process.poll() is not None or (log.exists() and "round released" in log.read_text())
            ),
            "the first round",
        )
        assert process.poll() is None, process.communicate()

    def nothing_is_left(self, ports: list[int]) -> None:
        """No process, no listener, no socket or its folder; at once."""
        assert self.processes() == []
        assert list(self.tmp.iterdir()) == []
        for port in ports:
            assert not listens(port)


class Finished:
    """How a command ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on standard output."""
        assert self.code == 0, self.err
        value = json.loads(self.out)  # which refuses anything before or after it
        assert isinstance(value, dict)
        return value

    @property
    def models(self) -> list[str]:
        return [r["model"] for r in self.json["per_round"]]


def finish(process: subprocess.Popen[str], within_s: float = 120) -> Finished:
    out, err = process.communicate(timeout=within_s)
    return Finished(process.returncode, out, err)


def until(condition: Callable[[], bool], what: str, within_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {within_s:g} s for {what}"
        time.sleep(0.05)


def listens(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    for process in shell.started:
        if process.poll() is None:
            process.kill()
        process.communicate()
    for left in shell.processes():
        left.kill()


# --- what it prints ----------------------------------------------------------------------------


def test_json_is_one_object_on_standard_output(shell: Shell) -> None:
    done = shell.run(*SMALL, "--json")
    report = done.json
    assert report.keys() >= REQUIRED
    assert (report["devices"], report["rounds"], report["status"]) == (3, 2, "ok")
    assert 0 < report["final_accuracy"] <= 1
    assert 0 < report["reference_accuracy"] <= 1
    assert 0 < report["update_bytes_median"] < report["update_float32_bytes"]
    assert report["evidence"] == "insecure_simulated"
    assert report["suite"] == "xwing-mldsa65"
    assert report["overhead_s_per_round_median"] > 0
    assert report == json.loads((shell.home / "run" / "report.json").read_text())
    assert "round 2/2" in done.err
    assert "simulated" in done.err.lower()
    assert "Traceback" not in done.err
    shell.nothing_is_left([])
    assert not (shell.home / "run" / "state").exists()  # no key outlives its run
    assert (shell.home / "run" / "logs" / "coordinator.log").stat().st_size > 0
    page = (shell.home / "run" / "report.html").read_text()
    assert page.startswith("<!")
    assert not re.search(r"""(?:src|href|action|data)\s*=\s*["']?\s*(?:\w+:)?//""", page, re.I)
    assert not re.search(r"""@import|url\(\s*["']?(?!data:|#)""", page, re.I)


def test_a_person_reads_the_result_on_standard_output(shell: Shell) -> None:
    done = shell.run(*SMALL, "--no-reference")
    assert done.code == 0, done.err
    assert "3 devices trained for 2 rounds" in done.out
    assert "SIMULATED" in done.out
    assert "report.html" in done.err


def test_the_same_seed_gives_the_same_model(shell: Shell) -> None:
    arguments = (*SMALL, "--no-reference", "--json")
    first = shell.run(*arguments, "--seed", "11")
    again = shell.run(*arguments, "--seed", "11", "--workers", "2", "--broker", "nats")
    other = shell.run(*arguments, "--seed", "12")
    assert first.models == again.models
    assert first.models[-1] != other.models[-1]
    assert first.json["final_accuracy"] == again.json["final_accuracy"]


def test_a_model_without_accuracy_is_judged_by_its_loss_and_score(shell: Shell) -> None:
    pytest.importorskip("river", reason="river is not installed (pip install 'qflare[demo]')")
    done = shell.run(*SMALL, "--model", "shuttle_autoencoder", "--json")
    report = done.json
    assert report["final_accuracy"] is None
    assert 0 < report["final_loss"] < 50
    assert report["reference_loss"] > 0
    assert 0.5 < report["score"]["auc"] <= 1
    assert 0.5 < report["reference_score"]["auc"] <= 1
    assert "round 2/2: loss" in done.err
    shell.nothing_is_left([])


def test_help_has_examples(shell: Shell) -> None:
    done = shell.run("--help")
    assert done.code == 0
    assert "examples:" in done.out
    assert "qflare simulate --devices 5 --rounds 3" in done.out
    for option in ("--devices", "--rounds", "--cohort", "--seed", "--broker", "--json", "--keep"):
        assert option in done.out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--devices", "0"), 1, "--devices: between 1 and 1000"),
        (("--devices", "many"), 2, "--devices"),
        (("--rounds", "0"), 1, "--rounds"),
        (("--cohort", "4", "--devices", "3"), 1, "--cohort"),
        (("--seed", "-1"), 1, "--seed"),
        (("--workers", "-1"), 1, "--workers"),
        (("--deadline", "0"), 1, "--deadline"),
        (("--model", "no-such"), 1, "watch_cnn"),
        (("--dataset", "no-such"), 1, "data set"),
        (("--dataset", "shuttle"), 1, "shuttle has examples [9]"),
        (("--model", "no-such.tflite", "--dataset", "watch"), 1, "no-such.tflite"),
        (("--model", "no-such.tflite"), 1, "--dataset"),
        (("--codec", "no-such"), 1, "q4z"),
        (("--suite", "no-such"), 1, "xwing-mldsa65"),
        (("--broker", "no-such"), 1, "mosquitto"),
        (("--broker", "http://localhost:1"), 1, "mqtt://"),
        (("--broker", "mqtt://user:secret@localhost"), 1, "mqtt://host:port"),
        (("--no-such-option",), 2, "--no-such-option"),
    ],
)
def test_a_wrong_option_is_one_line(
    shell: Shell, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = shell.run(*arguments)
    assert (done.code, done.out) == (code, "")
    *usage, line = done.err.splitlines()
    assert code == 2 or usage == []  # argparse shows the usage first
    assert line.startswith("qflare")
    assert words in line
    shell.nothing_is_left([])


def test_a_wrong_option_leaves_the_last_report_alone(shell: Shell) -> None:
    report = shell.home / "run" / "report.json"
    report.parent.mkdir()
    report.write_text("precious")
    assert shell.run("--codec", "no-such").code == 1
    assert report.read_text() == "precious"


def test_a_broker_that_does_not_answer_is_said(shell: Shell) -> None:
    with closing(socket.socket()) as nobody:
        nobody.bind(("127.0.0.1", 0))  # and never listens
        url = f"mqtt://127.0.0.1:{nobody.getsockname()[1]}"
        done = finish(shell.start(*SMALL, "--broker", url), within_s=30)
    assert done.code == 1
    assert url in done.err.splitlines()[-1]
    assert "Traceback" not in done.err
    shell.nothing_is_left([])


def test_a_workdir_that_cannot_be_made_is_said(shell: Shell) -> None:
    (shell.home / "file").write_text("")
    done = shell.run(*SMALL, workdir="file/run")
    assert (done.code, done.out) == (1, "")
    (line,) = done.err.splitlines()
    assert "file/run" in line
    shell.nothing_is_left([])


# --- how it ends -------------------------------------------------------------------------------


@pytest.mark.parametrize("whole_group", [False, True], ids=["leader", "group"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_ctrl_c_ends_everything(shell: Shell, number: signal.Signals, whole_group: bool) -> None:
    process = shell.start(*LONG)
    shell.until_collecting(process)
    ports = shell.ports()
    assert len(shell.processes()) >= 6  # the command, broker, coordinator, enclave, two workers
    assert ports
    if whole_group:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    done = finish(process)
    assert done.code == 130, done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    shell.nothing_is_left(ports)
    assert not (shell.home / "run" / "state").exists()


def test_ctrl_c_twice_and_early(shell: Shell) -> None:
    process = shell.start(*LONG)
    until(lambda: (shell.home / "run" / "logs").exists(), "the first log")
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    done = finish(process)
    assert done.code == 130, done.err
    assert "Traceback" not in done.err
    shell.nothing_is_left([])


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.2])
def test_ctrl_c_in_the_first_second_prints_no_traceback(shell: Shell, after_s: float) -> None:
    """From the first import of ours on; what Python says before is Python's."""
    process = shell.start(*LONG)
    maps = Path(f"/proc/{process.pid}/maps")
    until(lambda: "msgspec" in maps.read_text(), "the command's imports")
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    done = finish(process)
    assert done.code in (130, -signal.SIGINT), done.err
    assert "Traceback" not in done.err
    shell.nothing_is_left([])


def test_a_deep_folder_keeps_its_socket_elsewhere_and_finds_it_again(shell: Shell) -> None:
    deep = "/".join(["a folder of a person"] * 6)
    process = shell.start(*LONG, workdir=deep)
    shell.until_collecting(process, workdir=deep)
    process.kill()
    process.communicate()
    until(lambda: shell.processes() == [], "the children to die with their parent", 10)
    assert len(list(shell.tmp.iterdir())) == 1
    done = shell.run(*SMALL, "--no-reference", "--json", workdir=deep)
    assert done.json["rounds"] == 2
    shell.nothing_is_left([])


def test_kill_leaves_no_process_and_nothing_in_the_way(shell: Shell) -> None:
    process = shell.start(*LONG)
    shell.until_collecting(process)
    ports = shell.ports()
    process.kill()
    process.communicate()
    until(lambda: shell.processes() == [], "the children to die with their parent", 10)
    shell.nothing_is_left(ports)
    done = shell.run(*SMALL, "--no-reference", "--json")
    assert done.json["rounds"] == 2


def test_two_runs_at_once(shell: Shell) -> None:
    first = shell.start(*SMALL, "--no-reference", "--json", workdir="a")
    second = shell.start(*SMALL, "--no-reference", "--json", workdir="b")
    one, two = finish(first), finish(second)
    assert one.models == two.models
    shell.nothing_is_left([])


def test_a_second_run_in_the_same_folder_is_refused(shell: Shell) -> None:
    first = shell.start(*LONG)
    shell.until_collecting(first)
    second = shell.run(*SMALL)
    assert (second.code, second.out) == (1, "")
    (line,) = second.err.splitlines()
    assert str(shell.home / "run") in line
    assert "--workdir" in line
    assert first.poll() is None  # and the first one never noticed
    first.send_signal(signal.SIGINT)
    assert finish(first).code == 130
    shell.nothing_is_left([])


# --- a broker that runs already ----------------------------------------------------------------


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Start mosquitto with some lines of configuration; returns its URL."""
    binary = mosquitto.find()
    if binary is None:
        pytest.skip("mosquitto is not installed")
    with ExitStack() as stack:

        def start(extra: str) -> str:
            port = pick_port()
            (tmp_path / "passwd").write_text("")
            config = tmp_path / "mosquitto.conf"
            user = getpass.getuser()  # as another one it couldn't read the password file
            config.write_text(f"user {user}\nlistener {port} 127.0.0.1\n{extra}\n")
            command = [binary, "-c", str(config)]
            broker = stack.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL))
            stack.callback(broker.kill)
            until(lambda: listens(port), "mosquitto")
            return f"mqtt://127.0.0.1:{port}"

        yield start


def test_a_running_broker_is_used(shell: Shell, own_broker: Callable[[str], str]) -> None:
    url = own_broker("allow_anonymous true")
    report = shell.run(*SMALL, "--no-reference", "--json", "--broker", url).json
    assert url in report["broker"]
    assert report["rounds"] == 2
    shell.nothing_is_left([])


def test_a_broker_that_refuses_us_is_said(
    shell: Shell, own_broker: Callable[[str], str], tmp_path: Path
) -> None:
    url = own_broker(f"allow_anonymous false\npassword_file {tmp_path}/passwd")
    done = finish(shell.start(*SMALL, "--broker", url), within_s=30)
    assert done.code == 1
    assert url in done.err.splitlines()[-1]
    assert "refuses us" in done.err.splitlines()[-1]
    shell.nothing_is_left([])
