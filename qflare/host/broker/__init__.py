"""A broker of our own as a child process: configuration is generated, then a command starts it.

mosquitto where it is installed, else nats-server from its wheel. Both listen on loopback only,
know each principal by a password of its own, and permit what `qflare.topics.rules` permits.
"""

from qflare.host.broker.accounts import BrokerAccounts, reload_by
from qflare.host.broker.plan import (
    choose_broker,
    make_credentials,
    pick_port,
    start_broker,
    wait_ready,
    write_broker,
    write_credentials,
)
from qflare.host.broker.types import Account, BrokerKind, BrokerPlan

__all__ = [
    "Account",
    "BrokerAccounts",
    "BrokerKind",
    "BrokerPlan",
    "choose_broker",
    "make_credentials",
    "pick_port",
    "reload_by",
    "start_broker",
    "wait_ready",
    "write_broker",
    "write_credentials",
]
