"""From a ticket to a device over a bad cable, with everything killed and cut on the way."""

import asyncio
import json
import os
import random
import re
import subprocess
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.enrol_kit import COMMAND
from tests.provision_field import (
    PASSPHRASE,
    SETTINGS,
    TICKETS,
    Field,
    Process,
    end,
    field,
    result_of,
    screen,
)
from tests.provision_kit import SERIAL

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("e2e")]
SEEDS = range(int(os.environ.get("QFLARE_PROVISION_SEEDS", "1")))
WORN = {"loss": 0.0002, "flip": 0.0002, "double": 0.0002, "noise": 0.05}


def in_the_field(
    folder: Path, body: Callable[[Field], Coroutine[Any, Any, None]], **cable: Any
) -> None:
    async def main() -> None:
        async with asyncio.timeout(280), field(folder, **cable) as here:
            await body(here)

    asyncio.run(main())


async def verify_enrolled(here: Field, record: dict[str, Any]) -> None:
    """One device, one ticket spent, and every side says the same; the daemon is let in with it."""
    await here.run_daemon()
    (device,) = await here.devices()
    assert (device["name"], device["words"]) == (record["name"], record["words"])
    assert record["result"] == "done"
    used = [entry for entry in await here.operator("token", "list") if entry["device"]]
    assert [(entry["state"], entry["device"]) for entry in used] == [("confirmed", device["name"])]
    assert len(list(here.tickets.glob("*.ticket"))) == TICKETS - 1
    (taken,) = (here.tickets / "used").iterdir()
    assert taken.name == record["ticket"]
    assert here.records() == [record]

    etc = here.root / "etc/qflare"
    assert (etc / "enrolled").read_text() == f"{device['name']}\n"
    assert SETTINGS in (etc / "edge.toml").read_text()
    assert not (here.root / "var/lib/qflare-provision/ticket").exists()


