"""Bundles: what is signed is what is read, and nothing else is."""

import io
import tarfile
from pathlib import Path

import pytest

from qflare.faults import PeerFault, Reason
from qflare.host.bundle import peek_bundle, read_manifest, read_wheels
from qflare.names import Digest, FleetId
from qflare.release import ReleaseManifest, Wheel, verify_for
from tests.upgrade_kit import (
    FLEET,
    OWNER,
    STRANGER,
    bundle_of,
    daemon_wheels,
    manifest_of,
)


@pytest.fixture
def wheels(tmp_path: Path) -> list[Path]:
    return daemon_wheels(tmp_path / "wheels", "1.1.0")


def read(data: bytes) -> dict[str, bytes]:
    """All of a bundle, as a device reads it."""
    source, found = io.BytesIO(data), {}

    class Kept(io.BytesIO):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.called = name

        def close(self) -> None:
            found[self.called] = self.getvalue()
            super().close()

    manifest = read_manifest(source, OWNER.verify_key)
    read_wheels(source, manifest, lambda wheel: Kept(wheel.name))
    return found


def test_what_was_packed_comes_out_and_any_tar_can_list_it(wheels: list[Path]) -> None:
    manifest = manifest_of(wheels, "1.1.0", 2)
    data = bundle_of(manifest, wheels)
    assert read(data) == {path.name: path.read_bytes() for path in wheels}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["release", *(path.name for path in wheels)]
    assert peek_bundle(io.BytesIO(data)) == manifest


def test_equal_wheels_make_bundles_of_which_only_the_signature_differs(wheels: list[Path]) -> None:
    manifest = manifest_of(wheels, "1.1.0", 2)
    one, two = bundle_of(manifest, wheels), bundle_of(manifest, wheels)
    assert len(one) == len(two)
    assert one[-20_00:] == two[-20_00:]


def test_another_owner_s_release_is_refused_before_it_is_parsed(wheels: list[Path]) -> None:
    data = bundle_of(manifest_of(wheels, "1.1.0", 2), wheels, STRANGER)
    with pytest.raises(PeerFault) as refused:
        read(data)
    assert refused.value.reason is Reason.BAD_SIGNATURE


def test_an_exchanged_wheel_is_refused(wheels: list[Path]) -> None:
    manifest = manifest_of(wheels, "1.1.0", 2)
    content = bytearray(wheels[0].read_bytes())
    content[-30] ^= 1
    wheels[0].write_bytes(content)
    with pytest.raises(PeerFault) as refused:
        read(bundle_of(manifest, wheels))
    assert refused.value.reason is Reason.WRONG_DIGEST


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, b"x", b"L"])
def test_links_directories_and_extensions_have_no_place(wheels: list[Path], kind: bytes) -> None:
    data = bytearray(bundle_of(manifest_of(wheels, "1.1.0", 2), wheels))
    at = data.index(wheels[0].name.encode() + b"\0")
    info = tarfile.TarInfo(wheels[0].name)
    info.size, info.mode, info.type = wheels[0].stat().st_size, 0o644, kind
    data[at : at + 512] = info.tobuf(tarfile.USTAR_FORMAT)
    with pytest.raises(PeerFault, match="isn't where it belongs"):
        read(bytes(data))


def test_what_follows_the_end_or_misses_before_it_is_refused(wheels: list[Path]) -> None:
    data = bundle_of(manifest_of(wheels, "1.1.0", 2), wheels)
    for wrong in (data + b"\0", data[:-1], data[:-1024], data[:700], b""):
        with pytest.raises(PeerFault) as refused:
            read(wrong)
        assert refused.value.reason is Reason.MALFORMED


@pytest.mark.parametrize(
    "name",
    ["../evil-1-py3-none-any.whl", "a/b-1-py3-none-any.whl", "-r-1-py3-none-any.whl", "x.whl"],
)
def test_names_that_could_leave_the_folder_or_be_options_are_none(name: str) -> None:
    with pytest.raises(PeerFault):
        Wheel(name, 1, Digest(bytes(32)))


@pytest.mark.parametrize("version", ["..", "1/2", "current", "1.0 ", "", ".1", "1..2"])
def test_versions_that_could_leave_the_folder_are_none(wheels: list[Path], version: str) -> None:
    with pytest.raises(PeerFault):
        manifest_of(wheels, version, 1)


def test_a_release_is_for_one_kind_of_device_and_never_goes_back(wheels: list[Path]) -> None:
    manifest = manifest_of(wheels, "1.1.0", 5)
    python, machine = manifest.python, str(manifest.machine)
    verify_for(manifest, FLEET, python, machine, 4)
    other = FleetId.parse("mine")
    for fleet, python_, machine_, lowest, reason in (
        (other, python, machine, 4, Reason.WRONG_FLEET),
        (FLEET, "3.99", machine, 4, Reason.BAD_VALUE),
        (FLEET, python, "riscv64", 4, Reason.BAD_VALUE),
        (FLEET, python, machine, 5, Reason.ROLLBACK),
    ):
        with pytest.raises(PeerFault) as refused:
            verify_for(manifest, fleet, python_, machine_, lowest)
        assert refused.value.reason is reason
    verify_for(manifest_of(wheels, "1.1.0", 5, fleet=None), other, python, machine, 4)


def test_the_manifest_has_one_spelling(wheels: list[Path]) -> None:
    manifest = manifest_of(wheels, "1.1.0", 5)
    assert ReleaseManifest.parse(manifest.to_bytes()) == manifest
