"""One update, from a staged bundle to a version that has proved itself or to the one before. I/O.

    installing -> trying -> done
                     |
                     +----> falling_back -> done

A phase is durable before it begins, and each can be entered again after any cut: what was done is
done once more. `current` moves in two of them, and only ever to a version that is complete. A phase
that is entered too often is left: installing for good, trying for the way back, as a version that
hangs or crashes the board can't be judged in any other way.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import msgspec

from edge_runtime.upgrade import staging
from edge_runtime.upgrade.install import (
    install,
    this_machine,
    this_python,
    try_out,
    verify_space,
)
from edge_runtime.upgrade.places import BAD_MAX, Bad, Complete, Job, Ledger, Places
from edge_runtime.upgrade.trial import Trial
from qflare.crypto.keys import VerifyKey
from qflare.faults import LocalFault, PeerFault
from qflare.host.bundle import read_manifest
from qflare.names import FleetId
from qflare.release import ReleaseManifest, verify_for

ENTERED_MAX: Final = 3
_WHY_MAX: Final = 900


class Install(Protocol):
    """As `install.install`."""

    def __call__(
        self,
        source: BinaryIO,
        manifest: ReleaseManifest,
        places: Places,
        config: Path | None,
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Device:
    """Whose updates these are."""

    state_dir: Path
    owner: VerifyKey
    fleet: FleetId
    config: Path | None
    python: str = this_python()
    machine: str = this_machine()


class Upgrade:
    """Applies what is staged. One at a time: the caller holds a lock."""

    def __init__(
        self,
        places: Places,
        device: Device,
        trial: Trial,
        report: Callable[[str], None],
        install_: Install = install,
    ) -> None:
        self._places, self._device, self._trial = places, device, trial
        self._report, self._install = report, install_

    def run(self) -> bool:
        """Finish what is under way, then apply what is staged; False if a release failed.

        Raises LocalFault for what a person has to mend first.
        """
        places = self._places
        places.prepare()
        places.tidy()
        good = True
        job = places.job()
        if job is not None:
            good = self._resume(job)
        with staging.staged_dir(self._device.state_dir) as staged:
            if staged is not None:
                good = self._take(staged) and good
        left = places.job()
        if left is not None:  # its bundle is gone, or was refused since
            places.remove(left.version)
            places.end_job()
        return good

    # --- choosing

    def _take(self, staged: int) -> bool:
        """Apply the newest of the bundles; refuse and remove the others."""
        good, offers = True, []
        for name in staging.names(staged):
            manifest = self._look(staged, name)
            if manifest is None:
                staging.drop(staged, name)
                good = False
            elif self._has(manifest):  # accepted, and then cut off before the file was removed
                staging.drop(staged, name)
            else:
                offers.append((manifest.sequence, name, manifest))
        if not offers:
            return good
        _, newest, manifest = max(offers, key=lambda offer: offer[:2])
        for _, name, _ in offers:
            if name != newest:
                staging.drop(staged, name)
        good = self._apply(staged, newest, manifest) and good
        staging.drop(staged, newest)
        return good

    def _look(self, staged: int, name: str) -> ReleaseManifest | None:
        """The verified manifest of a bundle that suits this device."""
        device = self._device
        file = staging.open_staged(staged, name)
        if file is None:
            return None
        with file:
            try:
                manifest = read_manifest(file, device.owner)
                if self._has(manifest):
                    return manifest
                verify_for(
                    manifest, device.fleet, device.python, device.machine, self._places.lowest()
                )
            except PeerFault as fault:
                self._remember(f"{name}: refused: {fault}")
                return None
        for bad in self._places.ledger().bad:
            if bad.digest == str(manifest.digest):
                self._remember(f"{name}: release {bad.version} failed here before: {bad.why}")
                return None
        return manifest

    def _has(self, manifest: ReleaseManifest) -> bool:
        here = (self._places.linked("current"), self._places.lowest())
        return here == (manifest.version, manifest.sequence)

    # --- the phases

    def _apply(self, staged: int, name: str, manifest: ReleaseManifest) -> bool:
        places, previous = self._places, self._places.linked("current")
        if previous is None or places.complete(previous) is None:
            self._remember(
                f"{name}: {places.opt / 'current'} names no version that `qflare device update "
                "install` made; see docs/upgrades.md"
            )
            return False
        if places.linked("proven") is None:
            places.point("proven", previous)
        version = manifest.version
        if version in (previous, places.linked("proven")):
            self._remember(f"{name}: {version} is what runs already; give a release a new version")
            return False
        digest = str(manifest.digest)
        earlier = places.job()
        again = earlier.entered if earlier and earlier.digest == digest else 0
        job = Job(
            format=1,
            phase="installing",
            digest=digest,
            version=version,
            sequence=manifest.sequence,
            previous=previous,
            entered=again + 1,
        )
        if job.entered > ENTERED_MAX:
            return self._give_up(job, "it couldn't be installed: the power failed, or memory")
        places.write_job(job)
        self._report(f"installing {version} beside {previous}")
        file = staging.open_staged(staged, name)
        if file is None:
            return self._give_up(job, "the bundle is gone", bad=False)
        with file:
            try:
                verify_space(places, manifest)
                if read_manifest(file, self._device.owner) != manifest:
                    return self._give_up(job, "the bundle was exchanged", bad=False)
                self._install(file, manifest, places, self._device.config)
            except PeerFault as fault:
                return self._give_up(job, f"refused: {fault}", bad=False)
            except LocalFault as fault:
                return self._give_up(job, str(fault), bad=False)
            except OSError as error:
                return self._give_up(job, f"{error.filename}: {error.strerror}", bad=False)
        return self._try(msgspec.structs.replace(job, phase="trying", entered=0))

    def _resume(self, job: Job) -> bool:
        """Go on where it was cut off."""
        ledger = self._places.ledger()
        if ledger.sequence >= job.sequence:  # accepted; only the end was cut off
            self._close(job.version, job.previous)
            return True
        match job.phase:
            case "installing":
                # The bundle is staged still, and `_apply` counts; else `run` clears up.
                return True
            case "trying":
                return self._try(job)
            case "falling_back":
                return self._back(job)

    def _try(self, job: Job) -> bool:
        places = self._places
        job = msgspec.structs.replace(job, entered=job.entered + 1)
        if places.complete(job.version) is None:
            return self._back(_why(job, "it isn't whole"))
        if job.entered > ENTERED_MAX:
            return self._back(_why(job, f"its trial was cut off {ENTERED_MAX} times"))
        places.write_job(job)
        places.point("current", job.version)
        self._report(f"trying {job.version}")
        fault = self._trial.restart() or self._trial.judge(job.version)
        if fault:
            return self._back(_why(job, fault))
        ledger = places.ledger()
        last = f"{job.version} runs, after {job.previous}"
        places.write_ledger(
            msgspec.structs.replace(ledger, sequence=job.sequence, previous=job.previous, last=last)
        )
        self._close(job.version, job.previous)
        self._report(last)
        return True

    def _close(self, version: str, previous: str) -> None:
        """An accepted version: it applies updates from now on, and only one other stays."""
        places = self._places
        places.point("current", version)
        places.point("proven", version)
        places.prune({version, previous})
        places.end_job()

    def _back(self, job: Job) -> bool:
        """To the version before, and never to this one again."""
        places = self._places
        job = msgspec.structs.replace(job, phase="falling_back", entered=job.entered or 1)
        places.write_job(job)
        places.point("current", job.previous)
        self._report(f"{job.version}: {job.why}; going back to {job.previous}")
        fault = self._trial.restart()
        if fault:
            self._report(f"{job.previous}: {fault}")
        return self._give_up(job, job.why)

    def _give_up(self, job: Job, why: str, bad: bool = True) -> bool:
        """End the job; with `bad` the release isn't tried again. Returns False."""
        ledger = self._places.ledger()
        if bad and all(known.digest != job.digest for known in ledger.bad):
            entry = Bad(digest=job.digest, version=job.version, why=why[:_WHY_MAX])
            ledger = msgspec.structs.replace(ledger, bad=(*ledger.bad, entry)[-BAD_MAX:])
        self._remember(f"{job.version}: {why}", ledger)
        self._places.remove(job.version)
        self._places.end_job()
        return False

    def _remember(self, last: str, ledger: Ledger | None = None) -> None:
        self._report(last)
        kept = self._places.ledger() if ledger is None else ledger
        self._places.write_ledger(msgspec.structs.replace(kept, last=last[:_WHY_MAX]))


