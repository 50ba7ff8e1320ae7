"""The units: what systemd says of them without running, and how they hang together."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "systemd"
SERVICES = sorted(FOLDER.glob("*.service"))
UNITS = SERVICES + sorted(FOLDER.glob("*.socket")) + sorted(FOLDER.glob("*.path"))
DROP_INS = sorted(path.stem for path in (FOLDER / "drop-ins").glob("*.conf"))
WITH_DROP_INS = [("qflare-edge", name) for name in DROP_INS] + [("qflare-collect", "storage-key")]
SYSTEM = Path("/usr/lib/systemd/system")
# systemd-analyze counts in tenths. What a drop-in opens, it opens because the owner says so.
EXPOSURE = {
    "qflare-edge": 12,
    "qflare-edge@": 12,
    "qflare-collect": 14,  # which reads serial lines
    "qflare-collect@": 14,
    "qflare-model": 2,
    "qflare-provisiond": 37,
    "qflare-update": 21,  # root, who writes /opt/qflare
}
WITH_DROP_IN = 14

analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None or not SYSTEM.is_dir(),
    reason="systemd-analyze is missing; install the package systemd",
)


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with the units, and programs where they look for them."""
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    shutil.copytree(SYSTEM, tmp_path / "usr/lib/systemd/system", symlinks=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    for path in UNITS:
        shutil.copy(path, units)
    for path in UNITS:
        for line in path.read_text().splitlines():
            if line.startswith("Exec"):
                program = tmp_path / line.split("=", 1)[1].split()[0].lstrip("-+/")
                program.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy("/bin/true", program)
    return tmp_path


def verify(root: Path, *names: str) -> str:
    done = run("systemd-analyze", "verify", "--man=no", f"--root={root}", *names)
    assert done.returncode in (0, 1)
    return done.stdout + done.stderr


def exposure(root: Path, name: str, threshold: int) -> subprocess.CompletedProcess[str]:
    return run(
        *("systemd-analyze", "security", "--offline=true", "--no-pager"),
        *(f"--root={root}", f"--threshold={threshold}", name),
    )


def instance(path: Path) -> str:
    return path.name.replace("@.", "@one.")


@analyze
def test_systemd_has_nothing_to_say_of_the_units(root: Path) -> None:
    assert verify(root, *map(instance, UNITS)) == ""


@analyze
def test_a_key_that_systemd_does_not_know_would_be_seen(root: Path) -> None:
    unit = root / "etc/systemd/system/qflare-edge.service"
    unit.write_text(unit.read_text().replace("WatchdogSec=60", "WatchdogSecs=60"))
    assert "WatchdogSecs" in verify(root, unit.name)


@analyze
@pytest.mark.parametrize("path", SERVICES, ids=lambda p: p.name)
def test_the_sandbox_is_tight(root: Path, path: Path) -> None:
    done = exposure(root, instance(path), EXPOSURE[path.stem])  # which names every service
    assert done.returncode == 0, done.stdout[-400:]
    found = re.search(r"exposure level for \S+: (\d+\.\d)", done.stdout)
    assert found
    too_low = int(10 * float(found[1])) - 1
    assert exposure(root, instance(path), too_low).returncode == 1


def test_what_starts_a_service_starts_one_that_is_there() -> None:
    for path in UNITS:
        if path.suffix != ".service":
            assert path.with_suffix(".service") in SERVICES
    assert {p.name for p in FOLDER.glob("*.*") if p.is_file()} == {p.name for p in UNITS}


@analyze
@pytest.mark.parametrize(("unit", "name"), WITH_DROP_INS)
def test_drop_ins_are_known_to_systemd_and_keep_it_tight(root: Path, unit: str, name: str) -> None:
    folder = root / f"etc/systemd/system/{unit}.service.d"
    folder.mkdir()
    shutil.copy(FOLDER / "drop-ins" / f"{name}.conf", folder)
    assert verify(root, f"{unit}.service") == ""
    done = exposure(root, f"{unit}.service", WITH_DROP_IN)
    assert done.returncode == 0, done.stdout[-400:]


@analyze
def test_what_is_said_of_several_instances_is_known_to_systemd(root: Path) -> None:
    text = (FOLDER.parent / "docs" / "upgrades.md").read_text()
    drop_ins = re.findall(r"```ini\n(.*?)```", text, re.DOTALL)
    names = ("qflare-update.service", "qflare-update.path")
    for name, drop_in in zip(names, drop_ins, strict=True):
        folder = root / f"etc/systemd/system/{name}.d"
        folder.mkdir()
        (folder / "one.conf").write_text(drop_in)
    assert verify(root, *names) == ""


def settings(path: Path) -> list[str]:
    lines = path.read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize(("unit", "count"), [("qflare-edge", 7), ("qflare-collect", 8)])
def test_the_template_is_the_unit_with_names(unit: str, count: int) -> None:
    one = settings(FOLDER / f"{unit}.service")
    many = settings(FOLDER / f"{unit}@.service")
    assert len(one) == len(many)
    for a, b in zip(one, many, strict=True):
        for named_so in ("/%i", "@%i", " of device %i", " %i"):
            b = b.replace(named_so, "")
        assert a == b
    assert sum("%i" in line for line in many) == count


@pytest.mark.parametrize("unit", ["qflare-edge", "qflare-collect"])
def test_whoever_has_samples_in_memory_leaves_no_core_dump(unit: str) -> None:
    assert "LimitCORE=0" in settings(FOLDER / f"{unit}.service")


def test_a_wrong_configuration_is_not_tried_again_and_a_memory_kill_ends_one_process() -> None:
    unit = settings(FOLDER / "qflare-edge.service")
    assert {
        *("Type=notify", "NotifyAccess=main", "WatchdogSec=60", "Restart=on-failure"),
        *("RestartPreventExitStatus=78", "OOMPolicy=continue", "PrivateUsers=yes"),
        *("MemoryDenyWriteExecute=yes", "ProtectSystem=strict", "StateDirectory=qflare"),
    } <= set(unit)
    # Just below MemoryMax= it would make the watchdog fire in the place of the kernel's killer.
    assert not any(line.startswith("MemoryHigh=") for line in unit)
    # Hiding these files would blind the gates: /proc/meminfo, /proc/pressure, /proc/cpuinfo.
    assert not any(line.startswith("ProcSubset=") for line in unit)


def test_no_secret_is_named_in_an_environment_or_a_command_line() -> None:
    for path in UNITS:
        for line in settings(path):
            if line.startswith(("Environment", "Exec")):
                assert "password" not in line
                assert ".seed" not in line


@pytest.mark.skipif(
    shutil.which("systemd-sysusers") is None or os.geteuid() != 0,
    reason="wants systemd-sysusers (package systemd) and root, who alone can give files away",
)
def test_users_and_directories_are_made_as_stated(tmp_path: Path) -> None:
    for name in ("sysusers.d", "tmpfiles.d"):
        (tmp_path / "usr/lib").mkdir(parents=True, exist_ok=True)
        shutil.copytree(FOLDER / name, tmp_path / "usr/lib" / name)
    (tmp_path / "etc").mkdir()
    done = run("systemd-sysusers", f"--root={tmp_path}")
    assert done.returncode == 0, done.stderr
    (line,) = [x for x in (tmp_path / "etc/passwd").read_text().splitlines() if "qflare" in x]
    assert line.endswith(":/var/lib/qflare:/usr/sbin/nologin")
    done = run("systemd-tmpfiles", "--create", f"--root={tmp_path}")
    assert done.returncode == 0, done.stderr
    modes = {
        path: (tmp_path / path).stat().st_mode & 0o777 for path in ("etc/qflare", "run/qflare")
    }
    assert modes == {"etc/qflare": 0o755, "run/qflare": 0o755}
    assert (tmp_path / "var/lib/qflare").stat().st_mode & 0o777 == 0o700


def test_who_builds_images_is_told_of_every_unit_and_drop_in() -> None:
    text = (FOLDER.parent / "docs" / "image-builder.md").read_text()
    for path in UNITS:
        named = (
            path.name,
            path.name.replace("@.", "@NAME."),
            f"{path.stem}.socket",
            f"{path.stem}.service",
        )
        assert any(f"`{name}`" in text for name in named)
    for name in DROP_INS:
        assert f"`{name}.conf`" in text
    seen = set(re.findall(r"(?<![\w.])/(?:etc|var/lib)/qflare[\w/-]*", text))
    assert {"/etc/qflare", "/var/lib/qflare", "/var/lib/qflare-provision"} <= seen
