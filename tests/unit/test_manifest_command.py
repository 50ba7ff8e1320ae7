"""`qflare manifest`, from a draft to what three owners signed, by the command itself."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from qflare.cli import main
from qflare.crypto.issuing import issue_ca, issue_device
from qflare.crypto.keys import SigningKey
from qflare.crypto.suites import DEFAULT
from qflare.names import DeviceId, FleetId
from qflare.owners import open_manifest

FLEET = FleetId("orchard")
CODE = "ab" * 32
MODEL = Path(__file__).parent.parent / "models" / "classifier.tflite"


class Office:
    """A folder with keys, and the command run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys = {}
        for name in ("owner", "coordinator", "anna", "ben", "cleo"):
            key = self.keys[name] = SigningKey.generate(DEFAULT)
            (folder / f"{name}.seed").write_bytes(key.to_seed())
            (folder / f"{name}.seed").chmod(0o600)
            (folder / f"{name}.key").write_bytes(key.verify_key.raw)
        self.ca_key, self.ca = issue_ca(FLEET, DEFAULT, datetime.now(UTC), 30)
        (folder / "ca.der").write_bytes(self.ca)

    def run(self, *words: str) -> int:
        return main(["manifest", *words])

    def new(self, *more: str) -> int:
        return self.run(
            "new", "fleet.toml", "--fleet", FLEET, "--coordinator", "coordinator.key",
            "--device-ca", "ca.der", "--model", str(MODEL), *more,
        )  # fmt: skip

    def drafted(self) -> None:
        assert self.new() == 0
        add = ("add-measurement", "fleet.toml", "--provider", "process", "--measurement", CODE)
        assert self.run(*add) == 0

    def sign(self, file: str, key: str, *more: str) -> int:
        return self.run("sign", file, "--owner", "owner.key", "--key", f"{key}.seed", *more)

    def opened(self, file: str) -> int:
        data = (self.folder / file).read_bytes()
        return open_manifest(data, self.keys["owner"].verify_key, FLEET)[0].version


@pytest.fixture
def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Office:
    monkeypatch.chdir(tmp_path)
    return Office(tmp_path)


def test_one_owner_signs_and_revokes(office: Office, capsys: pytest.CaptureFixture[str]) -> None:
    office.drafted()
    assert office.sign("fleet.toml", "owner", "--first", "-o", "one") == 0
    assert office.opened("one") == 1
    stolen = SigningKey.generate(DEFAULT).verify_key
    name, now = DeviceId.parse("pump-7"), datetime.now(UTC)
    Path("stolen.der").write_bytes(issue_device(office.ca_key, office.ca, name, stolen, now, 20))
    assert office.run("revoke", "fleet.toml", "--certificate", "stolen.der") == 0
    assert office.sign("fleet.toml", "owner", "--after", "one", "-o", "two") == 0
    assert office.opened("two") == 2
    capsys.readouterr()
    assert office.run("diff", "one", "two", "--owner", "owner.key", "--json") == 0
    changes = json.loads(capsys.readouterr().out)["changes"]
    assert any("is revoked" in change["says"] for change in changes)
    assert not any(change["weaker"] for change in changes)


def test_three_owners_take_over_by_two(office: Office, capsys: pytest.CaptureFixture[str]) -> None:
    office.drafted()
    office.sign("fleet.toml", "owner", "--first", "-o", "one")
    keys = ("--key", "anna.key", "--key", "ben.key", "--key", "cleo.key")
    assert office.run("set-owners", "fleet.toml", "--threshold", "2", *keys) == 0
    assert office.sign("fleet.toml", "ben", "--after", "one", "-o", "two") == 1
    with pytest.raises(Exception, match="signed by"):
        office.opened("two")
    assert office.sign("two", "owner") == 1
    assert office.sign("two", "owner") == 1  # has nothing more to sign
    assert "nothing to sign" in capsys.readouterr().err
    assert office.sign("two", "anna") == 0
    assert office.opened("two") == 2
    assert office.sign("fleet.toml", "cleo", "--after", "two", "-o", "three") == 1
    assert office.sign("three", "owner") == 1  # doesn't speak for the fleet any more
    assert office.sign("three", "ben") == 0
    assert office.opened("three") == 3
    capsys.readouterr()
    assert office.run("inspect", "three", "--owner", "owner.key", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["complete"], told["verified"], told["tier"]) == (True, True, "process")
    assert (told["owners"]["number"], told["owners"]["threshold"]) == (1, 2)


def test_what_allows_more_is_marked(office: Office, capsys: pytest.CaptureFixture[str]) -> None:
    office.drafted()
    office.sign("fleet.toml", "owner", "--first", "-o", "one")
    text = Path("fleet.toml").read_text().replace("min_cohort_floor = 10", "min_cohort_floor = 2")
    Path("fleet.toml").write_text(text)
    office.sign("fleet.toml", "owner", "--after", "one", "-o", "two")
    capsys.readouterr()
    office.run("diff", "one", "two")
    assert "! enclave: updates before a release, at least: 10 becomes 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("was", "becomes", "says"),
    [
        ('tier = "process"', 'tier = "simulated"', "proves nothing"),
        ('provider = "process"', 'provider = "insecure_simulated"', "proves nothing"),
        ("simulated = false", "simulated = true", "changes nothing"),
        ('codecs = ["q8", "q8z"]', 'codecs = ["q9"]', "choose from"),
        ("revoked_measurements = []", f'revoked_measurements = ["{CODE}"]', "and revoked"),
        ("valid_days = 365", "valid_days = 0", "valid_days"),
        ('["ca.der"]', '["none.der"]', "none.der"),
        ('fleet = "orchard"', 'fleet = "No"', "fleet"),
        ("tcb_evaluation", "tcb_evaluatoin", "tcb_evaluatoin"),
    ],
)
def test_a_wrong_draft_is_refused(
    office: Office, capsys: pytest.CaptureFixture[str], was: str, becomes: str, says: str
) -> None:
    office.drafted()
    text = Path("fleet.toml").read_text()
    assert was in text
    Path("fleet.toml").write_text(text.replace(was, becomes, 1))
    assert office.sign("fleet.toml", "owner", "--first", "-o", "one") in (1, 78)
    assert says in capsys.readouterr().err
    assert not Path("one").exists()


def test_a_simulation_says_so_in_its_draft(
    office: Office, capsys: pytest.CaptureFixture[str]
) -> None:
    assert office.new("--insecure-simulated") == 0
    add = ("add-measurement", "fleet.toml", "--provider", "insecure_simulated")
    assert office.run(*add, "--measurement", CODE) == 0
    assert office.sign("fleet.toml", "owner", "--first", "-o", "one") == 0
    capsys.readouterr()
    office.run("inspect", "one")
    shown = capsys.readouterr().out
    assert "INSECURE" in shown
    assert "NOT verified" in shown


def test_another_owners_manifest_is_not_signed_or_shown_as_verified(
    office: Office, capsys: pytest.CaptureFixture[str]
) -> None:
    office.drafted()
    assert office.run("sign", "fleet.toml", "--first", "--key", "anna.seed", "-o", "one") == 0
    assert office.run("inspect", "one", "--owner", "owner.key") == 1
    assert office.sign("fleet.toml", "owner", "--after", "one", "-o", "two") == 1
    assert "isn't what the owners signed" in capsys.readouterr().err
    Path("junk").write_bytes(b"junk")
    assert office.run("inspect", "junk") == 1
    assert office.sign("fleet.toml", "owner", "-o", "two") == 1
    assert "--after FILE" in capsys.readouterr().err
