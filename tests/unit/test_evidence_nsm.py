"""The Nitro Secure Module's provider, before a module in software and a kernel's ioctl."""

import ctypes
import fcntl
import struct
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.evidence import nsm
from enclave.evidence.nsm import Nsm
from qflare.faults import LocalFault
from qflare.verifiers import nitro
from tests.platforms.nitro import NOW, PCRS, SoftwareNitro
from tools import attest

DATA = bytes(range(64))


def test_what_it_quotes_is_what_devices_verify() -> None:
    platform = SoftwareNitro()
    provider = Nsm(platform.answer)
    evidence = provider.quote(DATA)
    facts = nitro.verify(evidence, (platform.insecure_root,), NOW)
    assert (evidence.provider, facts.report_data) == ("nitro", DATA)
    assert provider.measurement == facts.measurement
    registers = [("DescribePCR", {"index": n}) for n in range(3)]
    wanted = {"user_data": DATA, "nonce": None, "public_key": None}
    assert platform.asked == [*registers, ("Attestation", wanted)]


def test_nothing_is_kept() -> None:
    provider = Nsm(SoftwareNitro().answer)
    assert provider.seal(b"secret") == b""
    with pytest.raises(LocalFault, match="keeps no state"):
        provider.unseal(b"")


def test_a_module_that_refuses() -> None:
    provider = Nsm(SoftwareNitro().answer)
    with pytest.raises(LocalFault, match="refuses Attestation"):
        provider.quote(bytes(513))


@given(st.binary(max_size=120))
def test_a_module_that_gives_garbage(garbage: bytes) -> None:
    for what in (garbage, cbor2.dumps({"DescribePCR": 1})[:13] + garbage):
        with pytest.raises(LocalFault):
            Nsm(lambda _, what=what: what)  # type: ignore[misc]


@pytest.mark.parametrize(
    "reply",
    [{"lock": True, "data": bytes(32)}, {"data": bytes(48), "lock": True}, {"data": bytes(48)},
     {"lock": True, "data": "x" * 48}],
)  # fmt: skip
def test_registers_in_another_way(reply: dict[str, Any]) -> None:
    with pytest.raises(LocalFault):
        Nsm(lambda _: cbor2.dumps({"DescribePCR": reply}))


def test_the_ioctl_as_the_kernel_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """struct nsm_raw: where the request is, and where the answer goes; the length comes back."""
    platform = SoftwareNitro()

    def kernel(descriptor: int, request: int, message: bytearray) -> int:
        assert (descriptor, request) == (7, (3 << 30) | (32 << 16) | (0x0A << 8) | 0)
        at, size, to, room = struct.unpack("=4Q", message)
        assert room == 0x3000
        answer = platform.answer(ctypes.string_at(at, size))
        ctypes.memmove(to, answer, len(answer))
        message[:] = struct.pack("=4Q", at, size, to, len(answer))
        return 0

    monkeypatch.setattr(fcntl, "ioctl", kernel)
    provider = Nsm(nsm.by_device(7))
    facts = nitro.verify(provider.quote(DATA), (platform.insecure_root,), NOW)
    assert dict(facts.registers)["pcr2"] == PCRS[2]


def test_what_isnt_the_device_is_said() -> None:
    with (
        open("/dev/null", "rb") as null,  # noqa: PTH123
        pytest.raises(LocalFault, match="doesn't answer"),
    ):
        Nsm(nsm.by_device(null.fileno()))


def test_the_tool_for_owners(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    platform, file = SoftwareNitro(), str(tmp_path / "evidence")
    monkeypatch.setattr(attest, "by_device", lambda _: platform.answer)
    assert attest.main(["quote", "nsm", "--root", "/dev/null", "--output", file]) == 0
    measured = capsys.readouterr().out.splitlines()[1]
    root = ["--insecure-root", str(platform.insecure_root)]
    assert attest.main(["verify", file, "--at", str(NOW), *root]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert measured in shown
    assert "until        2030-01-01 02:00 UTC" in shown
    assert attest.main(["verify", file, "--at", str(NOW)]) == 1
    assert "is not Amazon's" in capsys.readouterr().err
