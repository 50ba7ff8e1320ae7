"""Heat, and what slows the board down because of it or of its power supply."""

import os
import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

from edge_runtime.gates.files import Unreadable, entries, number, text, word
from edge_runtime.gates.readings import Heat, Seen, Throttling
from qflare.host.throttled import throttled_files

VCGENCMD_EVERY_S = 300.0  # a process each time, so seldom
_PLAUSIBLE = range(-40_000, 150_001)  # thousandths of °C
_SLOWING = ("cpufreq", "thermal-cpufreq", "devfreq", "thermal-devfreq", "Processor")
_EVENTS = re.compile(r"oc[0-9]_event_cnt")
# Bits of the firmware's word, documented with `vcgencmd get_throttled`; 16-19 are the past.
_FIRMWARE = {
    0: "the supply voltage is too low (use a stronger supply or a shorter cable)",
    1: "the firmware caps the clock",
    2: "the firmware throttles the processor",
    3: "the firmware's soft temperature limit is reached",
}
_MAILBOXES = ("vcio", "vchiq")  # by which vcgencmd asks the firmware, new and old
_WORD = re.compile(r"(?:throttled=)?(?:0x)?([0-9a-fA-F]{1,8})")


def read_heat(root: Path, ignore: tuple[str, ...], prefer: tuple[str, ...] = ()) -> Seen[Heat]:
    """The hottest thermal zone whose type fits no pattern of `ignore`.

    Of those in `prefer` if one of them can be read: other zones (a radio's, a battery's) may be
    warm in good health. A zone may be powered down and fail to read; the others stand in for it.
    """
    found: list[Heat] = []
    troubles: list[str] = []
    try:
        zones = entries(root / "sys/class/thermal", "thermal_zone")
    except Unreadable as fault:
        return Seen(trouble=str(fault))
    for zone in zones:
        try:
            kind = word(text(zone / "type") or zone.name)
            if any(fnmatchcase(kind, pattern) for pattern in ignore):
                continue
            thousandths = number(zone / "temp")
            if thousandths is None:
                continue
            if thousandths not in _PLAUSIBLE:
                raise Unreadable(f"{zone}: {thousandths / 1000:.0f} °C is no temperature")
        except Unreadable as fault:
            troubles.append(str(fault))
            continue
        found.append(Heat(thousandths / 1000, kind))
    wanted = [heat for heat in found if any(fnmatchcase(heat.zone, p) for p in prefer)]
    hottest = max(wanted or found, key=lambda heat: heat.celsius, default=None)
    return Seen(hottest, "; ".join(troubles[:3]) or None)


class ThrottlingSensor:
    """By the kernel's cooling devices, by the Pi's firmware and by Jetson's over-current counters.

    The counters only ever rise, so two looks are needed. `ask` runs `vcgencmd get_throttled`
    (None: never); it is used on a Pi whose kernel has no file of the whole word.
    """

    def __init__(self, root: Path, ask: Callable[[Path], str] | None) -> None:
        self._root, self._ask = root, ask
        self._events: dict[Path, int] = {}
        self._asked: float | None = None
        self._answer: Seen[tuple[str, ...]] = Seen()

    def read(self, now: float) -> Seen[Throttling]:
        """What slows the board at `now` (monotonic seconds); no value if nothing could tell."""
        causes: list[str] = []
        troubles: list[str] = []
        known = False
        for part in (self._cooling, self._current, lambda: self._firmware(now)):
            try:
                seen = part()
            except Unreadable as fault:
                troubles.append(str(fault))
                continue
            if seen.value is not None:
                known = True
                causes += seen.value
            if seen.trouble is not None:
                troubles.append(seen.trouble)
        value = Throttling(tuple(causes)) if known else None
        return Seen(value, "; ".join(troubles[:3]) or None)

    def _cooling(self) -> Seen[tuple[str, ...]]:
        causes, trouble, known = [], None, False
        for device in entries(self._root / "sys/class/thermal", "cooling_device"):
            try:
                kind = word(text(device / "type") or "")
                step = number(device / "cur_state") if kind.startswith(_SLOWING) else None
            except Unreadable as fault:
                trouble = str(fault)
                continue
            if step is not None:
                known = True
                if step > 0:
                    causes.append(f"the kernel slows the board down ({kind} at step {step})")
        return Seen(tuple(causes) if known else None, trouble)

    def _current(self) -> Seen[tuple[str, ...]]:
        """Jetson Orin: hwmon "soctherm_oc" counts under-voltage and over-current throttling."""
        found: tuple[str, ...] | None = None
        for monitor in self._monitors("soctherm_oc"):
            for counter in entries(monitor, "oc"):
                if not _EVENTS.fullmatch(counter.name):
                    continue
                count = number(counter)
                if count is None:
                    continue
                found = found or ()
                before = self._events.get(counter, count)
                self._events[counter] = count
                if count > before:
                    found += (
                        f"the power supply's limit slows the board down ({counter.name} rose by "
                        f"{count - before})",
                    )
        return Seen(found)

    def _firmware(self, now: float) -> Seen[tuple[str, ...]]:
        """A Raspberry Pi's: the kernel's file of the whole word, or else its lowest bit by hwmon,
        and the other bits by the program.
        """
        for path in throttled_files(self._root):
            said = text(path)
            if said is not None:
                return Seen(_causes(said))
        low: Seen[tuple[str, ...]] = Seen()
        for monitor in self._monitors("rpi_volt"):
            alarm = number(monitor / "in0_lcrit_alarm")
            if alarm is not None:
                low = Seen((_FIRMWARE[0],) if alarm else ())
        if self._ask is None:
            return low
        if self._asked is None or now - self._asked >= VCGENCMD_EVERY_S:
            self._asked = now
            self._answer = self._program(self._ask)
        told = self._answer
        if low.value is None or told.value is None:
            return Seen(told.value if low.value is None else low.value, told.trouble)
        return Seen(low.value + tuple(cause for cause in told.value if cause != _FIRMWARE[0]))

    def _program(self, ask: Callable[[Path], str]) -> Seen[tuple[str, ...]]:
        """Nothing where its device isn't there: a service's sandbox hides that."""
        program = self._root / "usr/bin/vcgencmd"
        model = text(self._root / "sys/firmware/devicetree/base/model") or ""
        if "Raspberry Pi" not in model or not os.access(program, os.X_OK):
            return Seen()
        if not any((self._root / "dev" / name).exists() for name in _MAILBOXES):
            return Seen()
        try:
            return Seen(_causes(ask(program)))
        except Unreadable as fault:
            return Seen(trouble=str(fault))

    def _monitors(self, name: str) -> list[Path]:
        return [
            monitor
            for monitor in entries(self._root / "sys/class/hwmon", "hwmon")
            if text(monitor / "name") == name
        ]


def _causes(said: str) -> tuple[str, ...]:
    found = _WORD.fullmatch(said)
    if not found:
        raise Unreadable(f"get_throttled: {word(said)!r} is no word of bits")
    bits = int(found[1], 16)
    return tuple(cause for bit, cause in _FIRMWARE.items() if bits >> bit & 1)


def ask_firmware(program: Path) -> str:
    """The output of `vcgencmd get_throttled`; raise Unreadable if it fails or hangs."""
    import subprocess  # only where it must be

    try:
        done = subprocess.run(
            [str(program), "get_throttled"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=2.0,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unreadable(f"{program}: {error}") from None
    if done.returncode != 0:
        raise Unreadable(
            f"{program} failed with {done.returncode}; add the daemon's user to the group video"
        )
    return done.stdout[:100].decode("ascii", "replace").strip()
