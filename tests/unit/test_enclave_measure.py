"""What the trusted base is made of, and that nothing else gets into the process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from enclave.config import Config
from enclave.measure import LINES_MAX, ROOT, main, measure
from qflare.faults import LocalFault

_LOADED = """
import json, sys
import enclave.server
print(json.dumps({name: getattr(module, "__file__", None) for name, module in sys.modules.items()}))
"""


def test_what_the_process_loads_is_what_is_measured() -> None:
    out = subprocess.run(
        [sys.executable, "-c", _LOADED], capture_output=True, check=True, cwd=ROOT, text=True
    ).stdout
    loaded: dict[str, str | None] = json.loads(out)
    ours = {
        Path(file).resolve().relative_to(ROOT).as_posix()
        for name, file in loaded.items()
        if name.partition(".")[0] in ("qflare", "enclave") and file
    }
    listed = {file.name for file in measure().files}
    assert ours <= listed
    assert "enclave/server.py" in ours
    for name in ("qflare/host", "qflare/simulate", "coordinator", "edge_runtime", "qflare/cli"):
        assert not any(file.startswith(name) for file in listed)
    assert not {"asyncio", "sqlite3", "msgspec", "structlog", "aiomqtt"} & loaded.keys()


def test_it_is_small() -> None:
    assert 0 < measure().code_lines <= LINES_MAX


def test_every_byte_counts(tmp_path: Path) -> None:
    for name in ("enclave/a.py", "qflare/__init__.py", "qflare/b.py", "qflare/unused.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text('"""Doc."""\n\n# why\nX = (\n    1,\n)\n')
    (tmp_path / "enclave/a.py").write_text("def f() -> None:\n    import qflare.b\n")
    before = measure(tmp_path)
    assert [file.name for file in before.files] == [
        "enclave/a.py",
        "qflare/__init__.py",
        "qflare/b.py",
    ]
    assert before.files[2].code_lines == 3
    assert measure(tmp_path) == before
    (tmp_path / "qflare/b.py").write_text("X = 2\n")
    assert measure(tmp_path).measurement != before.measurement


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["measurement"] == str(measure().measurement)
    assert main(["--lines"]) == 0
    assert "enclave/machine.py" in capsys.readouterr().out


GOOD = """
[enclave]
fleet = "gym"
state_dir = "/s"
socket = "/r/enclave.sock"
owner_key = "/o"
"""


def test_configuration_is_strict() -> None:
    assert Config.parse(GOOD).threads == 2
    assert Config.parse(GOOD + "insecure_seed = 3\n").insecure_seed == 3
    for text, message in (
        ("[enclave", "no TOML"),
        ("", "one table"),
        (GOOD + "[other]\n", "one table"),
        (GOOD + "sockets = 1\n", "no key 'sockets'"),
        (GOOD.replace('"/o"', "1"), "owner_key"),
        (GOOD.replace("gym", "Gym!"), "fleet"),
        (GOOD + "threads = 0\n", "threads"),
        (GOOD + "threads = true\n", "threads"),
        (GOOD + "insecure_seed = 1.5\n", "insecure_seed"),
        (GOOD + 'provider = "sgx-of-another"\n', "provider"),
    ):
        with pytest.raises(LocalFault, match=message):
            Config.parse(text)
