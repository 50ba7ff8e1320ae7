"""Boards: the profiles are sound, and a device finds out which of them is its own."""

import re
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qflare.faults import LocalFault
from qflare.host import boards
from qflare.host.boards import facts
from qflare.host.boards.profile import parse_profile
from qflare.host.boards.recognise import choose, compatible, model, userland

NAMES = (
    *("generic-arm64", "jetson-agx-orin", "jetson-orin-nano", "jetson-orin-nx"),
    *("rpi-zero2w", "rpi3", "rpi4", "rpi5"),
)
FILES = Path(__file__).parents[2] / "firmware_config" / "boards"


def device_tree(root: Path, *entries: str, model: str = "a board") -> Path:
    """A root whose device tree says so."""
    folder = root / "sys/firmware/devicetree/base"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "compatible").write_bytes(b"".join(entry.encode() + b"\0" for entry in entries))
    (folder / "model").write_bytes(model.encode() + b"\0")
    return root


def program(root: Path, machine: int) -> Path:
    """A root with one program, for the processor of this ELF number."""
    path = root / "usr/bin/env"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, machine))
    return root


def test_every_profile_is_there_and_sound() -> None:
    assert boards.names() == NAMES
    for board in boards.every():
        assert board == boards.load(board.name)
        assert board.memory_for_training <= board.memory_bytes / 2
        assert board.threads <= board.processor.cores
        assert board.note
        if board.family == "raspberry-pi":
            assert board.watchdog.seconds <= 15
            assert board.boot is not None
            assert "cgroup_enable=memory" in board.boot.words
            assert board.tpm is not None
        if board.family != "generic":
            assert len(board.uart) == 2
            assert board.serial is not None
            assert board.serial.sensor != "serial0"
            assert board.led
    modes = {mode.name for mode in boards.load("jetson-orin-nano").power.modes}
    assert modes == {"7W", "15W", "25W", "MAXN_SUPER"}


def test_estimates_say_where_they_come_from() -> None:
    found = boards.estimated()
    assert {board.name for board, _ in found} == set(NAMES) - {"generic-arm64"}
    for _, cost in found:
        assert cost.source
        assert cost.assumption
    speeds = [cost.speed for _, cost in found]
    assert speeds == sorted(speeds)


def test_thirty_two_bits_are_refused_in_words() -> None:
    assert "32-bit" in boards.load("generic-arm64").note


@pytest.mark.parametrize(
    ("entries", "name"),
    [
        (("raspberrypi,model-zero-2-w", "brcm,bcm2837"), "rpi-zero2w"),
        (("raspberrypi,3-model-b-plus", "brcm,bcm2837"), "rpi3"),
        (("raspberrypi,3-compute-module", "brcm,bcm2837"), "rpi3"),
        (("raspberrypi,400", "brcm,bcm2711"), "rpi4"),
        (("raspberrypi,4-compute-module", "brcm,bcm2711"), "rpi4"),
        (("raspberrypi,5-compute-module", "brcm,bcm2712"), "rpi5"),
        (("raspberrypi,500", "brcm,bcm2712"), "rpi5"),
        (("nvidia,p3768-0000+p3767-0005-super", "nvidia,tegra234"), "jetson-orin-nano"),
        (("nvidia,p3509-0000+p3767-0003", "nvidia,tegra234"), "jetson-orin-nano"),
        (
            ("nvidia,p3768-0000+p3767-0000", "nvidia,p3767-0000", "nvidia,tegra234"),
            "jetson-orin-nx",
        ),
        (("nvidia,p3737-0000+p3701-0005", "nvidia,p3701-0005"), "jetson-agx-orin"),
    ],
)
def test_a_board_is_recognised_by_its_device_tree(
    tmp_path: Path, entries: tuple[str, ...], name: str
) -> None:
    root = device_tree(tmp_path, *entries, model="this one")
    found = boards.detect(root)
    assert found is not None
    assert found.name == name
    assert compatible(root) == entries
    assert model(root) == "this one"


