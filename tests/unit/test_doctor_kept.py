"""`qflare doctor` on what the device has, and the width of its page."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.config import EdgeConfig, load
from edge_runtime.doctor import command, kept, page, place, service, work
from edge_runtime.doctor.finding import State, bad
from edge_runtime.enrol_files import CERTIFICATE, MARKER, PENDING, Marker
from edge_runtime.slots import SlotManifest, Slots
from edge_runtime.storage.sealing import SEAL
from qflare.host.typed import encode
from qflare.names import Digest
from tests.gate_rig import put

LOADED = {"LoadState": "loaded", "MemoryMax": "268435456", "MemoryCurrent": "33554432"}


def configured(tmp: Path, more: str = "") -> EdgeConfig:
    (tmp / "edge.toml").write_text(
        '[device]\nfleet = "f"\nname = "d"\nstate_dir = "state"\nkey = "device.seed"\n'
        'certificate = "device.der"\nowner_key = "owner.key"\n[broker]\nurl = "mqtt://h"\n'
        f'[data]\npath = "data"\n{more}'
    )
    (tmp / "state").mkdir(mode=0o700, exist_ok=True)
    return load(tmp / "edge.toml", os.environ if not more else {}).value


def test_an_enrolment_is_told_from_its_files(tmp_path: Path) -> None:
    assert kept.check_enrolment(tmp_path).state is State.BAD
    (tmp_path / PENDING).write_bytes(b"x")
    assert kept.check_enrolment(tmp_path).state is State.WARN
    (tmp_path / PENDING).unlink()
    (tmp_path / CERTIFICATE).write_bytes(b"x")
    assert "without a ticket" in kept.check_enrolment(tmp_path).words
    fingerprint = str(Digest.of(b"key"))
    marker = Marker("fleet", "dev-1", fingerprint, "0" * 32, ("mqtts://b",), False, "", "", 1)
    (tmp_path / MARKER).write_bytes(encode(marker))
    found = kept.check_enrolment(tmp_path)
    assert found.state is State.OK
    assert "dev-1 of fleet" in found.words


def test_samples_whose_key_the_services_have_are_no_fault(tmp_path: Path) -> None:
    more = (
        'kind = "serial"\nrate_hz = 50\nserial = { port = "/dev/ttyS9" }\n'
        'format = { fields = ["ax"] }\n[[data.channels]]\nname = "ax"\n'
    )
    serial = configured(tmp_path, more)
    (tmp_path / "state" / SEAL).write_bytes(b"sealed")
    model = tmp_path / "model.tflite"
    model.write_bytes(b"never read")
    (found,) = work.check_data(serial, tmp_path / "edge.toml", model)
    assert found.state is State.SKIPPED
    assert "encrypted" in found.words


def test_the_model_of_the_applications_is_told(tmp_path: Path) -> None:
    config = configured(tmp_path)
    assert [f.state for f in kept.check_model(config)] == [State.SKIPPED]
    slots = Slots(config.serving.slots_in(config.device.state_dir))
    model, file = Digest.of(b"model"), b"the application's file"
    manifest = SlotManifest(
        model=str(model),
        graph=str(Digest.of(b"graph")),
        file=str(Digest.of(file)),
        name="watch_cnn",
        version=1,
        task="classification",
        input={},
        output=[7],
        classes=[],
        batch=16,
        examples=20,
        correct=15,
        loss_sum=9.0,
    )
    slots.stage(model, file, manifest)
    slots.activate(model, 1, 1_800_000_000.0)
    (found,) = kept.check_model(config)
    assert found.state is State.OK
    assert "15 of 20 local examples right" in found.words
    slots.refuse(Digest.of(b"another"), "it is worse here")
    assert [f.state for f in kept.check_model(config)] == [State.OK, State.WARN]


def test_a_tpm_and_encryption_are_told(tmp_path: Path) -> None:
    config = configured(tmp_path)

    def states() -> list[State]:
        return [finding.state for finding in kept.check_encryption(config, tmp_path)]

    assert states() == [State.SKIPPED, State.SKIPPED]
    put(tmp_path, {"sys/class/tpm/tpm0/x": ""})
    assert states() == [State.WARN, State.SKIPPED]
    put(tmp_path, {"dev/tpmrm0": ""})
    assert states() == [State.OK, State.SKIPPED]
    (config.device.state_dir / SEAL).write_text("{}")
    assert states() == [State.OK, State.OK]


@pytest.mark.parametrize(
    ("said", "state"),
    [
        (None, State.BAD),
        ("{}", State.BAD),
        ("[1]", State.BAD),
        ("nonsense", State.BAD),
        ('{"ok": false, "state": "the port is gone; plug it in"}', State.BAD),
        ('{"ok": true, "state": "reading"}', State.OK),
    ],
)
def test_a_collector_is_known_by_what_it_says(
    said: str | None, state: State, tmp_path: Path
) -> None:
    if said is not None:
        put(tmp_path, {str(kept.COLLECTED): said})
    assert kept.check_collector(configured(tmp_path), tmp_path).state is state


def test_the_units_limit_is_told(tmp_path: Path) -> None:
    put(tmp_path, {"sys/fs/cgroup/cgroup.controllers": "cpu memory pids\n"})
    found = service.check_memory(LOADED, tmp_path)
    assert (found.state, found.words) == (State.OK, "at most 256 MiB, 32 MiB used")
    assert service.check_memory(LOADED | {"MemoryMax": "infinity"}, tmp_path).state is State.WARN
    put(tmp_path, {"sys/fs/cgroup/cgroup.controllers": "cpu pids\n"})
    off = service.check_memory(LOADED, tmp_path)
    assert "does nothing" in off.words
    assert "cgroup_enable=memory" in off.remedy
    assert service.check_memory(None).state is State.SKIPPED


def test_a_watchdog_without_a_profile(tmp_path: Path) -> None:
    assert place.check_watchdog(tmp_path).state is State.SKIPPED
    put(tmp_path, {"sys/class/watchdog/watchdog0/identity": "iTCO_wdt\n"})
    assert place.check_watchdog(tmp_path).state is State.WARN
    put(tmp_path, {"etc/systemd/system.conf.d/a.conf": "[Manager]\nRuntimeWatchdogSec=15\n"})
    assert "iTCO_wdt: systemd restarts" in place.check_watchdog(tmp_path).words


_words = st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=1, max_size=12)


@given(_words, st.lists(_words, max_size=60), st.lists(_words, min_size=1, max_size=60))
def test_the_page_is_eighty_columns_wide(name: str, words: list[str], remedy: list[str]) -> None:
    shown = page.line(bad(name, " ".join(words), " ".join(remedy)), colour=False)
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert shown.split() == ["BAD", name, *words, "->", *remedy]


def test_what_is_to_be_copied_stays_in_one_piece() -> None:
    path = "/var/lib/qflare/" + "x-" * 60
    shown = page.line(bad("broker mqtts://broker.example:8883", f"look at {path}", "y"), False)
    assert path in shown.split()


@pytest.mark.parametrize(
    ("terminal", "no_colour", "colour"),
    [("xterm", None, True), ("dumb", None, False), ("xterm", "1", False), (None, None, False)],
)
def test_colour_is_for_terminals_that_have_it(
    terminal: str | None, no_colour: str | None, colour: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("TERM", terminal), ("NO_COLOR", no_colour)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert command.coloured(True) is colour
    assert not command.coloured(False)
