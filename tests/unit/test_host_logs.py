"""Logs: one line per event, and nothing secret in them, whatever is thrown at them."""

import errno
import io
import json
import logging
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from qflare.faults import PeerFault, Reason
from qflare.host import logs, redact
from qflare.names import Digest


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def written(environ: dict[str, str] | None = None, **fields: Any) -> str:
    out = io.StringIO()
    logs.configure("test", fmt="json", environ=environ or {}, stderr=out)
    logs.get_logger("room").warning("something happened", **fields)
    return out.getvalue()


def test_a_line_is_json_with_who_when_and_what() -> None:
    line = json.loads(
        written(device="dev-1", size=3, reason=Reason.TOO_LARGE, ratio=np.float32(0.5))
    )
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "warning",
        "component": "test",
        "event": "something happened",
        "logger": "room",
        "device": "dev-1",
        "size": 3,
        "reason": "too_large",
        "ratio": 0.5,
    }


SECRET = "hunter2-hunter2"


@pytest.mark.parametrize(
    "fields",
    [
        {"password": SECRET},
        {"dbPassword": SECRET},
        {"kem_seed": SECRET},
        {"private_key": SECRET},
        {"api-key": SECRET},
        {"enrol_token": SECRET},
        {"payload": SECRET},
        {"config": {"link": {"password": SECRET}}},
        {"many": [{"secret": SECRET}]},
        {"data": SECRET.encode()},
        {"data": bytearray(SECRET.encode())},
        {"data": memoryview(SECRET.encode())},
        {"data": [SECRET.encode()]},
        {"update": np.frombuffer(SECRET.encode(), np.uint8)},
        {"note": f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----"},
        {"thing": type("Thing", (), {"__repr__": lambda _self: SECRET})()},
    ],
)
def test_secrets_and_bytes_stay_inside(fields: dict[str, Any]) -> None:
    text = written(**fields)
    assert SECRET not in text
    assert json.loads(text)["event"] == "something happened"


def test_what_only_speaks_about_a_secret_is_shown() -> None:
    line = json.loads(
        written(password_file=Path("/etc/x"), key_id="k1", payload_bytes=12, digest=Digest.of(b""))
    )
    assert (line["password_file"], line["key_id"], line["payload_bytes"]) == ("/etc/x", "k1", 12)
    assert line["digest"].startswith("e3b0c442")


@given(st.text(max_size=2000), st.text(min_size=1, max_size=30))
def test_no_text_makes_a_second_line_or_reaches_the_terminal_as_a_command(
    value: str, other: str
) -> None:
    text = written(note=value, error=PeerFault(Reason.MALFORMED, other))
    assert text.count("\n") == 1
    assert all(c.isprintable() for c in text[:-1])
    assert json.loads(text)["logger"] == "room"


def test_pretty_output_carries_no_escape_sequence_of_a_strangers() -> None:
    out = io.StringIO()
    logs.configure("test", fmt="pretty", environ={}, stderr=out)
    logs.get_logger("room").info("hello", detail="\x1b[2J\x07\r\nroot: all is well")
    assert "\x1b" not in out.getvalue()
    assert out.getvalue().count("\n") == 1


def test_an_essay_is_cut() -> None:
    assert len(written(note="x" * 1_000_000)) < 1000
    assert len(redact.clean_text("x" * 1_000_000)) < 600


def test_an_exception_says_where_and_what_but_no_variables() -> None:
    out = io.StringIO()
    logs.configure("test", fmt="json", environ={}, stderr=out)
    try:
        inner = SECRET + "-in-a-variable"
        raise ValueError(len(inner))
    except ValueError:
        logs.get_logger("room").exception("failed")
    line = json.loads(out.getvalue())
    assert line["error"].startswith("ValueError: ")
    assert line["trace"][0].startswith("test_host_logs.py:")
    assert SECRET not in out.getvalue()


def test_the_journal_gets_priorities() -> None:
    assert written({"JOURNAL_STREAM": "8:1"}).startswith('<4>{"timestamp"')


def test_a_file_is_private_and_appended(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for _ in range(2):
        logs.configure("test", file=path)
        logs.get_logger("room").info("hello")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["hello"] * 2


def test_a_full_disk_costs_a_line_and_nothing_else(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.symlink_to("/dev/full")  # every write there fails by ENOSPC, see full(4)
    logs.configure("test", fmt="json", file=full)
    for _ in range(3):
        logs.get_logger("room").error("something happened", detail="x" * 1000)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_file_that_the_disk_refuses_is_no_reason_not_to_start(
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        logs.configure("test", fmt="json", file=tmp_path / "log")
    logs.get_logger("room").error("something happened")
    said = capsys.readouterr().err
    assert os.strerror(number) in said
    assert "something happened" in said


def test_a_folder_that_isnt_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        logs.configure("test", file=tmp_path / "nowhere" / "log")


def test_libraries_take_the_same_way_out() -> None:
    out = io.StringIO()
    logs.configure("test", fmt="json", environ={}, stderr=out)
    logging.getLogger("paho").warning("odd: %s", "\x1b[31m")
    line = json.loads(out.getvalue())
    assert (line["logger"], line["event"]) == ("paho", "odd: \\x1b[31m")
    assert sys.stderr is not out


def test_a_logger_made_before_configure_obeys_it(tmp_path: Path) -> None:
    early = logs.get_logger("early")
    logs.configure("part", "json", tmp_path / "log")
    early.info("said late")
    assert json.loads((tmp_path / "log").read_text())["event"] == "said late"
