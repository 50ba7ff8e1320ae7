"""`tpm`: a TPM 2.0 that quotes the PCRs of a measured boot, and keeps a key for that boot alone.

The whole machine is measured here, and all of it is trusted: firmware, kernel, initrd, and the file
system whose root hash the command line names. Root on it sees everything; another system that is
booted on it, or its disk elsewhere, opens nothing. The key crosses the bus between TPM and
processor in clear once at a start: who sits on that bus reads it.

Commands are those of TCG's "TPM 2.0 Library", part 3; docs/adr/0017 says why they are written here.
What the owner prepares with tpm2-tools once (docs/enclave-hardware.md) has fixed handles. The key
is an HMAC by a primary object that the TPM makes again at each start from its own seed, and uses
only while the PCRs are as they were (PolicyPCR): nothing of it is stored.

An older sealed state is caught by a counter in the TPM. A state is sealed for the count to come,
and the counter follows when that state is on the disk (`settle`): a crash in between loses nothing.
"""

import os
import zlib
from hashlib import sha256
from secrets import token_bytes
from struct import pack
from typing import Final

from enclave.evidence.sealing import Sealing
from qflare.faults import LocalFault
from qflare.messages import Evidence
from qflare.verifiers.registers import LOG_MAX, TPM, TpmQuote, qualifying_data, tpm_measurement

DEVICE: Final = "/dev/tpmrm0"
EVENT_LOG: Final = "/sys/kernel/security/tpm0/binary_bios_measurements"
ATTESTATION_KEY, COUNTER = 0x81010002, 0x01510001  # their handles
PCRS: Final = tuple(range(10))  # firmware, boot loader, kernel, command line, initrd
_READ_PUBLIC, _QUOTE, _PRIMARY, _MAC, _SESSION = 0x173, 0x158, 0x131, 0x155, 0x176
_POLICY, _FLUSH, _INCREMENT, _READ = 0x17F, 0x165, 0x134, 0x14E
_NULL, _SHA256, _KEYED, _HMAC = 0x10, 0x0B, 0x08, 0x05
_USE = 0x40432  # fixedTPM, fixedParent, sensitiveDataOrigin, noDA, sign: by its policy alone
_KEY, _COUNTS = pack(">I", ATTESTATION_KEY), pack(">I", COUNTER) * 2
_OWNER, _NOBODY = pack(">I", 0x40000001), pack(">I", 0x40000007)
_PASSWORD = pack(">IHBH", 0x40000009, 0, 0, 0)  # an empty one


class Tpm(Sealing):
    """An EvidenceProvider of a machine with a TPM, by an open descriptor that stays open."""

    name = TPM

    def __init__(self, descriptor: int, log: bytes = b"", pcrs: tuple[int, ...] = PCRS) -> None:
        """Quote once; raise LocalFault where the TPM isn't prepared."""
        self._tpm = descriptor
        self._pcrs = pack(">IHB", 1, _SHA256, 3) + sum(1 << n for n in pcrs).to_bytes(3, "little")
        packed = zlib.compress(log, 9)
        self._log = packed if log and len(packed) <= LOG_MAX else b""  # it only explains
        self._public = _first(self._run(_READ_PUBLIC, _KEY, b"", b""))
        attest = _first(self._quote(bytes(32)))
        super().__init__(tpm_measurement(attest), self._derive(attest[-32:]))
        self._promised = self._count()

    def quote(self, report_data: bytes) -> Evidence:
        quoted = self._quote(qualifying_data(report_data, self._log))
        body = TpmQuote(quoted, self._public, report_data, self._log).to_bytes()
        return Evidence(self.name, body)

    def _quote(self, bound: bytes) -> bytes:
        return self._run(_QUOTE, _KEY, pack(">H32sH", 32, bound, _NULL) + self._pcrs)

    def _derive(self, state: bytes) -> bytes:
        """The key of these PCRs, whose digest is `state`."""
        policy = sha256(bytes(32) + pack(">I", _POLICY) + self._pcrs + state).digest()
        public = (_KEYED, _SHA256, _USE, len(policy), policy, _HMAC, _SHA256, 0)
        template = pack(">H4xHHHIH32sHHH6x", 4, 48, *public)
        primary = self._run(_PRIMARY, _OWNER, template, out=4)[:4]
        nonce = pack(">H16sHBHH", 16, token_bytes(16), 0, 1, _NULL, _SHA256)
        session = self._run(_SESSION, _NOBODY * 2, nonce, b"", out=4)[:4]
        self._run(_POLICY, session, bytes(2) + self._pcrs, b"")
        label = pack(">H16sH", 16, b"qflare/1/sealing", _SHA256)
        key = _first(self._run(_MAC, primary, label, session + bytes(5)))
        self._run(_FLUSH, b"", primary, b"")
        return key

    def seal(self, secret: bytes) -> bytes:
        self.settle()
        self._promised = self._count() + 1
        return super().seal(pack(">Q", self._promised) + secret)

    def unseal(self, sealed: bytes) -> bytes:
        state, count = super().unseal(sealed), self._count()
        self._promised = int.from_bytes(state[:8], "big")
        if self._promised not in (count, count + 1):
            detail = f"the sealed state is number {self._promised}, and the TPM counted {count}"
            raise LocalFault(f"{detail}; move it away: the coordinator presents its last receipt")
        self.settle()
        return state[8:]

    def settle(self) -> None:
        """The state that was sealed last is on the disk: no older one opens from now on."""
        if self._promised > self._count():
            self._run(_INCREMENT, _COUNTS, b"")

    def _count(self) -> int:
        return int.from_bytes(_first(self._run(_READ, _COUNTS, b"\0\x08\0\0")), "big")

    def _run(
        self, code: int, handles: bytes, wanted: bytes, session: bytes = _PASSWORD, out: int = 0
    ) -> bytes:
        """What the TPM answers: handles of `out` bytes, then parameters; raise LocalFault."""
        body = handles + (pack(">I", len(session)) + session if session else b"") + wanted
        head = pack(">HII", 0x8002 if session else 0x8001, 10 + len(body), code)
        try:
            os.write(self._tpm, head + body)
            reply = os.read(self._tpm, 4096)
        except OSError as why:
            raise LocalFault(f"the TPM doesn't answer ({why}); look at dmesg") from None
        error, at = reply[6:10], 10 + out
        if error != bytes(4):
            raise LocalFault(f"the TPM refuses {code:#x}; ask tpm2_rc_decode {error.hex()}")
        size = int.from_bytes(reply[at : at + 4], "big")
        return reply[10:at] + reply[at + 4 : at + 4 + size] if session else reply[10:]


def _first(data: bytes) -> bytes:
    """The bytes of the TPM2B in front."""
    return data[2 : 2 + int.from_bytes(data[:2], "big")]
