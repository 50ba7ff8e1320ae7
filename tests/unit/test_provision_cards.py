"""Cards and network files before the programs that read them on the board, where these are here."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from edge_runtime.provision import network
from edge_runtime.provision.dialogue import Network, Wifi
from edge_runtime.provision.image import Seed, files

NETPLAN = Path("/usr/libexec/netplan/generate")
CLOUD_INIT = shutil.which("cloud-init")
CASES = {
    "home": Network(Wifi("site 7", "correct horse", "de", True), "", "", (), True),
    "open": Network(Wifi('café "x" \\ #;:{}', "", "", False), "", "", (), True),
    "odd": Network(Wifi("yes", "'\"\\ #: {}[]!&*%@`|>", "", False), "", "", ("1.1.1.1",), True),
    "digits": Network(Wifi("123", "12345678", "", False), "", "", (), True),
    "key": Network(Wifi("x", "0f" * 32, "", False), "", "", (), True),
    "fixed": Network(None, "10.0.0.7/24", "10.0.0.1", ("10.0.0.1", "2001:db8::1"), True),
    "fixed6": Network(None, "2001:db8::7/64", "2001:db8::1", (), True),
    "servers": Network(None, "", "", ("9.9.9.9",), True),
}


@pytest.fixture(params=CASES)
def wanted(request: pytest.FixtureRequest) -> Network:
    return CASES[request.param]


def cloud_network(wanted: Network) -> bytes:
    return files(Seed(b"", b"", "", wanted), "cloudinit")["network-config"]


@pytest.mark.skipif(not NETPLAN.exists(), reason="netplan isn't installed")
def test_netplan_makes_of_it_what_was_meant(tmp_path: Path, wanted: Network) -> None:
    """What cloud-init hands on to netplan, and our own file for it, are the same to netplan."""
    made = []
    for name, text in (("card", cloud_network(wanted).decode()), ("own", network.netplan(wanted))):
        root = tmp_path / name
        folder = root / "etc/netplan"
        folder.mkdir(parents=True)
        (folder / "50-ours.yaml").write_text(text)
        (folder / "00-renderer.yaml").write_text("network: {renderer: NetworkManager}\n")
        for path in folder.iterdir():
            path.chmod(0o600)
        done = subprocess.run([NETPLAN, "--root-dir", root], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        (keyfile,) = (root / "run/NetworkManager/system-connections").iterdir()
        made.append(keyfile.read_text())
    assert made[0] == made[1]
    said = configparser.ConfigParser(interpolation=None, delimiters="=", comment_prefixes=())
    said.read_string(made[0])
    if wanted.wifi:
        assert said["wifi"]["ssid"].replace("\\\\", "\\") == wanted.wifi.ssid
        assert said["wifi"].getboolean("hidden", False) == wanted.wifi.hidden
        psk = said["wifi-security"]["psk"] if wanted.wifi.passphrase else ""
        assert psk.replace("\\\\", "\\") == wanted.wifi.passphrase
    version = "ipv6" if ":" in wanted.address else "ipv4"
    assert said[version]["method"] == ("manual" if wanted.address else "auto")
    assert said["ipv4" if version == "ipv6" else "ipv6"]["method"] == "auto"
    if wanted.address:
        assert said[version]["address1"].split(",")[0] == wanted.address
        assert wanted.gateway in made[0]
    for server in wanted.dns:
        assert server in said["ipv6" if ":" in server else "ipv4"]["dns"]


def knows_networks() -> bool:
    if CLOUD_INIT is None:
        return False
    told = subprocess.run([CLOUD_INIT, "schema", "--help"], capture_output=True, text=True).stdout
    return "network-config" in told


@pytest.mark.skipif(not knows_networks(), reason="no cloud-init 24 or newer")
def test_cloud_init_takes_it(tmp_path: Path, wanted: Network) -> None:
    path = tmp_path / "network-config"
    path.write_bytes(cloud_network(wanted))
    words = [CLOUD_INIT, "schema", "--schema-type", "network-config", "--config-file", str(path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Valid schema" in done.stdout
