"""Does the broker answer, step by step, and does it know this device?"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from edge_runtime.doctor.finding import Finding, bad, ok, skipped, warn
from qflare.faults import LocalFault

if TYPE_CHECKING:
    from edge_runtime.config import EdgeConfig
    from qflare.host.link_types import Address, Event

_WITHIN_S: Final = 15.0


def check_brokers(config: "EdgeConfig", running: bool) -> Iterator[Finding]:
    """Each broker's findings; one that fails while another serves is a warning.

    CONNECT is left out while the daemon runs: brokers know it by its account's name, and would cut
    it off in favour of us.
    """
    from qflare.host.link_types import parse_url

    urls = (config.broker.url, *config.broker.fallbacks)
    found = [asyncio.run(_check(config, parse_url(url), running)) for url in urls]
    serves = any(not finding.remedy for finding in found)
    for finding in found:
        if finding.remedy and serves:
            yield warn(finding.name, finding.words, finding.remedy)
        else:
            yield finding


async def _check(config: "EdgeConfig", address: "Address", running: bool) -> Finding:
    """TCP, TLS, then MQTT with the device's own account; milliseconds of each."""
    from qflare.host.dial import NoConnection, dial
    from qflare.host.tls import client_context, clock_is_set

    name = f"broker {address.url}"
    steps: list[str] = []
    for step in ("TCP", "TLS") if address.tls else ("TCP",):
        context = None
        if step == "TLS":
            context = client_context(config.broker.ca_file, check_dates=clock_is_set())
        begun = time.monotonic()
        try:
            (await dial(address, context, _WITHIN_S)).close()
        except NoConnection as none:
            said, _, remedy = str(none).partition("; ")
            return bad(name, ", ".join([*steps, said]), remedy)
        steps.append(f"{step} {_ms(begun)}")
    if running:
        return ok(name, ", ".join([*steps, "the daemon has the account in use"]))
    begun = time.monotonic()
    try:
        refused = await _connect(config, address.url)
    except LocalFault as fault:
        return skipped(name, f"{', '.join(steps)}; {fault}", "run it as root (sudo)")
    if refused:
        remedy = "check the account: qflare device enrol with a fresh ticket makes a new one"
        return bad(name, f"{', '.join(steps)}; {refused}", remedy)
    return ok(name, ", ".join([*steps, f"MQTT {_ms(begun)}"]))


async def _connect(config: "EdgeConfig", url: str) -> str:
    """Why the broker doesn't take us; empty if it does."""
    from qflare.host.link import Link
    from qflare.host.link_types import Connected, Disconnected, LinkConfig

    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def on_event(event: "Event") -> None:
        if ended.done():
            return
        if isinstance(event, Connected):
            ended.set_result("")
            link.close()
        elif isinstance(event, Disconnected):
            ended.set_result(event.reason)
            link.close()

    link = Link(
        LinkConfig(
            url=url,
            username=config.device.name,
            password_file=config.broker.password_file,
            ca_file=config.broker.ca_file,
            protocol=config.broker.protocol,
            connect_within_s=_WITHIN_S,
        )
    )
    running = asyncio.create_task(link.run(on_event))
    waiting: set[asyncio.Future[Any]] = {ended, running}
    try:
        await asyncio.wait(waiting, timeout=2 * _WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            return ended.result()
        if running.done():
            running.result()
        return "no answer to CONNECT"
    finally:
        link.close()
        running.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await running


def _ms(begun: float) -> str:
    return f"{1000 * (time.monotonic() - begun):.0f} ms"