def _why(job: Job, why: str) -> Job:
    return msgspec.structs.replace(job, why=why[:_WHY_MAX])


def install_first(
    bundle: Path,
    places: Places,
    owner: VerifyKey,
    fleet: FleetId | None,
    report: Callable[[str], None],
) -> None:
    """Put a release where there is none, as on a fresh board or while an image is built.

    Raises LocalFault if there is one already, PeerFault for a bundle that doesn't suit.
    """
    places.prepare()
    places.tidy()
    there = places.linked("current")
    if there is not None and places.complete(there) is not None:
        raise LocalFault(f"{there} is installed already; stage a release to update it")
    with bundle.open("rb") as file:
        manifest = read_manifest(file, owner)
        verify_for(manifest, fleet, this_python(), this_machine(), 0)
        verify_space(places, manifest)
        report(f"installing {manifest.version}")
        install(file, manifest, places, None)
    places.point("proven", manifest.version)
    places.point("current", manifest.version)
    report(f"{places.opt / 'current'} is {manifest.version}")


def adopt(places: Places, sequence: int) -> str:
    """Let the version that `current` names, made by hand, be what updates start from; its name.

    Raises LocalFault if there is none that starts.
    """
    places.prepare()
    version = places.linked("current")
    if version is None:
        raise LocalFault(f"{places.opt / 'current'} names no version; make that link first")
    try_out(places, version, None)
    if places.complete(version) is None:
        try:
            places.finish(Complete(version=version, sequence=sequence))
        except OSError as error:
            raise LocalFault(f"{error.filename}: {error.strerror}; try it as root (sudo)") from None
    places.point("proven", version)
    return version
