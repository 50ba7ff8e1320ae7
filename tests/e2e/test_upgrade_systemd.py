"""Releases of this very project, under a real systemd: installed, tried, kept, or left again.

The machine has no network but its own loopback, on which a real broker listens. The wheels that
QFLARE needs are collected once, by `qflare release build --collect`.
"""

import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

from edge_runtime.upgrade.install import this_machine
from qflare.host.broker import make_credentials, nats
from qflare.host.bundle import peek_bundle
from qflare.names import FleetId
from qflare.release import ReleaseManifest
from tests.e2e import nspawn
from tests.e2e.test_systemd import EDGE_TOML, provision
from tests.edge_lab import DEVICE, FLEET, Lab
from tests.upgrade_kit import STRANGER, bundle_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PORT: Final = 1883
FIRST, GOOD, DEAD, MUTE = "0.1.0", "0.1.1", "0.1.2", "0.1.3"
SEQUENCES: Final = {FIRST: 5, GOOD: 6, DEAD: 7, MUTE: 8}
# What is wrong with a version: lines of its daemon, before it begins.
FAULTS: Final = {
    DEAD: 'def serve(read): raise RuntimeError("no way to begin")',
    MUTE: "from qflare.host.link import Link\nLink.run = lambda self, _: asyncio.sleep(1e9)",
}
# 30 s in place of ten minutes, of which a twentieth is how long a good one has to last.
DROP_IN: Final = """\
[Service]
ExecStart=
ExecStart=/opt/qflare/proven/bin/qflare device update apply --within 30
"""
BROKER: Final = """\
[Service]
ExecStart=/opt/trial/nats-server -c /opt/trial/broker/nats.conf
"""


