"""`qflare board` on directory trees that stand for a board, or for its mounted card."""

import argparse
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qflare.faults import LocalFault
from qflare.host.boards import backups, facts, load, plan
from qflare.host.boards.check import State, check
from qflare.host.boards.command import add_parser
from tests.unit.test_boards import device_tree, program

CONFIG = "# For more options see rptl.io/configtxt\ndtparam=audio=on\n[pi5]\nusb=1\n"
CMDLINE = "console=serial0,115200 console=tty1 root=PARTUUID=1-02 rootwait\n"
CONTROL = "boot/firmware/cmdline.txt"


def pi(root: Path, boot: str = "boot/firmware", config: str = CONFIG) -> Path:
    """A Raspberry Pi 4 as it comes."""
    device_tree(root, "raspberrypi,4-model-b", "brcm,bcm2711", model="Raspberry Pi 4 Model B")
    program(root, 183)
    (root / boot).mkdir(parents=True, exist_ok=True)
    (root / boot / "config.txt").write_text(config)
    (root / boot / "cmdline.txt").write_text(CMDLINE)
    (root / "etc").mkdir(exist_ok=True)
    return root


def board(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    parser = argparse.ArgumentParser(prog="qflare")
    add_parser(parser.add_subparsers(required=True))
    parsed = parser.parse_args(["board", *map(str, arguments)])
    code = int(parsed.run(parsed))
    said = capsys.readouterr()
    return code, said.out, said.err


def content(root: Path) -> dict[str, bytes | str]:
    """Every file, and every directory, below `root`."""
    found: dict[str, bytes | str] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        found[name] = path.read_bytes() if path.is_file() else "directory"
    return found


def test_it_only_shows_until_it_is_told_to_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pi(tmp_path)
    before = content(root)
    code, said, _ = board(capsys, "apply", "--root", root)
    assert code == 1
    assert f"--- {root}/{CONTROL}" in said
    assert "-console=serial0,115200 console=tty1 root=PARTUUID=1-02 rootwait\n" in said
    assert "rootwait cgroup_enable=memory\n" in said
    assert "+RuntimeWatchdogSec=15" in said
    assert "Nothing was written" in said
    assert content(root) == before


def test_it_writes_once_and_takes_everything_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pi(tmp_path)
    (root / "var/lib").mkdir(parents=True)
    before = content(root)
    mask = os.umask(0o077)
    try:
        code, said, _ = board(capsys, "apply", "--root", root, "--write", "--json")
    finally:
        os.umask(mask)
    report = json.loads(said)
    assert (code, report["written"], len(report["changes"])) == (0, True, 3)
    watchdog = root / plan.WATCHDOG
    assert watchdog.read_text().endswith("[Manager]\nRuntimeWatchdogSec=15\n")
    assert watchdog.stat().st_mode & 0o777 == 0o644
    assert watchdog.parent.stat().st_mode & 0o777 == 0o755
    assert (root / CONTROL).read_text() == CMDLINE.strip() + " cgroup_enable=memory\n"
    assert (root / "boot/firmware/config.txt").read_text() == CONFIG
    assert 'KERNELS=="fe201000.serial"' in (root / plan.UDEV).read_text()
    code, said, _ = board(capsys, "apply", "--root", root, "--write")
    assert (code, said) == (0, "Raspberry Pi 4: all is as it should be\n")
    code, said, _ = board(capsys, "revert", "--root", root)
    assert code == 0
    assert content(root) == before
    code, _, wrong = board(capsys, "revert", "--root", root)
    assert code == 2
    assert "nothing to take back" in wrong


def test_a_sensor_gets_the_uart_and_keeps_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pi(tmp_path)
    config = root / "boot/firmware/config.txt"
    board(capsys, "apply", "--root", root, "--serial", "sensor", "--tpm", "--write")
    assert "[all]\nenable_uart=1\ndtoverlay=disable-bt\ndtoverlay=tpm-slb9670\n" in (
        config.read_text()
    )
    assert "console=serial0" not in (root / CONTROL).read_text()
    first = content(root)
    assert board(capsys, "apply", "--root", root, "--write")[0] == 0
    assert content(root) == first
    board(capsys, "apply", "--root", root, "--serial", "console", "--write")
    assert "disable-bt" not in config.read_text()
    assert "tpm-slb9670" in config.read_text()
    assert (root / CONTROL).read_text().startswith("console=serial0,115200 console=tty1 ")
    assert "older set" in board(capsys, "revert", "--root", root)[1]
    assert content(root) == first
    board(capsys, "revert", "--root", root)
    assert config.read_text() == CONFIG


def test_the_boot_partition_is_found_or_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = pi(tmp_path / "old", boot="boot")
    assert plan.places(old, None, load("rpi4")).boot == old / "boot"
    card = pi(tmp_path / "card", boot="boot")  # Debian 12's, with the boot partition not mounted
    for name in ("config.txt", "cmdline.txt"):
        (card / "boot" / name).write_text("DO NOT EDIT THIS FILE\n\nIt has moved.\n")
    code, _, wrong = board(capsys, "apply", "--root", card)
    assert code == 2
    assert "--boot DIR" in wrong
    fat = pi(tmp_path / "fat", boot=".")
    arguments = ("--root", card, "--boot", fat, "--board", "rpi5")
    assert board(capsys, "apply", *arguments, "--write")[0] == 0
    assert "cgroup_enable=memory" in (fat / "cmdline.txt").read_text()
    assert (card / plan.UDEV).is_file()
    assert board(capsys, "revert", "--root", card, "--boot", fat)[0] == 0
    assert (fat / "cmdline.txt").read_text() == CMDLINE


def test_a_link_on_a_card_leads_nowhere_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, outside = pi(tmp_path / "card"), tmp_path / "outside"
    outside.mkdir()
    (root / "etc/udev").symlink_to(outside)
    code, _, wrong = board(capsys, "apply", "--root", root, "--write")
    assert code == 2
    assert "symbolic link" in wrong
    assert list(outside.iterdir()) == []


def test_what_others_changed_is_not_taken_back_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pi(tmp_path)
    board(capsys, "apply", "--root", root, "--write")
    control = root / CONTROL
    control.write_text(control.read_text().strip() + " quiet\n")
    held = content(root)
    code, _, wrong = board(capsys, "revert", "--root", root)
    assert code == 2
    assert "--force" in wrong
    assert content(root) == held
    assert board(capsys, "revert", "--root", root, "--force")[0] == 0
    assert control.read_text() == CMDLINE


@pytest.mark.parametrize("harm", ["list", "copy", "escape"])
def test_a_damaged_set_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: str
) -> None:
    root = pi(tmp_path)
    board(capsys, "apply", "--root", root, "--write")
    (folder,) = backups.sets(root)
    if harm == "list":
        (folder / "set.json").write_bytes(b"{")
    elif harm == "copy":
        (folder / "0").write_bytes(b"other")
    else:
        text = (folder / "set.json").read_text().replace('"cmdline.txt"', '"../../etc/shadow"')
        (folder / "set.json").write_text(text)
    held = content(root)
    assert board(capsys, "revert", "--root", root)[0] == 2
    assert content(root) == held


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_a_set_of_garbage_is_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("set")
    (folder / "set.json").write_bytes(data)
    with pytest.raises(LocalFault):
        backups.load(folder)


