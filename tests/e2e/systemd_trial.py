"""What is tried inside the machine; it prints one JSON object. Standard library only."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from trial_kit import journal, show, systemctl, wait_for

UNITS = Path("/etc/systemd/system")
EDGE = "qflare-edge.service"
PROBE = """
import json, os, socket, subprocess, sys
from pathlib import Path
found = {}
def attempt(name, action):
    try:
        action()
        found[name] = "done"
    except OSError as error:
        found[name] = error.strerror
for place in ("/etc", "/usr", "/opt/qflare", "/var", "/home"):
    attempt(f"write {place}", lambda place=place: Path(place, "x").write_text("x"))
attempt("write state", lambda: Path("/var/lib/qflare/x").write_text("x"))
attempt("read seed", lambda: Path("/etc/qflare/device.seed").read_bytes())
attempt("read dialout", lambda: Path("/opt/trial/dialout").read_bytes())
attempt("packet socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
attempt("internet socket", lambda: socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close())
credentials = Path(os.environ["CREDENTIALS_DIRECTORY"])
found["credentials"] = {p.name: len(p.read_bytes()) for p in sorted(credentials.iterdir())}
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
keys = ("Uid", "CapBnd", "CapEff", "NoNewPrivs", "Seccomp")
found["status"] = {key: status[key].split()[0] for key in keys}
found["devices"] = sorted(os.listdir("/dev"))
found["nice"] = os.nice(0)
trained = subprocess.run(
    ["/opt/qflare/current/bin/qflare", "model", "check", "/opt/trial/model.tflite", "--json"],
    capture_output=True, text=True)
found["training"] = [trained.returncode, trained.stdout, trained.stderr[-500:]]
Path("/var/lib/qflare/probe.json").write_text(json.dumps(found))
"""


ASK = """
import json
import numpy as np
from edge_runtime.serving.client import ModelClient
with ModelClient() as model:
    shape = model.metadata()["input"]["shape"]
    rows = np.linspace(-1, 1, 3 * int(np.prod(shape)), dtype=np.float32).reshape(3, *shape)
    print(json.dumps(model.infer(rows).tolist()))
"""


def probe(name: str, *extra: str) -> dict:
    """The unit's own sandbox with another program in it."""
    Path("/opt/trial/probe.py").write_text(PROBE)
    lines = (UNITS / EDGE).read_text().replace("Type=notify", "Type=oneshot").splitlines()
    ours = [
        "ExecStart=/opt/qflare/current/bin/python /opt/trial/probe.py"
        if line.startswith("ExecStart=")
        else line
        for line in lines
        if not line.startswith(("Restart", "ExecReload", "WatchdogSec"))
    ]
    at = ours.index("[Service]") + 1
    (UNITS / f"{name}.service").write_text("\n".join([*ours[:at], *extra, *ours[at:], ""]))
    result = Path("/var/lib/qflare/probe.json")
    result.unlink(missing_ok=True)
    systemctl("daemon-reload")
    systemctl("start", f"{name}.service")
    if not result.exists():
        return {"failed": show(f"{name}.service"), "log": journal(f"{name}.service")}
    return json.loads(result.read_text())


def ask(*groups: str) -> list:
    """What an application is told: another user, with these groups."""
    who = ["setpriv", "--reuid=nobody", "--regid=nogroup"]
    which = [f"--groups={','.join(groups)}"] if groups else ["--clear-groups"]
    command = [*who, *which, "/opt/qflare/current/bin/python", "-c", ASK]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    return [done.returncode, done.stdout, done.stderr[-500:]]


def timed(*arguments: str) -> float:
    start = time.monotonic()
    systemctl(*arguments)
    return time.monotonic() - start


def main() -> dict:
    told: dict = {"probe": probe("probe")}
    serial = [
        line
        for line in Path("/opt/trial/serial.conf").read_text().splitlines()
        if line.startswith(("Supp", "Private", "Device"))
    ]
    # A drop-in's settings come later and win; in one file, ours have to go first for lists only.
    told["serial probe"] = probe("probe2", *(x for x in serial if not x.startswith("Private")))
    command = ["/opt/qflare/current/bin/qflare", "board", "show", "rpi4"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    told["board"] = [shown.returncode, shown.stdout + shown.stderr]
    # A container has no serial line, so this one has nothing to wait on, and says so.
    systemctl("start", "qflare-provisiond.service")
    wait_for(lambda: show("qflare-provisiond.service")["ActiveState"] == "failed", 20.0)
    told["provisiond"] = show("qflare-provisiond.service")
    told["provisiond log"] = journal("qflare-provisiond.service")
    told["start seconds"] = timed("start", EDGE)
    told["started"] = show(EDGE)
    if told["started"]["ActiveState"] != "active":
        return told | {"log": journal(EDGE)}
    told["children"] = subprocess.run(
        ["/usr/bin/ps", "-eo", "user,args"], capture_output=True, text=True, check=False
    ).stdout

    second = "qflare-edge@second.service"
    systemctl("start", second)
    told["second"], told["second log"] = show(second), journal(second)
    told["second state"] = [p.name for p in Path("/var/lib/qflare/second").iterdir()]
    systemctl("stop", second)

    server = "qflare-model.service"
    systemctl("start", "qflare-model.socket")
    told["asked"] = ask("qflare")
    told["stranger asked"] = ask()
    wait_for(lambda: show(server)["ActiveState"] == "inactive", 20.0)
    told["idle server"] = show(server)
    told["asked again"] = ask("qflare")
    told["model log"] = journal(server)

    drop_in = UNITS / f"{EDGE}.d/trial.conf"
    drop_in.parent.mkdir(exist_ok=True)
    drop_in.write_text("[Service]\nWatchdogSec=3\nRestartSec=1\n")
    systemctl("daemon-reload")
    systemctl("restart", EDGE)
    first = show(EDGE)
    time.sleep(5)
    told["fed"] = show(EDGE)["NRestarts"] == "0"
    os.kill(int(first["MainPID"]), signal.SIGSTOP)
    told["noticed"] = wait_for(lambda: int(show(EDGE)["NRestarts"]) > 0)
    told["back"] = wait_for(lambda: show(EDGE)["ActiveState"] == "active")
    told["other process"] = show(EDGE)["MainPID"] != first["MainPID"]

    told["stop seconds"] = timed("stop", EDGE)
    told["stopped"] = show(EDGE)
    Path("/etc/qflare/broker.password").unlink()
    systemctl("start", EDGE)
    told["without a password"] = show(EDGE)
    systemctl("stop", EDGE)
    config = Path("/etc/qflare/edge.toml")
    config.write_text(config.read_text() + "\n[nonsense]\nx = 1\n")
    systemctl("start", EDGE)
    wait_for(lambda: show(EDGE)["ActiveState"] == "failed", 20.0)
    time.sleep(2)
    told["wrong configuration"] = show(EDGE)
    told["log"] = journal(EDGE)
    return told


print(json.dumps(main()))
