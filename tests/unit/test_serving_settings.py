"""The section [serving] of edge.toml, as the daemon and as the server read it."""

from pathlib import Path

import pytest

from edge_runtime.acceptance import Bounds
from edge_runtime.serving.settings import SOCKET, ServingSection, load
from qflare.host.config import ConfigFault
from tests.serving_rig import write_config


def test_the_server_reads_its_own_part_alone(tmp_path: Path) -> None:
    found = load(write_config(tmp_path, "threads = 2"), {})
    assert found.section.threads == 2
    assert found.section.socket == tmp_path / "model.sock"
    assert found.slots == tmp_path / "state" / "model"


def test_the_environment_overrides_and_others_variables_are_left_alone(tmp_path: Path) -> None:
    environ = {
        "QFLARE_EDGE__SERVING__THREADS": "3",
        "QFLARE_EDGE__SERVING__DIRECTORY": "/srv/models",
        "QFLARE_EDGE__BROKER__URL": "mqtt://elsewhere",
        "QFLARE_EDGE__DEVICE__KEY": "device.key",
    }
    found = load(write_config(tmp_path), environ)
    assert (found.section.threads, found.slots) == (3, Path("/srv/models"))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("connections = 0", "serving.connections"),
        ("max_accuracy_drop = 1.5", "serving.max_accuracy_drop"),
        ("no_such = 1", "serving.no_such"),
        ('threads = "many"', "serving.threads"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(ConfigFault) as caught:
        load(write_config(tmp_path, line), {})
    assert says in str(caught.value)


def test_without_a_state_directory_there_is_nothing_to_serve(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_text("[serving]\n")
    with pytest.raises(ConfigFault, match=r"device"):
        load(path, {})


def test_defaults() -> None:
    section = ServingSection()
    assert section.socket == SOCKET
    assert section.bounds == Bounds()
    assert section.group_id is None
    assert section.slots_in(Path("/var/lib/qflare")) == Path("/var/lib/qflare/model")


def test_an_unknown_group_is_named() -> None:
    with pytest.raises(ConfigFault, match="no-such-group"):
        _ = ServingSection(group="no-such-group").group_id
