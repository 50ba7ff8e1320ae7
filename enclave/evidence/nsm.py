"""`nitro`: the Nitro Secure Module of an AWS Nitro Enclave, by /dev/nsm.

The module takes and gives CBOR (AWS's nsm-api), by one ioctl (Linux, uapi/linux/nsm.h). It measures
and quotes, and keeps no key. A Nitro enclave has no disk either, so nothing is kept: `seal` gives
no bytes, and an enclave that is started again begins without memory, abandons its round, and lets
the coordinator present the last receipt. (A key that survives would be one of AWS KMS, released on
attestation: that takes AWS's client in here, and trust in its service.)
"""

import ctypes
import fcntl
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeAlias

from qflare import codec
from qflare.faults import LocalFault, PeerFault
from qflare.messages import Evidence
from qflare.verifiers.registers import NITRO, NITRO_REGISTERS, REGISTER, nitro_measurement

Exchange: TypeAlias = Callable[[bytes], bytes]

DEVICE: Final = "/dev/nsm"
IOCTL: Final = 0xC0200A00  # _IOWR(0x0A, 0, struct nsm_raw): two pairs of address and length
REPLY_MAX: Final = 0x3000


class Nsm:
    """An EvidenceProvider inside a Nitro enclave; `exchange` asks the module."""

    name = NITRO

    def __init__(self, exchange: Exchange) -> None:
        """Ask for the registers once; raise LocalFault where there is no such module."""
        self._exchange = exchange
        registers = b"".join(self._register(number) for number in range(NITRO_REGISTERS))
        self.measurement = nitro_measurement(registers)

    def quote(self, report_data: bytes) -> Evidence:
        unused = (("nonce", None), ("public_key", None))
        reply = self._ask("Attestation", ("user_data", report_data), *unused)
        return Evidence(self.name, _bytes(reply, b"\xa1" + codec.encode("document")))

    def _register(self, number: int) -> bytes:
        reply = self._ask("DescribePCR", ("index", number))
        lock = b"\xa2" + codec.encode("lock")  # then a byte: whether it is locked
        value = _bytes(reply[len(lock) + 1 :], codec.encode("data"))
        if not reply.startswith(lock) or len(value) != REGISTER:
            raise LocalFault("the NSM describes its registers in another way")
        return value

    def _ask(self, what: str, *fields: tuple[str, codec.Value]) -> bytes:
        head = b"\xa1" + codec.encode(what)
        wanted = b"".join(codec.encode(key) + codec.encode(value) for key, value in fields)
        try:
            reply = self._exchange(head + bytes([0xA0 + len(fields)]) + wanted)
        except OSError as error:
            raise LocalFault(f"the NSM doesn't answer ({error}); look at dmesg") from None
        if not reply.startswith(head):
            raise LocalFault(f"the NSM refuses {what}: {reply[:80]!r}")
        return reply[len(head) :]

    def seal(self, secret: bytes) -> bytes:
        del secret
        return b""

    def unseal(self, sealed: bytes) -> bytes:
        del sealed
        raise LocalFault("a Nitro enclave keeps no state; move the state file away")


def _bytes(reply: bytes, head: bytes) -> bytes:
    """The byte string after `head`, which has to be all that is there."""
    with suppress(PeerFault):
        value = codec.decode(reply[len(head) :], REPLY_MAX)
        if reply.startswith(head) and isinstance(value, bytes):
            return value
    raise LocalFault("the NSM gives something else than was asked for")


def by_device(descriptor: int) -> Exchange:
    """Ask by an open /dev/nsm, which stays open."""

    def exchange(request: bytes) -> bytes:
        sent = ctypes.create_string_buffer(request, len(request))
        reply = ctypes.create_string_buffer(REPLY_MAX)
        to, at = ctypes.addressof(reply), ctypes.addressof(sent)
        message = bytearray(struct.pack("=4Q", at, len(request), to, REPLY_MAX))
        fcntl.ioctl(descriptor, IOCTL, message)
        return reply.raw[: struct.unpack_from("=Q", message, 24)[0]]

    return exchange