class Cut(BaseException):
    """The power goes."""


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 40))
def test_power_may_go_at_any_point(
    tmp_path_factory: pytest.TempPathFactory, apply_for: int, revert_for: int
) -> None:
    root = pi(tmp_path_factory.mktemp("card"))
    (root / "var/lib").mkdir(parents=True)
    before = content(root)
    profile, wishes = load("rpi4"), plan.Wishes("sensor", tpm=True)
    where = plan.places(root, None, profile)

    def cut_after(calls: int) -> pytest.MonkeyPatch:
        patch, left = pytest.MonkeyPatch(), [calls]
        for name in ("replace", "rename", "mkdir", "unlink", "rmdir"):
            real = getattr(Path, name)

            def counted(self: Path, *args: Any, _real: Any = real, **kwargs: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    raise Cut
                return _real(self, *args, **kwargs)

            patch.setattr(Path, name, counted)
        return patch

    patch = cut_after(apply_for)
    try:
        backups.apply(plan.changes(profile, where, wishes), where, "rpi4")
    except Cut:
        pass
    finally:
        patch.undo()
    # Applying again completes it, and taking back all sets, cut off as well, restores it.
    again = plan.changes(profile, where, wishes)
    if again:
        backups.apply(again, where, "rpi4")
    assert plan.changes(profile, where, wishes) == ()
    patch = cut_after(revert_for)
    try:
        backups.revert(backups.sets(root)[-1], where)
    except Cut:
        pass
    finally:
        patch.undo()
    while found := backups.sets(root):
        backups.revert(found[-1], where)

    def files(of: dict[str, bytes | str]) -> dict[str, bytes | str]:
        # A cut can leave an empty directory or a draft behind, never a file that is read.
        return {k: v for k, v in of.items() if v != "directory" and "/." not in f"/{k}"}

    assert files(content(root)) == files(before)


def test_a_jetson_has_no_firmware_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = program(device_tree(tmp_path, "nvidia,p3768-0000+p3767-0005-super"), 183)
    code, said, _ = board(capsys, "apply", "--root", root, "--json")
    assert code == 1
    files = {Path(change["file"]).name for change in json.loads(said)["changes"]}
    assert files == {"50-qflare-watchdog.conf", "60-qflare-board.rules"}
    assert "RuntimeWatchdogSec=30" in said


def test_what_a_board_lacks_cannot_be_asked_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = program(tmp_path, 183)
    for option in (("--tpm",), ("--serial", "sensor")):
        code, _, wrong = board(capsys, "apply", "--root", root, *option)
        assert code == 2
        assert f"leave out {option[0]}" in wrong
    code, _, wrong = board(capsys, "apply", "--root", root / "nowhere")
    assert code == 2
    assert "no such directory" in wrong


def states(root: Path) -> dict[str, tuple[State, str, str]]:
    found = check(load("rpi4"), root)
    assert all(finding.remedy for finding in found if finding.state is State.WRONG)
    return {finding.what: (finding.state, finding.says, finding.remedy) for finding in found}


def running(root: Path) -> Path:
    """As a running board: with control groups, a watchdog, UARTs, and sensors of the firmware."""
    files = {
        "proc/self/cgroup": "0::/x\n",
        "proc/cmdline": "console=ttyS0,115200 root=/dev/mmcblk0p2 cgroup_enable=memory",
        "sys/fs/cgroup/cgroup.controllers": "cpu io memory pids\n",
        "sys/class/watchdog/watchdog0/identity": "Broadcom BCM2835 Watchdog timer\n",
        "sys/class/hwmon/hwmon1/name": "rpi_volt\n",
        "sys/class/hwmon/hwmon1/in0_lcrit_alarm": "0\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for tty, address in (("ttyS0", "fe215040"), ("ttyAMA1", "fe201000")):
        device = root / f"sys/devices/platform/soc/{address}.serial/{address}.serial:0.0/tty/{tty}"
        device.mkdir(parents=True)
        (root / "sys/class/tty").mkdir(parents=True, exist_ok=True)
        (root / "sys/class/tty" / tty).symlink_to(device)
    return root


def test_a_board_that_is_set_up_has_nothing_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = running(pi(tmp_path))
    board(capsys, "apply", "--root", root, "--write")
    code, said, _ = board(capsys, "check", "--root", root, "--json")
    report = json.loads(said)
    assert (code, report["ok"]) == (0, True)
    assert report["ports"] == {"uart0": "ttyAMA1", "uart1": "ttyS0"}
    assert states(root)["throttling"][0] is State.OK
    assert "15 s" in states(root)["watchdog"][1]
    assert board(capsys, "check", "--root", root)[1].startswith("rpi4: Raspberry Pi 4\nok ")


def test_each_fault_is_found_with_its_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = running(pi(tmp_path))
    assert states(root)["board's files"][0] is State.WRONG
    assert "off" in states(root)["watchdog"][1]
    board(capsys, "apply", "--root", root, "--write")
    (root / "proc/cmdline").write_text("root=/dev/mmcblk0p2")
    (root / "sys/fs/cgroup/cgroup.controllers").write_text("cpu io pids\n")
    (root / "sys/class/hwmon/hwmon1/in0_lcrit_alarm").write_text("1\n")
    (root / "sys/class/watchdog/watchdog0/identity").unlink()
    (root / "sys/class/watchdog/watchdog0").rmdir()
    later = root / "etc/systemd/system.conf.d/90-other.conf"
    later.write_text("[Manager]\nRuntimeWatchdogSec=30s\n")
    program(root, 40)
    found = states(root)
    wrong = {what for what, (state, *_) in found.items() if state is State.WRONG}
    assert wrong == {
        *("64-bit system", "memory can be limited", "watchdog", "watchdog device"),
        *("restart", "throttling"),
    }
    assert "no watchdog at all" in found["watchdog"][1]
    assert "cgroup_enable=memory" in found["memory can be limited"][2]
    assert "supply" in found["throttling"][2]
    code, said, _ = board(capsys, "check", "--root", root)
    assert code == 1
    assert "-> restart the board" in said


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("15", 15.0), ("15s", 15.0), ("1min 30s", 90.0), ("1min30s", 90.0), ("500ms", 0.5)),
        *(("off", 0.0), ("", 0.0), ("soon", None), ("1.5.5", None), ("15 s x", None)),
    ],
)
def test_time_spans_of_systemd(text: str, seconds: float | None) -> None:
    assert facts.seconds(text) == seconds


