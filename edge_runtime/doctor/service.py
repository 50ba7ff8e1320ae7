"""The units, as systemd tells of them, and the version that runs."""

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from edge_runtime.doctor.finding import Finding, bad, ok, skipped, warn

_PROPERTIES: Final = (
    "LoadState,UnitFileState,ActiveState,SubState,Result,NRestarts,ExecMainStatus,StatusText,"
    "MemoryMax,MemoryCurrent"
)
_SYSTEMD: Final = Path("/run/systemd/system")
_CONFIG_EXIT: Final = "78"
_EXPOSED: Final = 1.4  # with drop-ins; the unit as it comes has 1.2 at most


def ask(*command: str) -> str | None:
    """What a command of systemd says; None if there is none, or it fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20.0, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def unit_facts(unit: str, systemd: Path = _SYSTEMD) -> dict[str, str] | None:
    """The unit's properties; None where systemd doesn't run."""
    if not systemd.exists():
        return None
    said = ask("systemctl", "show", f"--property={_PROPERTIES}", unit)
    if said is None:
        return None
    return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)


def runs(facts: Mapping[str, str] | None) -> bool:
    return facts is not None and facts.get("ActiveState") in ("active", "activating", "reloading")


def alive(state_dir: Path) -> bool:
    """Does the daemon run that left its note here, however it was started?"""
    from edge_runtime.upgrade.health import boot_id, read_health

    said = read_health(state_dir)
    return said is not None and said.boot == boot_id() and Path(f"/proc/{said.pid}").exists()


def check_unit(unit: str, facts: Mapping[str, str] | None) -> Iterator[Finding]:
    """Is the daemon there, enabled, running, and how did it end last?"""
    if facts is None:
        yield skipped("service", "systemd isn't running here")
        return
    if facts.get("LoadState") != "loaded":
        yield bad("service", f"{unit} isn't installed", "see docs/image-builder.md")
        return
    if facts.get("UnitFileState") not in ("enabled", "enabled-runtime", "static"):
        yield warn("service", f"{unit} doesn't start at boot", f"sudo systemctl enable {unit}")
    state = f"{facts.get('ActiveState')} ({facts.get('SubState')})"
    if facts.get("ExecMainStatus") == _CONFIG_EXIT and not runs(facts):
        remedy = f"correct it, then sudo systemctl restart {unit}"
        yield bad("service", "it ended with 78: its configuration is wrong", remedy)
    elif not runs(facts):
        words = f"{state}; it ended by {facts.get('Result')}, code {facts.get('ExecMainStatus')}"
        yield bad("service", words, f"journalctl -u {unit} says why; sudo systemctl start {unit}")
    else:
        said = facts.get("StatusText", "")
        yield ok("service", f"{state}{': ' if said else ''}{said}")
        again = facts.get("NRestarts", "0")
        if again != "0":
            words = f"systemd had to start it again {again} times since the boot"
            yield warn("restarts", words, f"journalctl -u {unit} says why")


def check_memory(facts: Mapping[str, str] | None, root: Path = Path("/")) -> Finding:
    """Does the kernel keep the unit within its limit?"""
    from qflare.host.cgroup import memory_controller

    name = "unit's memory"
    if facts is None or facts.get("LoadState") != "loaded":
        return skipped(name, "there is no unit to look at")
    off = memory_controller(root)
    if off is not None:
        return warn(name, f"MemoryMax= does nothing: {off.reason}", off.remedy)
    limit, used = facts.get("MemoryMax", ""), facts.get("MemoryCurrent", "")
    if not limit.isdecimal() or int(limit) >= 2**62:
        return warn(name, "no limit", "set MemoryMax= in the unit; qflare-edge.service does")
    now = f", {int(used) / 2**20:.0f} MiB used" if used.isdecimal() and int(used) < 2**62 else ""
    return ok(name, f"at most {int(limit) / 2**20:.0f} MiB{now}")


def check_sandbox(unit: str, facts: Mapping[str, str] | None) -> Finding:
    """How exposed systemd finds it, from 0 to 10."""
    if facts is None or facts.get("LoadState") != "loaded":
        return skipped("sandbox", "there is no unit to look at")
    said = ask("systemd-analyze", "security", "--no-pager", unit)
    tail = (said or "").rpartition("exposure level for ")[2].split()
    try:
        score = float(tail[1])
    except (IndexError, ValueError):
        return skipped("sandbox", "systemd-analyze doesn't tell", "run it as root (sudo)")
    words = f"exposure {score} of 10"
    if score > _EXPOSED:
        return warn("sandbox", words, f"systemctl cat {unit} shows what opened it")
    return ok("sandbox", words)


def check_version(opt: Path, state_dir: Path) -> Iterator[Finding]:
    """Which version runs, and how updates went."""
    from edge_runtime.upgrade.status import update_status

    status = update_status(opt, state_dir)
    if status.trouble:
        yield skipped("version", f"{status.running}; {status.trouble}", "run it as root (sudo)")
        return
    installed = "" if status.current is None else f", number {status.sequence}"
    if status.current not in (None, status.running):
        words = f"this is {status.running}, and the daemon is started from {status.current}"
        yield warn("version", words, "use /opt/qflare/current/bin/qflare doctor")
    else:
        yield ok("version", f"{status.running}{installed}")
    if status.phase:
        words = f"under way: {status.phase}"
        yield warn("update", words, "journalctl -u qflare-update shows how it gets on")
    elif status.staged:
        remedy = "sudo systemctl enable --now qflare-update.path"
        yield warn("update", f"{status.staged} staged, and not applied", remedy)
    elif status.bad:
        failed = status.bad[-1]
        words = f"{failed.version} failed here: {failed.why}"
        yield warn("update", words, "stage a newer release, or the same one with --again")
