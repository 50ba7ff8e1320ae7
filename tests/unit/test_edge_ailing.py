"""A device whose disk refused begins anew: with everything that was decided meanwhile."""

import asyncio
import os
from pathlib import Path

from msgspec.structs import replace

from edge_runtime.config import load
from edge_runtime.device import Device
from edge_runtime.reloading import training_settings
from edge_runtime.store import StoreFull
from edge_runtime.training.service import Training
from tests.edge_lab import DEVICE, FLEET, Lab


def test_settings_that_were_read_again_outlast_a_full_disk(tmp_path: Path) -> None:
    lab = Lab()
    for name, content in (
        ("key", lab.key.to_seed()),
        ("device.der", lab.der),
        ("owner.key", lab.owner.verify_key.raw),
    ):
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600)
    (tmp_path / "edge.toml").write_text(f"""
[device]
fleet = "{FLEET}"
name = "{DEVICE}"
state_dir = "state"
key = "key"
certificate = "device.der"
owner_key = "owner.key"
[broker]
url = "mqtt://127.0.0.1:1"
[data]
path = "data.npz"
""")
    config = load(tmp_path / "edge.toml", os.environ).value
    device = Device(config, Training(training_settings(config)))
    device.configure(replace(config, training=replace(config.training, duty=0.25)))

    async def recover() -> None:
        device._trouble = StoreFull("full")
        await device._ail(device._trouble)

    try:
        asyncio.run(recover())
        assert device._trouble is None
        assert device._jobs._bench.duty == 0.25
    finally:
        device.close()
