"""Broker addresses: what is refused, and that a refusal repeats no password."""

import pytest

from qflare.faults import LocalFault
from qflare.host.link_types import parse_url


@pytest.mark.parametrize("url", ["http://h", "mqtt://", "mqtt://h:0", "mqtt://h/x", "h:1883"])
def test_other_addresses_are_refused_with_the_remedy(url: str) -> None:
    with pytest.raises(LocalFault, match="want mqtt://host:port"):
        parse_url(url)


def test_a_password_in_an_address_is_not_said_again() -> None:
    with pytest.raises(LocalFault) as caught:
        parse_url("mqtt://user:hunter2@host")
    assert "hunter2" not in str(caught.value)
