"""What a technician says about the network on the command line."""

import argparse
from pathlib import Path

import pytest

from edge_runtime.provision.command import add_network, network_of
from edge_runtime.provision.network import Network
from qflare.faults import LocalFault


def said(*words: str) -> Network | None:
    parser = argparse.ArgumentParser()
    add_network(parser)
    return network_of(parser.parse_args(words))


def test_a_network_without_passphrase_is_asked_for_in_so_many_words(tmp_path: Path) -> None:
    secret = tmp_path / "wifi.txt"
    secret.write_text("correct horse\n")
    for words in (["--wifi", "site7"], ["--wifi", "s", "--wifi-open", "--wifi-password-file", "x"]):
        with pytest.raises(LocalFault, match="--wifi-open"):
            said(*words)
    opened = said("--wifi", "site7", "--wifi-open")
    closed = said("--wifi", "site7", "--wifi-password-file", str(secret))
    assert opened
    assert opened.wifi
    assert opened.wifi.passphrase == ""
    assert closed
    assert closed.wifi
    assert closed.wifi.passphrase == "correct horse"
    assert said() is None
