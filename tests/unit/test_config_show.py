"""`qflare config show`: what is printed can be pasted back, and says no secret."""

import tomllib
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.config import EdgeConfig
from qflare.host.config import Loaded, Settings, Source, load
from qflare.host.config_show import as_json, as_toml
from qflare.host.redact import looks_secret

EDGE = """
[device]
fleet = "demo"
name = "dev-1"
state_dir = "state"
key = "device.seed"
certificate = "device.der"
owner_key = "owner.pub"
[broker]
url = "mqtts://broker.example"
[training]
insecure_seed = 1234567
[transfer]
quiet = [{ start = "22:00", end = "06:00", days = ["mon"] }, { start = "12:00", end = "13:00" }]
[gates]
timezone = "Europe/Berlin"
windows = [{ start = "22:00", end = "06:00" }]
[gates.temperature]
celsius = { closes = 70, opens = 60.5 }
[data]
kind = "csv"
path = "samples"
[[data.channels]]
name = "ax"
unit = "m/s²"
[data.label.names]
"1" = "walking"
[data.plugin.options]
folder = "x"
password = "hunter2"
"""


class Inner(Settings):
    """Seconds of it.

    More words.
    """

    text: str = ""
    token: str = ""
    numbers: tuple[float, ...] = ()
    names: dict[str, str] = {}  # noqa: RUF012 -- msgspec copies it


class Outer(Settings):
    inner: Inner = Inner()
    place: Path | None = None


def shown(tmp_path: Path) -> tuple[EdgeConfig, list[str]]:
    file = tmp_path / "edge.toml"
    file.write_text(EDGE)
    loaded = load(EdgeConfig, "edge", file, {"QFLARE_EDGE__TRAINING__THREADS": "2"})
    return loaded.value, as_toml(loaded)


def test_what_is_shown_can_be_pasted_back(tmp_path: Path) -> None:
    value, lines = shown(tmp_path)
    file = tmp_path / "again.toml"
    file.write_text("\n".join(lines))
    again = load(EdgeConfig, "edge", file, {}).value
    for section in EdgeConfig.__struct_fields__:
        if section not in ("training", "data"):  # which hold secrets
            assert getattr(again, section) == getattr(value, section)
    assert again.training.threads == 2
    assert again.data.channels == value.data.channels
    assert again.data.label == value.data.label


def test_it_says_where_a_value_came_from_and_what_a_section_means(tmp_path: Path) -> None:
    _, lines = shown(tmp_path)
    said = "\n".join(lines)
    assert "# Who the device is. Paths are relative to the configuration file." in lines
    threads = next(line for line in lines if line.startswith("threads = 2"))
    assert threads.split("#")[1].strip() == "environment"
    (url,) = (line for line in lines if line.startswith('url = "mqtts:'))
    assert url.split("#")[1].strip() == "file"
    assert "Window(" not in said
    assert "Channel(" not in said
    assert '{ start = "22:00", end = "06:00", days = ["mon"] }' in said


def test_secrets_stay_in_the_file(tmp_path: Path) -> None:
    value, lines = shown(tmp_path)
    said = "\n".join(lines)
    assert "1234567" not in said
    assert "hunter2" not in said
    masked = [line for line in lines if "[hidden]" in line]
    assert masked
    assert all(line.startswith("#") for line in masked)
    file = tmp_path / "edge.toml"
    whole = as_json(load(EdgeConfig, "edge", file, {}))
    assert whole["data.plugin.options"]["value"] == {"folder": "x", "password": "[hidden]"}
    assert whole["data.plugin.options"]["source"] is Source.FILE
    assert whole["transfer.quiet"]["value"][1]["start"] == value.transfer.quiet[1].start


_text = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


@given(
    text=_text,
    numbers=st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=30),
    names=st.dictionaries(_text, _text, max_size=4),
    place=st.none() | _text.filter(lambda t: "\0" not in t and t),
)
def test_any_value_comes_back(
    text: str, numbers: list[float], names: dict[str, str], place: str | None
) -> None:
    names = {key: value for key, value in names.items() if not looks_secret(key)}
    value = Outer(Inner(text, "", tuple(numbers), names), None if place is None else Path(place))
    tree: dict[str, Any] = tomllib.loads("\n".join(as_toml(Loaded(value, {}))))
    inner = tree["inner"]
    assert inner["text"] == text
    assert tuple(inner["numbers"]) == tuple(numbers)
    assert inner["names"] == names
    assert tree.get("place") == (None if place is None else str(Path(place)))


def test_a_secret_is_a_comment() -> None:
    lines = as_toml(Loaded(Outer(Inner(token="abc")), {}))
    assert any(line.startswith('# token = "[hidden]"') for line in lines)
    assert "abc" not in "\n".join(lines)
