"""Cards, batches, records, network files: what `qflare provision` writes without a cable."""

import argparse
import configparser
import json
import tempfile
import time
import tomllib
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


def card(boot: Path, **files_there: str) -> Path:
    boot.mkdir()
    for name, text in files_there.items():
        (boot / name.replace("_", "-").replace("cmdline", "cmdline.txt")).write_text(text)
    return boot


FIRSTBOOT = "rootwait quiet init=/usr/lib/raspberrypi-sys-mods/firstboot\n"
HOME = Network(Wifi("site 7", "correct horse", "de", True), "", "", (), True)


def test_a_card_says_what_its_system_reads(tmp_path: Path) -> None:
    trixie = card(tmp_path / "trixie", user_data="#cloud-config\n", cmdline="rootwait\n")
    bookworm = card(tmp_path / "bookworm", cmdline=FIRSTBOOT)
    jetson = card(tmp_path / "jetson")
    assert [format_of(boot, HOME) for boot in (trixie, bookworm, jetson)] == [
        "cloudinit", "custom", "folder"
    ]  # fmt: skip
    assert format_of(bookworm, SITE) == "folder"  # custom.toml has no fixed address
    with pytest.raises(LocalFault, match="--format folder"):
        files(Seed(b"t", b"o", "", SITE), "custom")


@pytest.mark.parametrize("form", ["cloudinit", "custom", "folder"])
def test_a_card_has_what_its_system_reads(form: str) -> None:
    found = files(Seed(b"t", b"o", "[data]\n", HOME), form)
    assert found.pop("qflare/ticket") == b"t"
    assert found.pop("qflare/owner.key") == b"o"
    assert found.pop("qflare/settings.toml") == b"[data]\n"
    ((name, content),) = found.items()
    if form == "cloudinit":
        assert name == "network-config"
        wifi = json.loads(content)["network"]["wifis"]["wlan0"]
        assert wifi["access-points"] == {"site 7": {"password": "correct horse", "hidden": True}}
        assert wifi["regulatory-domain"] == "DE"
    elif form == "custom":
        assert name == "custom.toml"
        assert tomllib.loads(content.decode()) == {
            "config_version": 1,
            "wlan": {
                "ssid": "site 7",
                "password": "correct horse",
                "password_encrypted": False,
                "hidden": True,
                "country": "DE",
            },
        }
    else:
        assert (name, Network.parse(content)) == ("qflare/network", HOME)
    assert len(files(Seed(b"t", b"o", "", None), form)) == 2


@given(st.text(min_size=1, max_size=10), st.text(max_size=70))
def test_custom_toml_says_any_name_and_passphrase(ssid: str, phrase: str) -> None:
    try:
        wanted = Network(Wifi(ssid, phrase, "", False), "", "", (), True)
        text = files(Seed(b"", b"", "", wanted), "custom")["custom.toml"]
    except (PeerFault, LocalFault):
        return
    said = tomllib.loads(text.decode())["wlan"]
    assert (said["ssid"], said.get("password", "")) == (ssid, phrase)


def test_what_the_reader_of_custom_toml_misreads_is_refused() -> None:
    """python3-toml 0.10 reads "\\"\\"it's" as a string that ends at the apostrophe."""
    wanted = Network(Wifi("site", '""it\'s me', "", False), "", "", (), True)
    with pytest.raises(LocalFault, match="--format folder"):
        files(Seed(b"", b"", "", wanted), "custom")


