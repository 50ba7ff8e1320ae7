"""A TPM 2.0, spoken to directly for the little that systemd-creds(1) doesn't do.

Commands and replies are those of the TCG's TPM 2.0 specification, part 3; none of them carries a
secret. `device` is a path, or how tpm2-tss names a connection: `device:/dev/tpmrm0`,
`swtpm:path=/run/swtpm.sock`.
"""

import os
import socket
import stat
import struct
from pathlib import Path
from typing import Final

from qflare.faults import LocalFault
from qflare.host.keystore.pcrs import PCRS, Pcr, State, selection

_NO_SESSIONS: Final = 0x8001
_HEADER: Final = struct.Struct(">HII")
_REPLY_MAX: Final = 4096
_TIMEOUT_S: Final = 20.0
_PCR_READ, _GET_CAPABILITY, _FLUSH = 0x17E, 0x17A, 0x165
_HANDLES: Final = 1  # TPM_CAP_HANDLES
_VOLATILE: Final = (0x02000000, 0x03000000, 0x80000000)  # sessions, saved sessions, objects


def read_state(device: str, numbers: tuple[int, ...]) -> State:
    """The values of these PCRs, in the bank of SHA-256; raise LocalFault."""
    wanted, found = sorted(set(numbers)), dict[int, str]()
    while missing := [number for number in wanted if number not in found]:
        reply = command(device, _PCR_READ, selection(missing))
        try:
            got = _values(reply)
        except (struct.error, ValueError):
            got = {}
        if not set(got) & set(missing):
            raise LocalFault(
                f"{device}: the TPM doesn't tell PCR {missing[0]} of its SHA-256 bank; have the "
                "firmware switch that bank on"
            )
        found |= got
    return State(tuple(Pcr(number, found[number]) for number in wanted))


def _values(reply: bytes) -> dict[int, str]:
    """TPML_PCR_SELECTION, then TPML_DIGEST, both after the update counter."""
    _, banks = struct.unpack_from(">II", reply)
    if banks != 1:
        raise ValueError
    _, size = struct.unpack_from(">HB", reply, 8)
    bits, at = reply[11 : 11 + size], 11 + size
    if len(bits) != size:
        raise ValueError
    numbers = [n for n in range(min(8 * size, PCRS)) if bits[n // 8] >> n % 8 & 1]
    (count,) = struct.unpack_from(">I", reply, at)
    at += 4
    values = {}
    for number in numbers[:count]:
        (length,) = struct.unpack_from(">H", reply, at)
        value = reply[at + 2 : at + 2 + length]
        if length != len(value) or length != 32:
            raise ValueError
        values[number] = value.hex()
        at += 2 + length
    return values


def volatile(device: str) -> set[int]:
    """Handles of the sessions and objects that take the TPM's few places; raise LocalFault."""
    found: set[int] = set()
    for kind in _VOLATILE:
        reply = command(device, _GET_CAPABILITY, struct.pack(">III", _HANDLES, kind, 64))
        count = min(int.from_bytes(reply[5:9], "big"), len(reply[9:]) // 4)
        found.update(struct.unpack(f">{count}I", reply[9 : 9 + 4 * count]))
    return found


def flush(device: str, handles: set[int]) -> None:
    """Free their places; raise LocalFault."""
    for handle in handles:
        command(device, _FLUSH, struct.pack(">I", handle))


def shares(device: str) -> bool:
    """Does the kernel manage the TPM's places, so that what a process leaves goes with it?"""
    return Path(device.removeprefix("device:")).name.startswith("tpmrm")


def command(device: str, code: int, body: bytes) -> bytes:
    """The body of the reply; raise LocalFault for a TPM that isn't there or that refuses."""
    sent = _HEADER.pack(_NO_SESSIONS, _HEADER.size + len(body), code) + body
    try:
        reply = _exchange(device, sent)
    except OSError as error:
        raise LocalFault(
            f"{device}: {error.strerror or error}; is there a TPM, and may this user (group tss) "
            "use it?"
        ) from None
    if len(reply) < _HEADER.size:
        raise LocalFault(f"{device}: the TPM said {len(reply)} bytes, which is no reply")
    _, size, result = _HEADER.unpack_from(reply)
    if result or size != len(reply):
        raise LocalFault(f"{device}: the TPM refuses command {code:#x}: {result:#x}")
    return reply[_HEADER.size :]


def _exchange(device: str, sent: bytes) -> bytes:
    kind, _, rest = device.partition(":")
    if kind == "swtpm" and rest.startswith("path="):
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(_TIMEOUT_S)
            link.connect(rest.removeprefix("path="))
            link.sendall(sent)
            return link.recv(_REPLY_MAX)
    path = rest if kind == "device" else device
    if not path.startswith("/"):
        raise LocalFault(
            f"{device}: that is no TPM that we know; write /dev/tpmrm0 or swtpm:path=SOCKET"
        )
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if not stat.S_ISCHR(os.fstat(descriptor).st_mode):
            raise LocalFault(f"{path} is no device; write /dev/tpmrm0")
        os.write(descriptor, sent)
        return os.read(descriptor, _REPLY_MAX)
    finally:
        os.close(descriptor)
