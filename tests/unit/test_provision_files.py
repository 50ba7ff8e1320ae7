"""Cards, batches, records, network files: what `qflare provision` writes without a cable."""

import argparse
import configparser
import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.provision import batch, command, jobs, network, settings
from edge_runtime.provision.daemon import SEEDS
from edge_runtime.provision.dialogue import Network, Wifi
from edge_runtime.provision.image import Seed, files, format_of, write
from edge_runtime.provision.jobs import Jobs, Record
from edge_runtime.provision.tickets import Tickets
from qflare.faults import LocalFault, PeerFault
from tests.provision_kit import Device, make_root, make_ticket


def main(words: list[str]) -> int:
    """As `qflare` would run it."""
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    arguments = parser.parse_args(words)
    return int(arguments.run(arguments))


SITE = Network(Wifi("site 7", "correct horse", "de", True), "10.0.0.7/24", "10.0.0.1", (), True)


def test_a_keyfile_says_what_was_asked() -> None:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(network.keyfile(SITE))
    assert parser["wifi"]["ssid"] == "site 7"
    assert parser["wifi-security"]["psk"] == "correct horse"
    assert parser["ipv4"]["address1"] == "10.0.0.7/24"
    assert parser["ipv4"]["gateway"] == "10.0.0.1"
    assert parser["ipv6"]["method"] == "auto"
    assert network.keyfile(SITE) == network.keyfile(SITE)


@given(st.text(min_size=1, max_size=10), st.text(max_size=70), st.text(max_size=20))
def test_no_name_or_passphrase_breaks_out_of_its_line(ssid: str, phrase: str, address: str) -> None:
    try:
        text = network.keyfile(Network(Wifi(ssid, phrase, "", False), address, "", (), True))
    except PeerFault:
        return
    lines = [line.partition("=")[0] for line in text.splitlines() if "=" in line]
    assert len(lines) == len(text.splitlines()) - sum(
        line.startswith("[") or not line for line in text.splitlines()
    )
    assert lines.count("psk") == bool(phrase)


@pytest.mark.parametrize(
    ("address", "gateway"), [("10.0.0.7", ""), ("10.0.0.7/33", ""), ("", "10.0.0.1"), ("x", "")]
)
def test_wrong_addresses_are_refused(address: str, gateway: str) -> None:
    with pytest.raises(PeerFault):
        network.keyfile(Network(None, address, gateway, (), True))


@pytest.mark.parametrize("text", ["[device]\nname='x'\n", "a = 1\n", "[data", "[broker]\nurl=''"])
def test_settings_that_are_not_the_technicians_are_refused(text: str) -> None:
    with pytest.raises(PeerFault):
        settings.verify(text)


@pytest.mark.parametrize("form", ["cloudinit", "systemd", "overlay"])
def test_a_card_has_what_its_system_reads(form: str) -> None:
    found = files(Seed(b"t", b"o", "[data]\n", SITE), form)
    assert found["qflare/ticket"] == b"t"
    assert found["qflare/settings.toml"] == b"[data]\n"
    if form == "cloudinit":
        head, _, tree = found["user-data"].partition(b"\n")
        assert head == b"#cloud-config"
        assert json.loads(tree)["runcmd"][0][-1] == "qflare-provisiond.service"
        wifi = json.loads(found["network-config"])["wifis"]["wlan0"]
        assert wifi["access-points"]["site 7"]["password"] == "correct horse"
        assert wifi["regulatory-domain"] == "DE"
    else:
        (script,) = (body for name, body in found.items() if name.endswith(".sh"))
        assert b"correct horse" in script
        assert script.startswith(b"#!/bin/sh\n")
    assert (format_of("rpi4"), format_of("jetson-orin-nx")) == ("cloudinit", "overlay")