def test_a_power_mode_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "var/lib/nvpmodel").mkdir(parents=True)
    modes = "# < POWER_MODEL ID=9 NAME=OLD >\n< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n"
    (tmp_path / "etc/nvpmodel.conf").write_text(modes + "< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n")
    (tmp_path / "var/lib/nvpmodel/status").write_text("pmode:0002 fmode:fanNull")
    assert facts.power_modes(tmp_path) == {0: "15W", 2: "MAXN_SUPER"}
    assert facts.power_mode(tmp_path) == "MAXN_SUPER"
    (tmp_path / "var/lib/nvpmodel/status").write_text("pmode:0007")
    assert facts.power_mode(tmp_path) is None


def test_every_board_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    listed = board(capsys, "show")[1].splitlines()
    assert len(listed) == 8
    for line in listed:
        name = line.split()[0]
        code, said, _ = board(capsys, "show", name)
        assert code == 0
        assert said.startswith(f"{name}: ")
        assert all(len(row) <= 80 for row in said.splitlines())
        assert json.loads(board(capsys, "show", name, "--json")[1])["name"] == name
    assert board(capsys, "show", "rpi9")[0] == 2


def test_the_board_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = board(capsys, "detect", "--root", pi(tmp_path))
    assert (code, said) == (0, "rpi4: Raspberry Pi 4 (Raspberry Pi 4 Model B)\n")
    (tmp_path / "other").mkdir()
    code, said, _ = board(capsys, "detect", "--root", tmp_path / "other", "--json")
    assert (code, json.loads(said)["board"]) == (1, None)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="wants root, who alone can mount")
def test_a_real_fat_partition_is_written_and_restored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, fat = tmp_path / "fat.img", tmp_path / "bootfs"
    fat.mkdir()
    with image.open("wb") as file:
        file.truncate(4 << 20)
    try:
        subprocess.run(["mkfs.vfat", image], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", image, fat], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"wants mkfs.vfat (dosfstools), loop devices and a kernel with FAT: {error}")
    try:
        root = pi(tmp_path / "rootfs")
        for name in ("config.txt", "cmdline.txt"):
            (fat / name).write_bytes((root / "boot/firmware" / name).read_bytes())
        before = content(fat)
        arguments = ("--root", root, "--boot", fat)
        options = ("--serial", "sensor", "--write")
        assert board(capsys, "apply", *arguments, *options)[0] == 0
        assert "disable-bt" in (fat / "config.txt").read_text()
        assert content(fat).keys() == before.keys()
        assert board(capsys, "revert", *arguments)[0] == 0
        assert content(fat) == before
    finally:
        subprocess.run(["umount", fat], check=True)