@pytest.mark.parametrize(
    "entry", ["raspberrypi,model-zero-w", "nvidia,p3450-0000", "raspberrypi,50"]
)
def test_an_unknown_board_is_a_generic_one_if_it_is_a_64_bit_one(
    tmp_path: Path, entry: str
) -> None:
    root = device_tree(tmp_path, entry)
    assert boards.detect(root) is None
    with pytest.raises(LocalFault, match="a board is no board that we know"):
        choose(None, root)
    assert choose("rpi4", root).name == "rpi4"
    program(root, 40)
    assert userland(root) == "arm"
    assert boards.detect(root) is None
    program(root, 183)
    assert userland(root) == "aarch64"
    assert choose(None, root).name == "generic-arm64"


def test_what_is_called_wrongly_is_refused_with_the_names() -> None:
    with pytest.raises(LocalFault, match="rpi-zero2w"):
        boards.load("../rpi4")


@settings(deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=40))
def test_garbage_in_the_device_tree_is_no_board(
    tmp_path_factory: pytest.TempPathFactory, tree: bytes, head: bytes
) -> None:
    root = tmp_path_factory.mktemp("root")
    device_tree(root)
    (root / "sys/firmware/devicetree/base/compatible").write_bytes(tree)
    program(root, 0)
    (root / "usr/bin/env").write_bytes(head)
    boards.detect(root)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("cores = 4", "cores = 0", "processor.cores"),
        ("aes = false", "aes = 1", "processor.aes"),
        ("seconds = 15\n", "seconds = 16\n", "max_seconds"),
        ("resume = 68", "resume = 76", "resume < hold"),
        ('address = "fe201000"', 'address = "serial0"', "uart"),
        ('sensor = "uart0"', 'sensor = "uart7"', "uart7"),
        ('"enable_uart=1", ', '"dtparam=uart0=on", ', "sensor_config"),
        ('"cgroup_enable=memory"', '"cgroup enable"', "boot.words"),
        ("family", "kind", "family"),
    ],
)
def test_a_wrong_profile_is_refused_with_the_key(old: str, new: str, says: str) -> None:
    text = (FILES / "rpi4.toml").read_text()
    assert old in text
    with pytest.raises(LocalFault, match=says):
        parse_profile("rpi4", text.replace(old, new).encode())


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_garbage_is_refused_as_a_profile(data: bytes) -> None:
    with pytest.raises(LocalFault):
        parse_profile("garbage", data)


def test_udev_rules_name_every_uart_of_the_profiles_and_have_no_typing_errors() -> None:
    rules = {path.name: path.read_text() for path in (FILES.parent / "udev").glob("*.rules")}
    assert set(rules) == {"60-qflare-board.rules", "60-qflare-laptop.rules"}
    for board in boards.every():
        for uart in board.uart:
            name = f'KERNELS=="{uart.address}.serial", SYMLINK+="qflare/{uart.name}"'
            assert name in rules["60-qflare-board.rules"]
    term = r'[A-Z_]+(\{[^}]+\})?(==|!=|=|\+=|:=)"[^"]*"'
    for text in rules.values():
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        assert all(re.fullmatch(rf"{term}(, {term})*", line) for line in lines)
        goals = {m for line in lines for m in re.findall(r'GOTO="(\w+)"', line)}
        assert goals == {m for line in lines for m in re.findall(r'LABEL="(\w+)"', line)}


@pytest.mark.parametrize("soc", ["soc", "soc@107c000000"])
def test_what_slowed_the_board_is_read_without_its_program(soc: str, tmp_path: Path) -> None:
    word = tmp_path / f"sys/devices/platform/{soc}/{soc}:firmware/get_throttled"
    word.parent.mkdir(parents=True)
    word.write_text("50004\n")
    assert facts.throttling(tmp_path) == [
        "it is throttled",
        "the voltage was too low",
        "it was throttled",
    ]
    word.write_text("0\n")
    assert facts.throttling(tmp_path) == []
    word.write_text("many\n")
    assert facts.throttling(tmp_path) is None
