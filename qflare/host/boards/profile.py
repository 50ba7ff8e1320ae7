"""A board's profile: the form of firmware_config/boards/*.toml, and the way to read one."""

import tomllib
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from qflare.faults import LocalFault
from qflare.host.typed import Typed, Unfit, parse

_MIB: Final = 2**20
_PACKAGE: Final = "firmware_config"

Text = Annotated[str, Meta(min_length=1)]
Celsius = Annotated[float, Meta(ge=30, le=125)]
# The firmware reads no more of a line; a `dtparam` would belong to whichever overlay stands last
# before it (raspberrypi/documentation, config.txt), so a profile has none.
ConfigLine = Annotated[str, Meta(max_length=98, pattern=r"^(?!dtparam=)[a-z0-9_]+=[^\s\"#]+$")]
KernelWord = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.]+(=[^\s\"]+)?$")]
KernelPattern = Annotated[str, Meta(pattern=r"^[^\s\"]+$")]
UartAddress = Annotated[str, Meta(pattern=r"^[0-9a-f]{6,12}$")]


class Recognise(Typed):
    """Patterns (as of fnmatch) for an entry of the device tree's `compatible`."""

    compatible: tuple[Text, ...] = ()


class Processor(Typed):
    """`aes`: has AES instructions, so that AES-GCM is its fast AEAD; else ChaCha20-Poly1305 is."""

    name: Text
    cores: Annotated[int, Meta(ge=1, le=64)]
    aes: bool


class Memory(Typed):
    """In MiB. `training`: what the training process may take while the rest of the system works."""

    total_mib: Annotated[int, Meta(ge=256)]
    training_mib: Annotated[int, Meta(ge=64)]


class Thermal(Typed):
    """In °C: training is held from `hold` on, resumes below `resume`; the maker throttles later."""

    zones: tuple[Text, ...]  # by `type` below /sys/class/thermal
    hold: Celsius
    resume: Celsius
    throttles: Celsius
    source: Text

    def __post_init__(self) -> None:
        if not self.resume < self.hold < self.throttles:
            raise ValueError("resume: want resume < hold < throttles")


class PowerMode(Typed):
    """A mode of nvpmodel, by name: its numbers differ from module to module."""

    name: Text
    shows: Text


class Power(Typed):
    modes: tuple[PowerMode, ...] = ()
    note: str = ""


class Watchdog(Typed):
    """`seconds` goes into RuntimeWatchdogSec; more than `max_seconds` and the kernel refuses it."""

    driver: Text
    seconds: Annotated[int, Meta(ge=5, le=120)]
    max_seconds: Annotated[int, Meta(ge=5)] | None = None  # None: not known

    def __post_init__(self) -> None:
        if self.max_seconds is not None and self.seconds > self.max_seconds:
            raise ValueError("seconds: more than max_seconds")


class Uart(Typed):
    """One UART, told by its address: names such as ttyAMA0 and serial0 change with settings."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9-]+$")]
    address: UartAddress  # as in /sys/devices/**/<address>.serial
    kind: Text
    where: Text  # pins or connector
    when: Text  # on which condition it is there


class Serial(Typed):
    """How to give the pins of the header to a sensor, or to a login console.

    `sensor`: the name of the UART that a sensor then gets. Words for the kernel are patterns of
    what has to go, and words that have to be there, first in the line.
    """

    sensor: Text
    why: Text
    sensor_config: tuple[ConfigLine, ...] = ()
    sensor_remove: tuple[KernelPattern, ...] = ()
    console_config: tuple[ConfigLine, ...] = ()
    console_words: tuple[KernelWord, ...] = ()
    console_unless: tuple[KernelPattern, ...] = ()


class Boot(Typed):
    """The firmware's files, where a board has such: config.txt and cmdline.txt."""

    filters: tuple[Text, ...]  # sections of config.txt that apply to every board of this profile
    config: tuple[ConfigLine, ...] = ()
    words: tuple[KernelWord, ...] = ()
    remove: tuple[KernelPattern, ...] = ()


class Tpm(Typed):
    note: Text
    config: tuple[ConfigLine, ...] = ()


class Led(Typed):
    name: Text
    shows: Text


class Cost(Typed):
    """`speed` of one core, in units of the reference core in edge_runtime/models/timing.py.

    An estimate, good to a factor of two either way: no figure was measured on a board.
    """

    speed: Annotated[float, Meta(gt=0, lt=10)]
    source: Text
    assumption: Text


class Board(Typed):
    """All that is known about a kind of board."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9-]+$")]
    title: Text
    family: Literal["raspberry-pi", "jetson", "generic"]
    note: Text
    recognise: Recognise
    processor: Processor
    memory: Memory
    threads: Annotated[int, Meta(ge=1, le=16)]  # for training, so that others have cores too
    thermal: Thermal
    watchdog: Watchdog
    power: Power = Power()
    uart: tuple[Uart, ...] = ()
    serial: Serial | None = None
    boot: Boot | None = None
    modules: tuple[Text, ...] = ()
    tpm: Tpm | None = None
    led: tuple[Led, ...] = ()
    cost: Cost | None = None

    def __post_init__(self) -> None:
        if self.serial and self.serial.sensor not in {uart.name for uart in self.uart}:
            raise ValueError(f"serial: no [[uart]] is named {self.serial.sensor}")

    @property
    def memory_bytes(self) -> int:
        return self.memory.total_mib * _MIB

    @property
    def memory_for_training(self) -> int:
        return self.memory.training_mib * _MIB


def names() -> tuple[str, ...]:
    """Every board that has a profile, in the alphabet's order."""
    return tuple(sorted(_files()))


def load(name: str) -> Board:
    """The profile called `name`; LocalFault if there is none, or if it is wrong."""
    if name not in _files():
        raise LocalFault(f"no board is called {name[:40]!r}; known are: {', '.join(names())}")
    return _read(name)


def every() -> tuple[Board, ...]:
    """All profiles."""
    return tuple(map(load, names()))


def estimated() -> tuple[tuple[Board, Cost], ...]:
    """The boards that the cost of training can be estimated for, the slowest first."""
    found = [(board, board.cost) for board in every() if board.cost]
    return tuple(sorted(found, key=lambda pair: (pair[1].speed, pair[0].name)))


def parse_profile(name: str, data: bytes) -> Board:
    """A profile from the bytes of its TOML file; LocalFault names every fault."""
    try:
        tree: dict[str, Any] = tomllib.loads(data.decode())
        return parse(Board, {**tree, "name": name})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, Unfit) as error:
        raise LocalFault(f"board {name}: {error}; correct firmware_config/boards") from None


@cache
def _files() -> dict[str, Traversable]:
    try:
        folder = resources.files(_PACKAGE) / "boards"
        found = [file for file in folder.iterdir() if file.name.endswith(".toml")]
    except (ModuleNotFoundError, FileNotFoundError):
        raise LocalFault(
            "the boards' profiles aren't installed; install the package `qflare` again"
        ) from None
    return {file.name.removesuffix(".toml"): file for file in found}


@cache
def _read(name: str) -> Board:
    return parse_profile(name, _files()[name].read_bytes())


def tree_of(board: Board) -> dict[str, Any]:
    """The profile as dicts, lists and scalars."""
    tree: dict[str, Any] = msgspec.to_builtins(board)
    return tree
