"""What is tried with updates inside the machine; it prints one JSON object. Standard library only.

The updater is killed while it installs and while it tries; the rest it does by itself.
"""

import json
import os
import re
import subprocess
import time
from functools import partial
from pathlib import Path

import trial_kit
from trial_kit import journal, run, systemctl

OPT = Path("/opt/qflare")
STATE = Path("/var/lib/qflare/update")
RELEASES = Path("/opt/trial/releases")
EDGE, UPDATE, WATCH = "qflare-edge.service", "qflare-update.service", "qflare-update.path"
QFLARE = Path("/usr/local/bin/qflare")
WITHIN_S = 400.0  # on a machine that does much else
wait_for = partial(trial_kit.wait_for, within=WITHIN_S)


def shown(unit: str, key: str) -> str:
    return systemctl("show", f"--property={key}", "--value", unit).strip()


def linked(name: str) -> str:
    return (OPT / name).readlink().name


def job() -> dict:
    try:
        return json.loads((OPT / "update/job.json").read_text())
    except FileNotFoundError:
        return {}


def healthy(version: str) -> bool:
    try:
        said = json.loads((STATE / "healthy").read_text())
    except FileNotFoundError:
        return False
    return (said["version"], said["online"]) == (version, True)


def at_rest() -> bool:
    idle = shown(UPDATE, "ActiveState") in ("inactive", "failed")
    return idle and not job() and not any(STATE.glob("staged/*.qflare"))


def stage(name: str, user: str = "root") -> list:
    """As a person does it from afar, or as the daemon's user may."""
    command = ["/usr/sbin/runuser", "-u", user, "--", QFLARE, "device", "update", "stage", "-"]
    with (RELEASES / f"{name}.qflare").open("rb") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, text=True, check=False)
    return [done.returncode, done.stdout + done.stderr]


def status() -> dict:
    done = run(QFLARE, "device", "update", "show", "--json")
    found = json.loads(done.stdout) if done.returncode == 0 else {"show": done.stderr}
    # The updater has a limit of starts an hour, which so many tries in a minute would reach.
    systemctl("reset-failed", UPDATE, WATCH)
    systemctl("start", WATCH)
    versions = sorted(path.name for path in (OPT / "versions").iterdir())
    return found | {
        "proven": linked("proven"),
        "versions": versions,
        "well": wait_for(lambda: healthy(linked("current"))),
        "edge": shown(EDGE, "ActiveState"),
        "restarts": shown(EDGE, "NRestarts"),
        "pid": shown(EDGE, "MainPID"),
    }


def kill_when(phase: str) -> bool:
    """SIGKILL to all of the updater as soon as it is there; False if it never came so far."""
    if not wait_for(lambda: job().get("phase") == phase):
        return False
    if phase == "installing":  # in the middle of it, when pip runs
        wait_for(lambda: any((OPT / "versions").glob("*/bin/pip*")))
    systemctl("kill", "--kill-whom=all", "--signal=KILL", UPDATE)
    return shown(UPDATE, "ActiveState") != "active"


def main() -> dict:
    told: dict = {}
    systemctl("start", "broker.service")
    QFLARE.symlink_to(OPT / "current/bin/qflare")
    systemctl("enable", "--now", EDGE, WATCH)
    told["first"] = status()

    bad = ("stranger", "elsewhere", "older", "python", "damaged")
    told["refused by stage"] = {name: stage(name) for name in bad}
    # What may write to `staged` can leave anything there: root looks again.
    staged = STATE / "staged"
    for name in bad:
        (staged / f"{name}.part").write_bytes((RELEASES / f"{name}.qflare").read_bytes())
    for name in bad:
        (staged / f"{name}.part").rename(staged / f"{name}.qflare")
    wait_for(at_rest)
    told["refused"] = status()

    begun = time.monotonic()
    told["stage"] = stage("good")
    told["killed"] = [kill_when("installing"), kill_when("trying")]
    wait_for(at_rest)
    told["good seconds"] = round(time.monotonic() - begun, 1)
    told["good"] = status()

    told["doesn't start"] = {
        "stage": stage("dead", "qflare"),
        "ended": wait_for(at_rest),
    } | status()
    told["doesn't connect"] = {"stage": stage("mute"), "ended": wait_for(at_rest)} | status()
    told["again"] = stage("mute")
    told["shown"] = run(QFLARE, "device", "update", "show").stdout
    log = journal(UPDATE, EDGE)
    told["log"] = re.sub(r"[^\n]*debug[^\n]*\n", "", log)[-200_000:]
    told["seconds"] = round(time.monotonic() - begun, 1)
    told["user"] = os.getuid()
    return told


print(json.dumps(main()))