@pytest.mark.slow
def test_a_board_enrols_by_its_card_and_removes_what_was_secret(tmp_path: Path) -> None:
    root = make_root(tmp_path / "board")
    raw = make_ticket(tmp_path / "a.ticket").read_bytes()
    taken = Tickets(tmp_path / "a.ticket", None)
    owner = taken.take("rpi4", "card", time.time()).owner_key
    card = root / "boot/firmware"
    write(card, files(Seed(raw, owner, "", None), "cloudinit"))
    assert str(card / "qflare") == str(root / SEEDS[0])
    device = Device(root, str(tmp_path / "no-tty"))
    device.start()
    try:
        assert device.wait(60) == 0
    finally:
        device.kill()
    assert (root / "etc/qflare/enrolled").exists()
    assert list((card / "qflare").iterdir()) == []


def write_list(folder: Path, *rows: str) -> Path:
    path = folder / "boards.csv"
    path.write_text(
        "serial,board,ticket,wifi,wifi_password,address,gateway,dns\n" + "\n".join(rows)
    )
    return path


def test_a_list_is_refused_whole_with_every_line_that_is_wrong(tmp_path: Path) -> None:
    make_ticket(tmp_path / "a.ticket")
    path = write_list(
        tmp_path,
        "s1,rpi4,a.ticket,,,,,",
        "s1,rpi9,a.ticket,,,,,",
        "s2,rpi4,none.ticket,,,,,",
        "s3,rpi4,a.ticket,x,short,,,",
        "s4,rpi4",
        "s 5,rpi4,a.ticket,,,,,",
        "s6,rpi4,a.ticket,,,1.2.3.4,,",
        "s1,rpi4,a.ticket,,,,,",
    )
    with pytest.raises(LocalFault) as caught:
        batch.read(path)
    said = str(caught.value)
    for line in range(3, 10):
        assert f"{path}:{line}: " in said
    assert f"{path}:2:" not in said
    assert (tmp_path / "a.ticket").exists()


def test_a_batch_can_be_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        make_ticket(tmp_path / f"{name}.ticket")
    path = write_list(tmp_path, "s1,rpi4,a.ticket,,,,,", "s2,rpi5,b.ticket,w,long enough,,,")
    words = ["provision", "batch", str(path), "--out", str(tmp_path / "out"), "--json"]
    for _ in range(2):
        assert main(words) == 0
        assert json.loads(capsys.readouterr().out) == {"boards": ["s1", "s2"]}
    first, second = ((tmp_path / f"out/{s}/qflare/ticket").read_bytes() for s in ("s1", "s2"))
    assert first != second


def test_reports_say_who_waits_and_confirm_by_the_operators_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Jobs(tmp_path / "jobs")
    for serial, words in (("s1", "a b c d e f"), ("s2", "")):
        path, record = folder.begin(serial)
        result: jobs.Result = "done" if words else "waiting"
        folder.save(path, Record(**{**_fields(record), "words": words, "result": result}))
    listed = tmp_path / "list.json"
    listed.write_text('[{"name": "x", "words": "a b c d e f", "state": "confirmed"}]')
    report = ["provision", "report", "--jobs", str(folder.folder)]
    assert main([*report, "--enrolled", str(listed)]) == 0
    shown = capsys.readouterr().out
    assert "done, confirmed" in shown
    assert shown.endswith("2 boards, 1 waiting, 1 not yet confirmed\n")
    assert main([*report, "--csv"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("started,who,board,serial")
    listed.write_text('{"no": "list"}')
    with pytest.raises(LocalFault, match="qflare enrol list"):
        main([*report, "--enrolled", str(listed)])


def _fields(record: Record) -> dict[str, object]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


def test_a_job_that_was_interrupted_goes_on_and_a_done_one_is_history(tmp_path: Path) -> None:
    folder = Jobs(tmp_path)
    path, record = folder.begin("s1")
    folder.save(path, record)
    assert folder.begin("s1")[0] == path
    folder.save(path, Record(**{**_fields(record), "result": "done"}))
    assert folder.begin("s1")[1].steps == {}
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(LocalFault, match=r"bad\.json"):
        folder.every()
