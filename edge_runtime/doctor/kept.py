"""What the device has: its enrolment, a model for applications, encryption, samples."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edge_runtime.doctor.finding import Finding, bad, ok, skipped, warn

if TYPE_CHECKING:
    from edge_runtime.config import EdgeConfig

COLLECTED: Final = Path("run/qflare-collect/collect.json")
_ROOT: Final = Path("/")
_ENROL: Final = "sudo qflare device enrol --ticket FILE, with a fresh one"


def check_enrolment(directory: Path) -> Finding:
    """Is this device a member of a fleet, or on the way to it?"""
    from edge_runtime.enrol_files import CERTIFICATE, MARKER, PENDING, EnrolFiles

    name = "enrolment"
    found = EnrolFiles(directory).marker()
    if found is not None:
        enrolled, _ = found
        return ok(name, f"{enrolled.name} of {enrolled.fleet}; {enrolled.words}")
    if (directory / PENDING).exists():
        words = "a request stands, and no grant has come yet"
        return warn(
            name, words, "approve it at the coordinator, and enrol again with the same ticket"
        )
    if (directory / CERTIFICATE).exists():
        return ok(name, f"a certificate is here, made without a ticket (no {MARKER})")
    return bad(name, f"nobody has enrolled this device in {directory}", _ENROL)


def check_model(config: "EdgeConfig") -> Iterator[Finding]:
    """Is there a model that applications may use?"""
    from edge_runtime.slots import ACTIVE, read_slot, read_state
    from qflare.names import Digest

    name, serving = "model", config.serving
    if not serving.enabled:
        yield skipped(name, "serving.enabled = false: applications use none")
        return
    directory = serving.slots_in(config.device.state_dir)
    try:
        state = read_state(directory)
    except PermissionError:
        yield skipped(name, f"{directory} isn't for everybody", "run it as root (sudo)")
        return
    if state.active is None:
        yield skipped(name, "none was accepted here yet", "it comes with the first round")
    else:
        slot = read_slot(directory / ACTIVE)
        slot.read()
        it = slot.manifest
        since = datetime.fromtimestamp(state.since, UTC)
        words = f"{it.name} {it.version} ({slot.model.short}), since {since:%F}"
        if it.examples:
            words += f", {it.correct} of {it.examples} local examples right"
        yield ok(name, words)
    for refused in state.refused[-1:]:
        short = Digest.parse(refused.model).short
        remedy = "qflare slots shows them; the one before stays in use"
        yield warn("refused model", f"{short}: {refused.reason}", remedy)


def check_encryption(config: "EdgeConfig", root: Path = _ROOT) -> Iterator[Finding]:
    """Is what the device keeps encrypted, and could a TPM hold the key?"""
    from edge_runtime.storage.sealing import SEAL

    chips = sorted(path.name for path in (root / "sys/class/tpm").glob("tpm*"))
    usable = [chip for chip in chips if (root / "dev" / chip.replace("tpm", "tpmrm")).exists()]
    if usable:
        yield ok("TPM", ", ".join(usable))
    elif chips:
        words = f"the kernel has {', '.join(chips)}, and /dev/tpmrm0 isn't there"
        yield warn("TPM", words, "sudo modprobe tpm_tis; see dmesg")
    else:
        yield skipped("TPM", "none; the owner's key can be in a file (storage.key_file)")
    state_dir = config.device.state_dir
    try:
        sealed = (state_dir / SEAL).exists()
    except PermissionError:
        yield skipped("encryption", f"{state_dir} is the daemon's alone", "run it as root (sudo)")
        return
    if sealed:
        yield ok("encryption", "what is private is encrypted under the owner's key")
    else:
        how = "by the TPM (drop-ins/storage-key.conf)" if usable else "by storage.key_file"
        yield skipped("encryption", f"off; it can be turned on {how}")


def check_collector(config: "EdgeConfig", root: Path = _ROOT) -> Finding:
    """Do samples come in, where a service collects them?"""
    from edge_runtime.sources.ring import rows_collected
    from qflare.host.files import read_bounded

    name = "collector"
    rows = rows_collected(config.data.path)
    try:
        told: Any = json.loads(read_bounded(root / COLLECTED, 64 * 1024))
        state, well = str(told["state"])[:200], told["ok"] is True
    except (OSError, ValueError, KeyError, TypeError):
        remedy = "sudo systemctl enable --now qflare-collect"
        return bad(name, f"it doesn't run; {rows} samples are there from before", remedy)
    if not well:
        return bad(name, state, "journalctl -u qflare-collect says more")
    return ok(name, f"{state}; {rows} samples")
