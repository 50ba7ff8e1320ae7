"""Name servers gone or lying, networks of one family, or of small packets: all on our own."""

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from qflare.host.broker.mosquitto import find

ROOT = Path(__file__).parents[2]


@cache
def isolated() -> bool:
    """May we make network and mount namespaces here?"""
    tools = all(map(shutil.which, ("unshare", "ip", "mount")))
    trial = ["unshare", "--mount", "--net", "ip", "link", "set", "lo", "up"]
    return tools and os.geteuid() == 0 and subprocess.run(trial, check=False).returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find() is None, reason="mosquitto isn't installed: apt install mosquitto"),
    pytest.mark.skipif(
        not isolated(), reason="needs root, unshare and ip for a network of its own"
    ),
]


def scenario(name: str, directory: Path) -> dict[str, Any]:
    """What a scenario of `islands.py` answers."""
    command = ["unshare", "--mount", "--net", sys.executable, "-m", "tests.e2e.islands"]
    done = subprocess.run(
        [*command, name, str(directory)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_a_dead_resolver_blocks_nothing_and_keeps_one_thread(tmp_path: Path) -> None:
    answer = scenario("dead_resolver", tmp_path)
    for trouble, reason in answer["reasons"]:
        assert trouble == "name"
        assert "no answer within 0.5 s" in reason
        assert "DNS server" in reason
    assert answer["asked"]
    assert answer["threads"] == 2  # the loop's, and one that waits for all of a hundred links


def test_a_lookup_that_hangs_holds_up_no_end_of_the_process(tmp_path: Path) -> None:
    """It lasts longer than `scenario` has patience."""
    assert scenario("closed_while_asking", tmp_path)["asked"]


def test_a_resolver_that_comes_back_is_used(tmp_path: Path) -> None:
    answer = scenario("resolver_comes_back", tmp_path)
    assert [trouble for trouble, _ in answer["reasons"]] == ["name", "name"]
    assert answer["url"] == "mqtt://broker.example"


def test_a_network_and_a_broker_with_ipv6_alone(tmp_path: Path) -> None:
    answer = scenario("only_ipv6", tmp_path)
    assert answer == {"url": "mqtt://broker.example", "asked": True}


def test_of_two_families_one_that_leads_nowhere_costs_no_failure(tmp_path: Path) -> None:
    assert scenario("half_a_dual_stack", tmp_path) == {"reasons": []}


def test_chunks_pass_where_large_packets_vanish(tmp_path: Path) -> None:
    assert scenario("small_packets_only", tmp_path) == {"arrived": True}


def test_a_portal_by_name_is_told_and_learns_nothing(tmp_path: Path) -> None:
    answer = scenario("portal_by_name", tmp_path)
    for trouble, reason in answer["reasons"]:
        assert trouble == "no_broker"
        assert "captive portal" in reason
    assert not answer["leaked"]