def test_the_image_command_leaves_users_and_keys_on_the_card_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_ticket(tmp_path / "t/a.ticket")
    boot = card(tmp_path / "boot", user_data="#cloud-config\nusers: [me]\n", meta_data="a: b\n")
    words = ["provision", "image", "--board", "rpi5", "--boot", str(boot), "--ticket"]
    rest = [str(tmp_path / "t"), "--jobs", str(tmp_path / "jobs"), "--yes", "--json"]
    make_ticket(tmp_path / "t/b.ticket")
    for _ in range(2):
        assert main([*words, *rest, "--address", "10.0.0.7/24"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert said["format"] == "cloudinit"
    assert len(list((tmp_path / "t").glob("*.ticket"))) == 1  # one card, one ticket
    ((_, record),) = Jobs(tmp_path / "jobs").every()
    assert (record.result, record.token) == ("waiting", said["token"])
    assert (boot / "user-data").read_text() == "#cloud-config\nusers: [me]\n"
    assert sorted(path.name for path in boot.iterdir()) == [
        "meta-data", "network-config", "qflare", "user-data"
    ]  # fmt: skip
    with pytest.raises(LocalFault, match="rpi9"):
        main([*words[:3], "rpi9", *words[4:], *rest])


@pytest.mark.slow
def test_a_board_enrols_by_its_card_and_removes_what_was_secret(tmp_path: Path) -> None:
    root = make_root(tmp_path / "board")
    raw = make_ticket(tmp_path / "a.ticket").read_bytes()
    taken = Tickets(tmp_path / "a.ticket", None)
    owner = taken.take("rpi4", "card", time.time()).owner_key
    boot = root / "boot/firmware"
    write(boot, files(Seed(raw, owner, "[gates]\nenabled = false\n", HOME), "folder"))
    assert boot / "qflare" == root / SEEDS[0]
    device = Device(root, str(tmp_path / "no-tty"))
    device.start()
    try:
        assert device.wait(60) == 0
    finally:
        device.kill()
    assert (root / "etc/qflare/enrolled").exists()
    assert "enabled = false" in (root / "etc/qflare/edge.toml").read_text()
    keyfile = root / "etc/NetworkManager/system-connections/qflare.nmconnection"
    assert "psk=correct horse\n" in keyfile.read_text()
    assert "nmcli radio wifi on" in (root / "commands").read_text()
    country = (root / "etc/modprobe.d/qflare-wifi.conf").read_text()
    assert country == "options cfg80211 ieee80211_regdom=DE\n"
    assert list((boot / "qflare").iterdir()) == []


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


def run_batch(folder: Path, path: Path, *more: str) -> int:
    jobs_at = ("--jobs", str(folder / "jobs"))
    return main(["provision", "batch", str(path), "--out", str(folder / "out"), *jobs_at, *more])


def test_a_batch_can_be_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        make_ticket(tmp_path / f"{name}.ticket")
    path = write_list(tmp_path, "s1,rpi4,a.ticket,,,,,", "s2,rpi5,b.ticket,w,long enough,,,")
    for _ in range(2):
        assert run_batch(tmp_path, path, "--json") == 0
        assert json.loads(capsys.readouterr().out) == {"boards": ["s1", "s2"]}
    first, second = ((tmp_path / f"out/{s}/qflare/ticket").read_bytes() for s in ("s1", "s2"))
    assert first != second
    records = [record for _, record in Jobs(tmp_path / "jobs").every()]
    assert sorted((r.serial, r.board, r.result) for r in records) == [
        ("s1", "rpi4", "waiting"),
        ("s2", "rpi5", "waiting"),
    ]


def test_no_card_is_written_while_a_ticket_of_the_list_is_no_good(tmp_path: Path) -> None:
    make_ticket(tmp_path / "a.ticket")
    make_ticket(tmp_path / "b.ticket", board="rpi3")
    make_ticket(tmp_path / "c.ticket", life=10, age=100)
    path = write_list(tmp_path, *(f"s{n},rpi4,{n}.ticket,,,,," for n in "abc"))
    with pytest.raises(LocalFault) as caught:
        run_batch(tmp_path, path)
    assert f"{path}:3: wrong board: the ticket is for a rpi3" in str(caught.value)
    assert f"{path}:4: c.ticket ended on " in str(caught.value)
    assert str(caught.value).endswith("\nnothing was written")
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "a.ticket").exists()


def test_a_list_as_spreadsheets_write_it(tmp_path: Path) -> None:
    make_ticket(tmp_path / "a.ticket")
    make_ticket(tmp_path / "b, c.ticket")
    path = tmp_path / "boards.csv"
    head = b"\xef\xbb\xbfserial;board;ticket;wifi;wifi_password\r\n"
    tail = b'"s1";rpi4;a.ticket;"site ""7""; yard";"pass;word,\xe2\x80\xa8\xc3\xa4"\r\n\r\n'
    path.write_bytes(head + tail)
    with pytest.raises(LocalFault, match=r":2: .*ssid or passphrase"):
        batch.read(path)  # a line separator of Unicode is in it, and ends no line
    path.write_bytes(head + tail.replace(b"\xe2\x80\xa8", b" "))
    (row,) = batch.read(path)
    assert row.network is not None
    assert row.network.wifi == Wifi('site "7"; yard', "pass;word, \u00e4", "", False)
    path.write_text('serial,board,ticket\ns1,rpi4,"b, c.ticket"\n')
    assert batch.read(path)[0].ticket == tmp_path / "b, c.ticket"
    path.write_text('serial,board,ticket\ns1,rpi4,"a.ticket\n')
    with pytest.raises(LocalFault, match=r"boards\.csv:\d: "):
        batch.read(path)


@given(st.text(alphabet='serialboardticket,;"\r\n\x00\x0b\u2028 s1rpi4', max_size=200))
def test_any_list_is_read_or_refused(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "boards.csv")
        path.write_text("serial,board,ticket\n" + text, newline="")
        with pytest.raises(LocalFault):  # there are no tickets
            batch.read(path)


def test_reports_say_who_waits_and_confirm_by_the_operators_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Jobs(tmp_path / "jobs")
    for serial, fingerprint in (("s1", "f1"), ("s2", ""), ("s3", ""), ("s4", "f4")):
        path, record = folder.begin(serial)
        known = {"fingerprint": fingerprint, "token": serial.replace("s", "t")}
        result: jobs.Result = "done" if fingerprint else "waiting"
        folder.save(path, Record(**{**_fields(record), **known, "result": result}))
    listed = tmp_path / "list.json"
    rows = [("t1", "f1", "confirmed"), ("t2", "f2", "confirmed"), ("t3", "f3", "awaiting")]
    rows.append(("t4", "another", "confirmed"))  # its ticket, and not this device
    names = ("token", "fingerprint", "state")
    told = [{**dict(zip(names, row, strict=True)), "name": f"dev-{row[1]}"} for row in rows]
    listed.write_text(json.dumps(told))
    report = ["provision", "report", "--jobs", str(folder.folder)]
    assert main([*report, "--enrolled", str(listed)]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[-2:] for line in shown.splitlines()[1:3]] == [["done,", "confirmed"]] * 2
    assert "dev-f2" in shown
    assert shown.endswith("4 boards, 1 waiting, 2 not yet confirmed\n")
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
