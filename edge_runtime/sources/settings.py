"""`[data]` of edge.toml: where samples come from and what they mean. No numpy: the daemon reads it.

One class for every kind, so that the environment can set each key and a wrong one is named. What
doesn't fit together is refused when the section is made.
"""

import math
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from qflare.host.config import Settings

Kind = Literal["npz", "npz-folder", "csv", "parquet", "camera", "serial", "mqtt", "plugin"]
FOLDERS: Final = frozenset({"npz-folder", "csv", "parquet", "camera"})

_Name = Annotated[str, Meta(min_length=1, max_length=200)]
_Finite = Annotated[float, Meta(ge=-1e30, le=1e30)]
_Seconds = Annotated[float, Meta(gt=0, le=7 * 86_400)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Baud = Annotated[int, Meta(ge=50, le=12_000_000)]


class Channel(Settings):
    """One value of a sample: `field` says where it is found, `name` what the model calls it.

    What arrives is multiplied by `factor` and `offset` is added; that is in `unit`, and so are
    `low` and `high`, the ends of the sensor's range. A channel that `may_rest`, such as a switch,
    isn't stuck when it doesn't change.
    """

    name: _Name
    unit: _Name = "1"
    field: _Name | None = None
    factor: _Finite = 1.0
    offset: _Finite = 0.0
    low: _Finite | None = None
    high: _Finite | None = None
    may_rest: bool = False

    def __post_init__(self) -> None:
        given = [v for v in (self.factor, self.offset, self.low, self.high) if v is not None]
        if not all(map(math.isfinite, given)) or self.factor == 0:
            raise ValueError(
                f"channel {self.name}: factor, offset, low, high: finite, factor not 0"
            )
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"channel {self.name}: low has to be below high")

    @property
    def source(self) -> str:
        """The field that it is read from."""
        return self.field or self.name


class TimeSection(Settings):
    """When a sample was taken: a field that says so, or its arrival.

    `unit` is what the field counts, or "iso" for ISO 8601. A counter since the sensor's start
    begins again at 2**`wraps_bits`; 0 if it never does.
    """

    field: _Name | None = None
    unit: Literal["s", "ms", "us", "ns", "iso"] = "s"
    wraps_bits: Annotated[int, Meta(ge=0, le=64)] = 0


class LabelSection(Settings):
    """Where labels come from: a field of each sample, a file of intervals, the folder, or nowhere.

    `fields` name the class; with `numbers`, they are the numbers that a regression or several
    labels at once want. `names` turn what is read into the model's names, such as 1 = "walking".
    """

    origin: Literal["none", "field", "file", "folder"] = "none"
    fields: Annotated[tuple[_Name, ...], Meta(max_length=64)] = ()
    numbers: bool = False
    file: Path | None = None
    names: dict[str, str] = {}  # noqa: RUF012 -- msgspec copies it


class WindowSection(Settings):
    """How examples are cut from samples in a row; their length is the model's.

    `stride` samples from one window's start to the next, 0 for half a window. `keep_every` n-th
    sample only: 2 makes 50 Hz of 100 Hz. A pause above `max_gap_s` (0: three intervals) ends a
    recording, and no window crosses it.
    """

    stride: Annotated[int, Meta(ge=0, le=2**20)] = 0
    keep_every: Annotated[int, Meta(ge=1, le=10_000)] = 1
    max_gap_s: Annotated[float, Meta(ge=0, le=86_400)] = 0.0


class HoldoutSection(Settings):
    """What is kept for testing, by a hash of its time or its name, so that it never changes sides.

    Time is divided into pieces of `span_s` (`span_rows` where rows have no time), and each piece is
    on one side. A window across both sides is on neither, so a piece should be many windows long.
    """

    share: Annotated[float, Meta(ge=0, lt=1)] = 0.2
    span_s: _Seconds = 60.0
    span_rows: Annotated[int, Meta(ge=1, le=2**30)] = 4096


