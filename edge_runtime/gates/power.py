"""Batteries and mains (Documentation/ABI/testing/sysfs-class-power)."""

from pathlib import Path

from edge_runtime.gates.files import Unreadable, entries, number, text
from edge_runtime.gates.readings import Power, Seen

_BATTERIES = ("Battery", "UPS")
_FILLED = ("Charging", "Full", "Not charging")


def read_power(root: Path) -> Seen[Power]:
    """Several batteries count as one, by the mean of their levels. Without any, nothing is seen.

    A supply of scope "Device" feeds a mouse or the like.
    """
    levels: list[float] = []
    states: list[str] = []
    mains = False
    troubles: list[str] = []
    batteries = 0
    try:
        supplies = entries(root / "sys/class/power_supply")
    except Unreadable as fault:
        return Seen(trouble=str(fault))
    for supply in supplies:
        try:
            if text(supply / "scope") == "Device":
                continue
            if text(supply / "type") not in _BATTERIES:
                mains = mains or number(supply / "online") == 1
            elif number(supply / "present") != 0:
                batteries += 1
                states.append(text(supply / "status") or "")
                level = _level(supply)
                if level is not None:
                    levels.append(level)
        except Unreadable as fault:
            troubles.append(str(fault))
    trouble = "; ".join(troubles[:3]) or None
    if not batteries:
        return Seen(None, trouble)
    percent = sum(levels) / len(levels) if levels else None
    if percent is None and trouble is not None:
        return Seen(None, trouble)
    draining = "Discharging" in states or not (mains or any(s in _FILLED for s in states))
    return Seen(Power(draining, percent), trouble)


def _level(battery: Path) -> float | None:
    """In percent, as the driver says it or by energy or charge; None if it says neither."""
    percent = number(battery / "capacity")
    if percent is None:
        for now, full in (("energy_now", "energy_full"), ("charge_now", "charge_full")):
            have, most = number(battery / now), number(battery / full)
            if have is not None and most is not None and most > 0:
                percent = min(100, have * 100 // most)
                break
    if percent is not None and not 0 <= percent <= 100:
        raise Unreadable(f"{battery}: {percent} % is no level")
    return percent