def test_a_board_is_brought_to_life_over_a_worn_cable(tmp_path: Path) -> None:
    async def body(here: Field) -> None:
        rng = random.Random(5)

        async def cut_now_and_then() -> None:
            for _ in range(3):
                await asyncio.sleep(rng.uniform(0.5, 3.0))
                here.cable.cut = True
                await asyncio.sleep(rng.uniform(0.3, 3.0))
                here.cable.mend()

        async with here.coordinator():
            board = await here.board()
            cutting = asyncio.create_task(cut_now_and_then())
            code, record, said = await result_of(await here.laptop())
            await cutting
            assert code == 0, said
            assert await asyncio.wait_for(board.wait(), 30) == 0
            await verify_enrolled(here, record)

        # The session key's words: on the board's screen, in its file, before the technician's eyes.
        words = (here.root / "var/lib/qflare-provision/words").read_text().strip()
        assert screen(here.root).endswith(f"this device: {words}")
        assert re.search(rf"ok +key +{words}\n", said)
        assert (record["key_words"], record["compared"]) == (words, True)
        # The device's words: before his eyes too, on the label, and the operator has the same.
        assert re.search(rf"ok +device +{record['words']}\n", said)
        label = here.folder / "labels" / record["name"]
        text = label.with_suffix(".txt").read_text()
        assert " ".join(text.split()).startswith(f"{record['name']} rpi4 {SERIAL}")
        assert record["words"] in " ".join(text.split())
        assert label.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in label.with_suffix(".svg").read_text()

        assert set(record["steps"]) == {
            "network", "clock", "ticket", "settings", "enrol", "test", "finish"
        }  # fmt: skip
        line = record["test"].pop("line")
        assert "again" in line, line  # the worn cable is noticed
        assert all(text.startswith("ok: ") for text in record["test"].values()), record["test"]
        keyfile = here.root / "etc/NetworkManager/system-connections/qflare.nmconnection"
        assert f"psk={PASSPHRASE}" in keyfile.read_text()
        assert (here.root / "commands").read_text().splitlines()[-2:] == [
            "systemctl enable qflare-edge.service",
            "systemctl start --no-block qflare-edge.service",
        ]
        for place in (bytes(here.cable.seen), said.encode(), (here.root / "log").read_bytes()):
            assert PASSPHRASE.encode() not in place

    in_the_field(tmp_path, body, seed=5, **WORN)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_laptop_is_killed_at_any_moment_and_run_again(tmp_path: Path, seed: int) -> None:
    async def body(here: Field) -> None:
        rng = random.Random(seed)
        async with here.coordinator():
            board = await here.board()
            for _ in range(6):
                laptop = await here.laptop()
                with suppress(TimeoutError):
                    await asyncio.wait_for(laptop.wait(), rng.uniform(0.8, 5.0))
                await end(laptop)
                if [record["result"] for record in here.records()] == ["done"]:
                    break
            await ends_well(here, board)

    in_the_field(tmp_path, body, seed=seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_board_loses_power_at_any_moment(tmp_path: Path, seed: int) -> None:
    async def body(here: Field) -> None:
        rng = random.Random(seed)
        async with here.coordinator():
            laptop = await here.laptop()
            for _ in range(5):
                board = await here.board()
                await asyncio.sleep(rng.uniform(0.5, 4.0))
                await end(board)
            await ends_well(here, await here.board(), laptop)

    in_the_field(tmp_path, body, seed=seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_cable_is_pulled_at_any_moment(tmp_path: Path, seed: int) -> None:
    async def body(here: Field) -> None:
        rng = random.Random(seed)
        async with here.coordinator():
            board = await here.board()
            laptop = await here.laptop()
            for _ in range(3):
                await asyncio.sleep(rng.uniform(0.3, 3.0))
                here.cable.cut = True
                await asyncio.sleep(rng.choice((0.3, 2.0, 17.0)))
                here.cable.mend()
            await ends_well(here, board, laptop)

    in_the_field(tmp_path, body, seed=seed)


async def report(here: Field) -> str:
    """With the operator's list at hand."""
    listed = here.folder / "list.json"
    listed.write_text(json.dumps(await here.devices()))
    words = ("provision", "report", "--jobs", str(here.folder / "jobs"), "--enrolled", str(listed))
    return await asyncio.to_thread(subprocess.check_output, [*COMMAND, *words], text=True)


async def ends_well(here: Field, board: Process, laptop: Process | None = None) -> None:
    """Run to the end: one enrolled device, or, where that was so before, words that say it."""
    if laptop is not None or [record["result"] for record in here.records()] != ["done"]:
        code, _, said = await result_of(laptop or await here.laptop())
        if code:
            # The board had finished, and what it said last was lost with whoever was to hear it.
            (record,) = here.records()
            assert record["result"] != "done"
            told = f"The board {SERIAL} had its ticket when this was interrupted"
            assert told in said, f"{said}\n{here.logs()}"
            await here.run_daemon()
            await report(here)
    (record,) = here.records()
    await verify_enrolled(here, record)
    code = await asyncio.wait_for(board.wait(), 100)  # it waits a minute for a laptop that is gone
    log = (here.root / "log").read_text()
    assert code == 0 or f"this device is {record['name']} already" in log.splitlines()[-1], log


def test_without_the_fleet_in_reach_the_board_enrols_later_and_the_report_says_so(
    tmp_path: Path,
) -> None:
    async def body(here: Field) -> None:
        board = await here.board()
        code, record, said = await result_of(await here.laptop("--wait", "2"))
        assert (code, record["result"], record["name"]) == (75, "waiting", ""), said
        assert "will enrol by itself" in said
        assert board.returncode is None
        await end(board)  # it is carried to where it will stand
        board = await here.board()
        async with here.coordinator():
            assert await asyncio.wait_for(board.wait(), 60) == 0, (here.root / "log").read_text()
            assert "1 boards, 1 waiting, 1 not yet confirmed" in await report(here)
            await here.run_daemon()
            (device,) = await here.devices()
            assert (here.root / "etc/qflare/enrolled").read_text() == f"{device['name']}\n"
            told = await report(here)
        assert "1 boards, 0 waiting, 0 not yet confirmed" in told
        (record,) = here.records()
        assert (record["name"], record["words"]) == (device["name"], device["words"])
        assert (record["result"], record["confirmed"]) == ("done", True)

    in_the_field(tmp_path, body)