class QualitySection(Settings):
    """When a window is left out. 0 turns a gate off, except that NaN never trains.

    `stuck_rows`: a channel that shows one value for a whole window of at least so many rows is
    stuck. `clipped`: the largest share of values at the ends of a channel's range. `missing`: by
    how much of its length a window may last longer or shorter than its rate says. `drift`: how many
    of the manifest's scales a window's mean may be away from the manifest's mean.
    """

    stuck_rows: Annotated[int, Meta(ge=0, le=2**20)] = 16
    clipped: _Share = 0.02
    missing: _Share = 0.1
    drift: Annotated[float, Meta(ge=0, le=1e6)] = 10.0


class RingSection(Settings):
    """How collected samples are kept: at most `quota_mb`, written every `flush_s`.

    They are encrypted if the device has a storage key (AES-256-GCM).
    """

    quota_mb: Annotated[int, Meta(ge=1, le=65_536)] = 64
    flush_s: Annotated[float, Meta(ge=1, le=3600)] = 30.0
    queue: Annotated[int, Meta(ge=16, le=2**20)] = 8192  # samples that wait; more are dropped


class FormatSection(Settings):
    """How one message is read: text with separators, a JSON object, or a C structure.

    `fields` name the places of text and structure; "-" is one that nobody wants. A JSON field may
    be a path: imu.ax, or imu.0 in a list. `layout` is as in Python's struct, such as "<Ihhh".
    """

    encoding: Literal["csv", "json", "struct"] = "csv"
    separator: Annotated[str, Meta(min_length=1, max_length=1)] = ","
    fields: Annotated[tuple[_Name, ...], Meta(max_length=4096)] = ()
    layout: Annotated[str, Meta(max_length=256)] = ""


class SerialSection(Settings):
    """A sensor on a serial line.

    `port` should be a name that stays, as in /dev/serial/by-id. Frames are lines, COBS packets that
    end with a zero byte, or `sync` bytes (hexadecimal), a length in `length_bytes` (0: the
    layout's), a payload. `checksum` follows the payload in binary frames; in lines it is
    hexadecimal behind the last "*". It covers what follows the sync bytes, or the `covers` part.
    """

    port: str = ""
    baud: _Baud = 115_200
    parity: Literal["none", "even", "odd"] = "none"
    stop_bits: Literal[1, 2] = 1
    flow: Literal["none", "rtscts", "xonxoff"] = "none"
    framing: Literal["lines", "cobs", "sync"] = "lines"
    sync: Annotated[str, Meta(pattern=r"^([0-9a-fA-F]{2}){1,8}\Z")] = "aa55"
    length_bytes: Literal[0, 1, 2] = 1
    byte_order: Literal["little", "big"] = "little"  # of length and checksum
    checksum: Literal["none", "xor", "crc8", "crc16"] = "none"
    crc_start: Annotated[int, Meta(ge=0, le=0xFFFF)] | None = None  # 0xFFFF; of crc8, 0
    covers: Literal["payload", "length", "all"] = "payload"
    silent_s: _Seconds = 10.0  # without a byte, the port is opened again
    backoff_max_s: _Seconds = 30.0


class MqttSection(Settings):
    """Topics of a broker nearby, often the device's own. Retained messages are old: not taken."""

    url: str = "mqtt://127.0.0.1:1883"
    topics: Annotated[tuple[_Name, ...], Meta(max_length=64)] = ()
    username: str = ""
    password_file: Path | None = None
    protocol: Literal["auto", "5", "3.1.1"] = "auto"


class CameraSection(Settings):
    """Pictures in a folder. `full_scale` is white's value; `fit` says how shapes are fitted."""

    full_scale: Annotated[float, Meta(gt=0, le=65_535)] = 1.0
    fit: Literal["crop", "stretch"] = "crop"


