"""Configuration: strict, overridable, and helpful when it is wrong."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import pytest
from msgspec import Meta

from qflare.host.config import ConfigFault, Settings, Source, load
from qflare.host.config_show import describe


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class LinkSection(Settings):
    url: str = "mqtt://127.0.0.1:1883"
    keepalive_s: Annotated[int, Meta(gt=0)] = 60
    password: str | None = None
    password_file: Path | None = None


class Config(Settings):
    name: str
    colour: Colour = Colour.RED
    ratio: float = 0.5
    tags: tuple[str, ...] = ()
    link: LinkSection = LinkSection()


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "edge.toml"
    path.write_text(text)
    return path


def test_default_file_and_environment_in_this_order(tmp_path: Path) -> None:
    path = write(tmp_path, 'name = "a"\ntags = ["x"]\n[link]\nkeepalive_s = 30\nurl = "mqtt://b"\n')
    env = {
        "QFLARE_EDGE__LINK__KEEPALIVE_S": "20",
        "QFLARE_EDGE__COLOUR": "blue",
        "QFLARE_EDGE__RATIO": "1",
        "QFLARE_EDGE__LINK__PASSWORD": "hunter2",
        "QFLARE_EDGE__LINK__PASSWORD_FILE": "/run/p",
        "QFLARE_COORDINATOR__NAME": "not ours",
    }
    loaded = load(Config, "edge", path, env)
    assert loaded.value.link.keepalive_s == 20
    assert loaded.value.colour is Colour.BLUE
    assert loaded.value.ratio == 1.0
    assert loaded.value.link.password_file == Path("/run/p")
    lines = {line.key: line for line in describe(loaded)}
    assert lines["name"].source is Source.FILE
    assert lines["link.url"].value == "mqtt://b"
    assert lines["link.keepalive_s"].source is Source.ENVIRONMENT
    assert lines["link.password"].value == "[hidden]"
    assert lines["link.password_file"].value == "/run/p"
    assert lines["tags"].value == ["x"]
    assert lines["ratio"].source is Source.ENVIRONMENT
    assert "hunter2" not in str(lines)


@pytest.mark.parametrize("text", ["1234", "true", "plain words", '"quoted"', "a\nname = 'b'"])
def test_text_from_the_environment_needs_no_quotes(text: str) -> None:
    assert load(Config, "edge", None, {"QFLARE_EDGE__NAME": text}).value.name == text.strip('"')


@pytest.mark.parametrize(
    ("text", "env", "expected"),
    [
        ("", {}, "name: is missing; set it there or in QFLARE_EDGE__NAME"),
        ('name = "a"\nnmae = 1', {}, "nmae: is no setting that we know"),
        ('name = "a"\n[link]\nkeepalive_s = 0', {}, "link.keepalive_s: "),
        ('name = "a"\n[link]\nkeepalive_s = "60"', {}, "not '60'; change it there"),
        ('name = "a"\nratio = nan', {}, "ratio"),
        ('name = "a"\ncolour = "green"', {}, "colour: "),
        ("name = ", {}, "not TOML"),
        (
            'name = "a"',
            {"QFLARE_EDGE__LINK__KEEPALIVE_S": "soon"},
            "QFLARE_EDGE__LINK__KEEPALIVE_S: ",
        ),
        ('name = "a"', {"QFLARE_EDGE__NAME__X": "1"}, "QFLARE_EDGE__NAME__X: name is a value"),
        ('name = "a"', {"QFLARE_EDGE__LIMK__URL": "x"}, "is no setting that we know"),
    ],
)
def test_what_is_wrong_is_said(
    tmp_path: Path, text: str, env: dict[str, str], expected: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigFault) as caught:
        load(Config, "edge", path, env)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value) or "QFLARE_EDGE" in str(caught.value)
    assert caught.value.exit_code == 78


def test_a_secret_is_not_repeated_in_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, 'name = "a"\n[link]\npassword = 987654321')
    with pytest.raises(ConfigFault) as caught:
        load(Config, "edge", path, {})
    assert "987654321" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault, match="no such file"):
        load(Config, "edge", tmp_path / "none.toml", {})
    with pytest.raises(ConfigFault, match="regular file"):
        load(Config, "edge", Path("/dev/null"), {})
    (tmp_path / "bin.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigFault, match="not TOML"):
        load(Config, "edge", tmp_path / "bin.toml", {})
