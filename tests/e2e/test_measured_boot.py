"""A whole measured boot, emulated: firmware, kernel, initrd, each of them in the PCRs."""

import hashlib
from pathlib import Path

import pytest

from qflare.verifiers.event_log import replay
from tests.platforms import measured_boot
from tests.platforms.swtpm import software_chip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_what_boots_is_what_the_log_leads_to(tmp_path: Path) -> None:
    ramdisk = measured_boot.initrd()
    with software_chip(tmp_path / "tpm") as chip:
        log, pcrs = measured_boot.boot(chip, tmp_path / "first", ramdisk)
        found = replay(log)
        assert {number: found[number] for number in pcrs} == pcrs
        assert any(pcrs[0])
        # The owner can tell offline what the kernel measures of an initrd: its digest.
        assert hashlib.sha256(ramdisk).digest() in log

        other, changed = measured_boot.boot(chip, tmp_path / "second", ramdisk, "init=/bin/sh")
        assert replay(other)[9] == changed[9]
        assert [number for number in pcrs if pcrs[number] != changed[number]] == [9]
