"""What a disk tells of itself, from a tree that stands for /proc and /sys."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.storage.health import storage_health
from edge_runtime.storage.place import place_of
from edge_runtime.store import Store

CARD = "36 25 179:2 / / rw,noatime shared:1 - ext4 /dev/mmcblk0p2 rw\n"


def tree(root: Path, mounts: str = CARD, **attributes: str) -> Path:
    """A root whose only disk is mmcblk0, with a partition 2."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text(mounts)
    disk = root / "sys/devices/mmcblk0"
    (disk / "mmcblk0p2").mkdir(parents=True)
    (disk / "mmcblk0p2/partition").write_text("2\n")
    (disk / "device").mkdir()
    for name, text in attributes.items():
        (disk / "device" / name).write_text(text)
    (root / "sys/dev/block").mkdir(parents=True)
    (root / "sys/dev/block/179:2").symlink_to(disk / "mmcblk0p2")
    return root


def test_an_emmc_tells_its_wear(tmp_path: Path) -> None:
    root = tree(tmp_path, life_time="0x02 0x03\n", pre_eol_info="0x01\n", name="BJTD4R\n")
    found = storage_health(tmp_path, root)
    assert (found.kind, found.device, found.model) == ("ext4", "mmcblk0", "BJTD4R")
    assert (found.wear_percent, found.pre_eol) == (30, "normal")
    assert found.persistent
    assert not found.read_only
    assert found.free > 0
    assert ("disk_wear_percent", 30) in found.counters()
    assert list(found.counters()) == sorted(found.counters())


def test_a_worn_one_is_named(tmp_path: Path) -> None:
    root = tree(tmp_path, life_time="0x01 0x0a", pre_eol_info="0x03")
    says = " ".join(storage_health(tmp_path, root).warnings)
    assert "100 % of its life" in says
    assert "urgent" in says


@pytest.mark.parametrize("text", ["", "0x00 0x00", "0x0c", "rot", "\xff"])
def test_what_tells_nothing_is_nothing(tmp_path: Path, text: str) -> None:
    found = storage_health(tmp_path, tree(tmp_path, life_time=text, pre_eol_info=text))
    assert (found.wear_percent, found.pre_eol) == (None, None)


def test_an_sd_card_tells_nothing(tmp_path: Path) -> None:
    found = storage_health(tmp_path, tree(tmp_path))
    assert (found.device, found.wear_percent) == ("mmcblk0", None)
    assert [name for name, _ in found.counters()] == ["disk_free_mb", "state_kb"]


@pytest.mark.parametrize("kind", ["tmpfs", "overlay"])
def test_state_that_would_not_last_is_noticed(tmp_path: Path, kind: str) -> None:
    """As with `overlayroot=tmpfs` on a Raspberry Pi."""
    root = tree(tmp_path, f"1 0 0:21 / / rw - {kind} overlayroot rw\n")
    found = storage_health(tmp_path, root)
    assert not found.persistent
    assert any("train twice" in warning for warning in found.warnings)


def test_a_partition_below_an_overlay_lasts(tmp_path: Path) -> None:
    mounts = (
        f"1 0 0:21 / / rw - overlay overlayroot rw\n2 1 179:2 / {tmp_path} rw - ext4 /dev/x rw\n"
    )
    root = tree(tmp_path, mounts)
    assert storage_health(tmp_path, root).persistent
    above = place_of(Path("/"), root)
    assert above is not None
    assert above.warning is not None


def test_read_only_by_mount_or_by_file_system(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for name, mount, system in (("a", "ro", "rw"), ("b", "rw", "ro,errors=remount-ro")):
        root = tree(tmp_path / name, f"1 0 179:2 / / {mount} - ext4 /dev/x {system}\n")
        found = storage_health(tmp_path, root)
        assert found.read_only
        assert any("read-only" in warning for warning in found.warnings)


def test_the_last_mount_on_a_point_counts_and_blanks_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    name = str(folder).replace(" ", "\\040")
    mounts = (
        CARD
        + f"2 1 0:30 / {name} rw - tmpfs none rw\n"
        + f"3 2 179:2 / {name} rw - xfs /dev/x rw\n"
    )
    root = tree(tmp_path, mounts)
    place = place_of(folder, root)
    assert place is not None
    assert (place.mount, place.kind) == (str(folder), "xfs")
    beside = place_of(tmp_path / "a bc", root)
    assert beside is not None
    assert beside.mount == "/"


@given(text=st.text(max_size=300))
def test_any_mountinfo_is_read(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    root = tmp_path_factory.mktemp("root")
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text(text, errors="replace")
    place_of(Path("/var/lib/qflare"), root)


def test_this_machine(tmp_path: Path) -> None:
    Store(tmp_path / "state").close()
    found = storage_health(tmp_path / "state")
    assert found.used > 4 * 2**20  # the reserve alone
    assert found.total >= found.free > 0
