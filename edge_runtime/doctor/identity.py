"""Configuration, keys and certificate."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge_runtime.doctor.finding import Finding, bad, ok, skipped, warn

if TYPE_CHECKING:
    from edge_runtime.config import EdgeConfig

_LATE: Final = 6  # in the last sixth of its time, a certificate should have been renewed


def check_identity(config: "EdgeConfig", now: datetime) -> Iterator[Finding]:
    """Do key, certificate and owner belong together, and for how long?"""
    from edge_runtime.config import check_certificate, machine_settings

    if not os.access(config.device.key, os.R_OK) and config.device.key.exists():
        yield skipped("keys", f"{config.device.key} is root's alone", "run it as root (sudo)")
        return
    settings = machine_settings(config)
    check_certificate(config.device, settings)
    yield ok("keys", f"{config.device.name} of {config.device.fleet}; certificate and key match")
    yield check_validity(settings.certificate, now)


def check_validity(certificate: bytes, now: datetime) -> Finding:
    """How long a certificate (DER) lasts; in its last third the coordinator renews it."""
    from cryptography import x509

    name = "certificate"
    found = x509.load_der_x509_certificate(certificate)
    first, last = found.not_valid_before_utc, found.not_valid_after_utc
    if now < first:
        return bad(
            name, f"it isn't valid before {first:%F}, and here it is {now:%F}", "set the clock"
        )
    left = (last - now).days
    if now > last:
        remedy = "it is renewed once the device is online, or take a ticket: qflare device enrol"
        return bad(name, f"it ended on {last:%F}", remedy)
    if last - now < (last - first) / _LATE:
        remedy = "nobody renews it: the coordinator needs its [enrolment] section; or enrol again"
        return warn(name, f"it ends in {left} days, on {last:%F}", remedy)
    return ok(name, f"valid until {last:%F}, {left} days")


def check_modes(config: "EdgeConfig") -> Finding:
    """Can others read what is secret?"""
    secret = [config.device.key, config.broker.password_file]
    open_ = [str(p) for p in secret if p is not None and _others_read(p)]
    if open_:
        files = " ".join(open_)
        return bad("secrets", f"others can read {', '.join(open_)}", f"sudo chmod 600 {files}")
    return ok("secrets", "nobody else can read them")


def _others_read(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & 0o077)
    except OSError:
        return False


def utc_now() -> datetime:
    return datetime.now(UTC)