@dataclass(frozen=True)
class Owner:
    """The owner's desk: the source, the wheels, the keys, the bundles."""

    here: Path

    @property
    def wheels(self) -> Path:
        return self.here / "wheels"

    def path(self, version: str) -> Path:
        return self.here / f"{version}.qflare"

    def wheel(self, version: str) -> None:
        """QFLARE's own wheel, from its own source with another version number."""
        source = self.here / f"source-{version}"
        nspawn.copy_source(source)
        about = source / "qflare/__init__.py"
        text, found = re.subn(r'= "[0-9.]+"', f'= "{version}"', about.read_text())
        assert found == 1
        about.write_text(text)
        if version in FAULTS:
            daemon = source / "edge_runtime/daemon.py"
            text, end, rest = daemon.read_text().partition('\n\nif __name__ == "__main__":')
            daemon.write_text(f"{text}\n\n{FAULTS[version]}\n{end}{rest}")
        nspawn.build_wheel(source, self.wheels)

    def build(self, version: str, *options: str) -> None:
        """`qflare release build`, as the owner types it."""
        command = [sys.executable, "-m", "qflare.cli", "release", "build", *options]
        nspawn.run(
            *command,
            *("--wheels", self.wheels, "--key", self.here / "owner.seed", "--python", "3.11"),
            *("--version", version, "--sequence", str(SEQUENCES[version])),
            *("--machine", this_machine(), "--fleet", str(FLEET), "-o", self.path(version)),
        )

    def forge(self, folder: Path) -> None:
        """Bundles that no device may take; small ones, as they are refused by their first words."""
        with self.path(GOOD).open("rb") as file:
            good = peek_bundle(file)
        (own,) = [wheel for wheel in good.wheels if wheel.project == "qflare"]
        path = self.wheels / own.name
        good = replace(good, wheels=(own,), needs_bytes=1)
        owner = Lab().owner

        def put(name: str, manifest: ReleaseManifest, key: Any = owner) -> bytearray:
            data = bundle_of(manifest, [path], key)
            (folder / f"{name}.qflare").write_bytes(data)
            return bytearray(data)

        put("stranger", good, STRANGER)
        put("elsewhere", replace(good, fleet=FleetId.parse("elsewhere")))
        put("older", replace(good, sequence=SEQUENCES[FIRST]))
        put("python", replace(good, python="3.99"))
        data = put("damaged", replace(good, sequence=99))
        data[len(data) // 2] ^= 1
        (folder / "damaged.qflare").write_bytes(data)


def broker(tree: Path) -> str:
    """A broker that a unit starts in there; the device's password."""
    program = nats.find()
    if program is None:
        pytest.skip("wants nats-server; pip install 'qflare[broker]'")
    shutil.copy(program, tree / "opt/trial/nats-server")
    credentials = make_credentials([DEVICE])
    folder = tree / "opt/trial/broker"
    nats.write(folder, PORT, FLEET, credentials, 2)
    config = folder / "nats.conf"
    config.write_text(config.read_text().replace(str(tree), ""))
    (tree / "etc/systemd/system/broker.service").write_text(BROKER)
    return credentials[DEVICE]


def run(here: Path) -> str:
    """One run of the machine; what its trial saw."""
    owner, tree = Owner(here), here / "tree"
    (here / "owner.seed").write_bytes(Lab().owner.to_seed())
    (here / "owner.seed").chmod(0o600)
    owner.wheels.mkdir()
    with ThreadPoolExecutor(2) as both:
        list(both.map(owner.wheel, SEQUENCES))
        owner.build(FIRST, "--collect")
        list(both.map(owner.build, (GOOD, DEAD, MUTE)))

    nspawn.unpack(tree)
    releases = tree / "opt/trial/releases"
    releases.mkdir(parents=True)
    password = broker(tree)
    # The first version, as docs/upgrades.md says.
    shutil.copytree(owner.wheels, tree / "wheels")
    shutil.copy(owner.path(FIRST), tree / "wheels")
    (tree / "wheels/owner.key").write_bytes(Lab().owner.verify_key.raw)
    nspawn.within(tree, "python3", "-m", "venv", "/opt/first")
    nspawn.within(
        *(tree, "/opt/first/bin/pip", "install", "--quiet", "--root-user-action=ignore"),
        *("--no-compile", "--no-index", "--find-links=/wheels", f"qflare=={FIRST}"),
    )
    nspawn.within(
        *(tree, "/opt/first/bin/qflare", "device", "update", "install"),
        *(f"/wheels/{FIRST}.qflare", "--owner", "/wheels/owner.key"),
    )
    shutil.rmtree(tree / "wheels")
    shutil.rmtree(tree / "opt/first")

    nspawn.install_units(tree, tree / f"opt/qflare/versions/{FIRST}")
    provision(tree)
    etc = tree / "etc/qflare"
    (etc / "broker.password").write_text(password)
    asked = f'url = "mqtt://127.0.0.1:{PORT}"\npassword_file = "broker.password"'
    (etc / "edge.toml").write_text(EDGE_TOML.replace('url = "mqtt://127.0.0.1:1"', asked))
    folder = tree / "etc/systemd/system/qflare-update.service.d"
    folder.mkdir()
    (folder / "trial.conf").write_text(DROP_IN)
    owner.forge(releases)
    for name, version in (("good", GOOD), ("dead", DEAD), ("mute", MUTE)):
        shutil.copy(owner.path(version), releases / f"{name}.qflare")
    said = nspawn.boot(tree, nspawn.ROOT / "tests/e2e/update_trial.py", 1500.0)
    shutil.rmtree(tree)
    return said


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What was seen in one run of the machine."""
    return nspawn.once(tmp_path_factory, "upgrade", run)


def test_the_first_version_runs_and_updates_start_from_it(told: dict[str, Any]) -> None:
    first = told["first"]
    assert (first["current"], first["proven"], first["running"]) == (FIRST, FIRST, FIRST)
    assert (first["sequence"], first["versions"]) == (SEQUENCES[FIRST], [FIRST])
    assert first["well"], told["log"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("stranger", "bad_signature"),
        ("elsewhere", "for fleet elsewhere"),
        ("older", "rollback"),
        ("python", "for Python 3.99"),
        ("damaged", "damaged or another file"),
    ],
)
def test_what_is_not_for_this_device_is_refused_twice(
    told: dict[str, Any], name: str, why: str
) -> None:
    code, said = told["refused by stage"][name]
    assert code == 1
    assert "the bundle is refused" in said
    assert why in said
    # Whoever leaves it in `staged` all the same gets no further.
    lines = [line for line in told["log"].splitlines() if why in line]
    assert lines, told["log"]


def test_refusals_change_nothing(told: dict[str, Any]) -> None:
    first, refused = told["first"], told["refused"]
    assert refused["last"]
    for key in ("current", "proven", "sequence", "versions", "pid", "bad"):
        assert refused[key] == first[key]
    assert refused["staged"] == 0


def test_a_good_release_is_kept_though_its_updater_was_killed_twice(told: dict[str, Any]) -> None:
    good = told["good"]
    assert told["stage"][0] == 0, told["stage"]
    assert told["killed"] == [True, True], told["log"]
    assert (good["current"], good["proven"], good["previous"]) == (GOOD, GOOD, FIRST), told["log"]
    assert (good["running"], good["sequence"], good["phase"]) == (GOOD, SEQUENCES[GOOD], "")
    assert good["versions"] == [FIRST, GOOD]
    assert good["last"] == f"{GOOD} runs, after {FIRST}"
    assert good["well"], told["log"]
    assert good["pid"] not in ("0", told["first"]["pid"])


@pytest.mark.parametrize(
    ("name", "version", "why"),
    [
        ("doesn't start", DEAD, "systemctl restart qflare-edge.service"),
        ("doesn't connect", MUTE, "didn't reach the broker within 30 s, though the broker answers"),
    ],
)
def test_a_release_that_is_no_good_is_left_and_the_device_says_why(
    told: dict[str, Any], name: str, version: str, why: str
) -> None:
    found = told[name]
    assert found["stage"][0] == 0, found["stage"]
    assert found["ended"], told["log"]
    assert (found["current"], found["proven"]) == (GOOD, GOOD), told["log"]
    assert found["sequence"] == SEQUENCES[GOOD]
    assert found["versions"] == [FIRST, GOOD]
    assert why in found["last"]
    assert found["bad"][-1] == {"version": version, "why": found["last"].partition(": ")[2]}
    assert found["well"], told["log"]
    assert found["edge"] == "active"


def test_what_failed_is_not_staged_again_by_mistake(told: dict[str, Any]) -> None:
    code, said = told["again"]
    assert code == 1
    assert "--again tries it once more" in said


def test_what_is_shown_to_people_says_it_all(told: dict[str, Any]) -> None:
    shown = told["shown"].splitlines()
    assert shown[0] == f"runs         {GOOD} (this is {GOOD})"
    assert f"before that  {FIRST}" in shown
    assert "under way    nothing; 0 staged" in shown
    assert [line.split()[1] for line in shown if line.startswith("failed")] == [
        f"{DEAD}:",
        f"{MUTE}:",
    ]
