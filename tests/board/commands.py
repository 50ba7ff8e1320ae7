"""What a person types on the board: `qflare doctor`, `qflare board`, a hold on training."""

import json
import re

from tests.board.fleet import rounds
from tests.board.machine import Board
from tests.board.progress import say
from tests.board.service import until
from tests.joined_fleet import Fleet

_STATUS = "systemctl show qflare-edge -p StatusText --value"
QFLARE = "NO_COLOR=1 /opt/qflare/current/bin/qflare"
# As Raspberry Pi OS has them, as far as it matters here.
CONFIG_TXT = "# For more options see the documentation\narm_64bit=1\n\n[all]\n"
CMDLINE_TXT = "console=serial0,115200 console=tty1 root=PARTUUID=0-02 rootfstype=ext4 rootwait\n"


def doctor_sees_all(board: Board) -> None:
    """On a device that is at work nothing is red, and what isn't as it should be is said."""
    board.run(f"{QFLARE} device update adopt")
    page = board.run(f"{QFLARE} doctor --quick")
    say(f"what qflare doctor says\n{page}")
    # What stands in one paragraph may be on several lines.
    page = re.sub(r"\n +(?! |-> )", " ", page)
    for line in (
        r"^ok +configuration +/etc/qflare/edge.toml$",
        r"^ok +enrolment +generic-arm64-\w+ of field; [a-z ]+$",
        r"^ok +keys +\S+ of field; certificate and key match$",
        r"^ok +secrets +nobody else can read them$",
        r"^ok +broker mqtt://10.0.2.2:\d+ +TCP \d+ ms, the daemon has the account in use$",
        r"^warn +broker mqtt://127.0.0.1:\d+ +",  # this machine's own address, from in there
        r"^ok +data +npz: \d+ examples to train on, \d+ to test, for watch_cnn$",
        r"^ok +version +[\d.]+, number 0$",
        r"^ok +board +64-bit ARM board$",
        r"^ok +memory can be limited +",
        r"^warn +watchdog +off: a board that hangs stays so$",
        r"^warn +board's files +not as 64-bit ARM board's profile says",
        r"^ok +model +watch_cnn ",
        r"^ok +service +active \(running\): .*online$",
        r"^ok +unit's memory +at most \d+ MiB",
        r"^ok +sandbox +exposure [01]\.\d of 10$",
        r"^0 bad, \d+ to be mended, \d+ ok$",
    ):
        assert re.search(line, page, re.MULTILINE), (line, page)


def board_files_come_and_go(board: Board) -> None:
    """A Raspberry Pi's, on a FAT partition; then this board's own, which stay."""
    both = "/boot/firmware/config.txt /boot/firmware/cmdline.txt"
    before = board.run(f"sha256sum {both}")
    dry = board.run(f"{QFLARE} board apply --board rpi4; echo =$?")
    assert dry.endswith("=1"), dry
    assert re.search(r"^\+.*cgroup_enable=memory", dry, re.MULTILINE), dry
    assert "Nothing was written" in dry
    assert board.run(f"sha256sum {both}") == before
    board.run(f"{QFLARE} board apply --board rpi4 --write")
    assert "cgroup_enable=memory" in board.run("cat /boot/firmware/cmdline.txt")
    reverted = board.run(f"{QFLARE} board revert")
    assert "cmdline.txt: as it was" in reverted
    assert board.run(f"sha256sum {both}") == before
    board.run(f"{QFLARE} board apply --write")
    # The driver that a machine without a watchdog of its own has.
    board.run("echo softdog > /etc/modules-load.d/softdog.conf")


def board_is_as_its_profile_says(board: Board) -> None:
    """After the restart that `apply` asks for."""
    assert board.run("systemctl show -p RuntimeWatchdogUSec --value") == "15s"
    found = json.loads(board.run(f"{QFLARE} board check --json; true"))
    states = {finding["what"]: finding["state"] for finding in found["findings"]}
    for what in ("64-bit system", "memory can be limited", "watchdog", "board's files"):
        assert states[what] == "ok", found
    assert states["watchdog device"] == "ok", found


def trains_when_it_may(board: Board, fleet: Fleet) -> None:
    """Held by a person it says so and sends nothing; let go, it waits for what is new to learn."""
    board.run(
        "sed -i '/^\\[gates\\]/,$d' /etc/qflare/edge.toml && printf '%s\\n' '[gates]'"
        " 'every_seconds = 5' 'rest_seconds = 5' 'settle_seconds = 0'"
        " '[gates.load]' 'enabled = false' '[gates.samples]' 'new = 50'"
        " >> /etc/qflare/edge.toml"
    )
    board.run("mkdir -p /run/qflare && echo 'the lathe runs' > /run/qflare/hold")
    board.run("systemctl reload qflare-edge")
    board.until(_STATUS, "the lathe runs")
    begun = len(rounds(fleet))
    until(lambda: len(rounds(fleet)) > begun + 1, "no round without the board", 300)
    assert rounds(fleet)[begun]["admitted"] == 1
    board.run("rm /run/qflare/hold")
    board.until(_STATUS, r"paused: .*\d new samples")
    waits = len(rounds(fleet)) - 1  # the round that it is in, or the last one
    board.run("touch /srv/samples.npz")
    until(
        lambda: any(round_["admitted"] == 2 for round_ in rounds(fleet)[waits:]),
        "no round with the board when there was something new",
        300,
    )
    board.run("sed -i 's/^new = 50/new = 0/' /etc/qflare/edge.toml && systemctl reload qflare-edge")