class PluginSection(Settings):
    """A package's entry point in the group `qflare.sources`, and what it is told.

    "collect": it yields samples, in the collector. "examples": it supplies whole examples, in the
    training process.
    """

    name: str = ""
    mode: Literal["collect", "examples"] = "collect"
    options: dict[str, str | int | float | bool] = {}  # noqa: RUF012 -- msgspec copies it


class DataSection(Settings):
    """Where the samples come from. `path` is a file, a folder, or where collected samples go."""

    path: Path
    kind: Kind = "npz"
    rate_hz: Annotated[float, Meta(ge=0, le=1e7)] = 0.0  # samples a second; 0: not at a rate
    channels: Annotated[tuple[Channel, ...], Meta(max_length=4096)] = ()
    format: FormatSection = FormatSection()
    time: TimeSection = TimeSection()
    label: LabelSection = LabelSection()
    window: WindowSection = WindowSection()
    holdout: HoldoutSection = HoldoutSection()
    quality: QualitySection = QualitySection()
    ring: RingSection = RingSection()
    serial: SerialSection = SerialSection()
    mqtt: MqttSection = MqttSection()
    camera: CameraSection = CameraSection()
    plugin: PluginSection = PluginSection()

    def __post_init__(self) -> None:
        for wrong, says in self._rules():
            if wrong:
                raise ValueError(says)

    def _rules(self) -> list[tuple[bool, str]]:
        names = [channel.name for channel in self.channels]
        fields, label = self.format.fields, self.label
        messages = self.kind in ("serial", "mqtt")
        binary = messages and self.format.encoding == "struct"
        wanted = {channel.source for channel in self.channels} | set(label.fields)
        wanted |= {self.time.field} if self.time.field else set()
        missing = sorted(wanted - set(fields))
        named = [name for name in fields if name != "-"]
        return [
            (len(set(names)) != len(names), "channels: two have one name"),
            (self.collected and not names, "channels: name at least one"),
            (self.kind == "serial" and not self.serial.port, "serial.port: name the port"),
            (self.kind == "mqtt" and not self.mqtt.topics, "mqtt.topics: name at least one"),
            (self.kind == "plugin" and not self.plugin.name, "plugin.name: name the entry point"),
            (binary and not self.format.layout, 'format.layout: give one, such as "<Ihhh"'),
            (len(set(named)) != len(named), "format.fields: two have one name"),
            (
                messages and self.format.encoding != "json" and bool(missing),
                f"format.fields: {', '.join(missing[:5])} isn't among them",
            ),
            (
                self.kind == "serial" and self.serial.framing == "lines" and binary,
                'serial.framing: a structure needs "cobs" or "sync"',
            ),
            (
                label.origin == "field" and not label.fields,
                "label.fields: name the field that holds the label",
            ),
            (
                len(label.fields) > 1 and not label.numbers,
                "label.fields: a class has one field; for numbers set label.numbers",
            ),
            (
                label.numbers and label.origin == "folder",
                "label.numbers: a folder's name is a class",
            ),
            (label.origin == "file" and label.file is None, "label.file: name the file"),
            (
                label.origin == "folder" and self.kind not in FOLDERS - {"npz-folder"},
                "label.origin: only files in folders are labelled by their folder",
            ),
        ]

    @property
    def collected(self) -> bool:
        """Do samples come through the collector and its ring?"""
        collects = self.kind == "plugin" and self.plugin.mode == "collect"
        return self.kind in ("serial", "mqtt") or collects

    @property
    def counted(self) -> bool:
        """Can new samples be counted without opening all that there is?"""
        return self.collected or self.kind in ("npz", "npz-folder", "csv", "camera")

    def under(self, base: Path) -> "DataSection":
        """The same with relative paths below `base`, the configuration file's directory.

        But for the password's: a secret may be a credential.
        """
        replace = msgspec.structs.replace

        def below(path: Path | None) -> Path | None:
            return None if path is None else base / path

        return replace(
            self,
            path=base / self.path,
            label=replace(self.label, file=below(self.label.file)),
        )
