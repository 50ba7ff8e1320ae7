"""An event log that a real firmware and kernel wrote (emulated), and what it leads to."""

import json
from base64 import b64decode
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from qflare.faults import PeerFault
from qflare.verifiers import tpm
from qflare.verifiers.event_log import replay
from tests.platforms.tpm import SoftwareTpm

FILE = Path(__file__).parents[1] / "vectors" / "tpm" / "measured_boot.json"
VECTOR = json.loads(FILE.read_text())
LOG = b64decode(VECTOR["log"])
PCRS = {int(number): bytes.fromhex(value) for number, value in VECTOR["pcrs"].items()}
DATA = bytes(range(64))


def test_it_leads_to_what_the_kernel_read() -> None:
    found = replay(LOG)
    assert {number: found[number] for number in PCRS} == PCRS


def test_a_quote_with_it() -> None:
    machine = SoftwareTpm(pcrs=PCRS)
    facts = tpm.verify(machine.evidence(DATA, LOG))
    assert facts.registers == tuple((f"pcr{number}", PCRS[number]) for number in range(10))
    for number in PCRS:
        other = replace(machine, pcrs=PCRS | {number: b"\7" * 32})
        with pytest.raises(PeerFault, match="doesn't lead to the quoted PCRs"):
            tpm.verify(other.evidence(DATA, LOG))


def test_cut_anywhere_it_is_refused_or_leads_elsewhere() -> None:
    ends = 0
    for end in range(len(LOG)):
        with suppress(PeerFault):
            found = replay(LOG[:end])
            ends += 1
            assert [found[number] for number in range(10)] != list(PCRS.values())
    assert 10 < ends < 60  # between two events only
