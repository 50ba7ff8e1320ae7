"""A coordinator's directory for tests: its keys, its first model, its configuration."""

from pathlib import Path

from qflare.envelope import sign
from tests.unit.coordinator_rig import FLEET, GRAPH, WEIGHTS, World


def found(
    home: Path, world: World, url: str, password: str, broker: str = "", more: str = ""
) -> Path:
    """Write a whole configuration into `home`; its file.

    `broker` are more lines for [broker], `more` are more sections.
    """
    files = {
        "key": world.coordinator.to_seed(),
        "manifest": sign(world.manifest, world.owner),
        "owner_key": world.owner.verify_key.raw,
        "graph": GRAPH,
        "weights": WEIGHTS,
        "password": password.encode(),
        "ca.seed": world.ca_key.to_seed(),
        "ca.der": world.ca,
    }
    home.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (home / name).write_bytes(content)
        (home / name).chmod(0o600)
    config = home / "coordinator.toml"
    config.write_text(
        f"""
[coordinator]
fleet = "{FLEET}"
state_dir = "{home}/state"
key = "{home}/key"
manifest = "{home}/manifest"
owner_key = "{home}/owner_key"
[broker]
url = "{url}"
password_file = "{home}/password"
{broker}
[enclave]
socket = "{home}/enclave.sock"
[genesis]
graph = "{home}/graph"
weights = "{home}/weights"
[policy]
suite = "xwing-mldsa65"
codec = "q8"
min_cohort = 2
max_cohort = 50
clip_norm = 1.0
weight_cap = 100
deadline_s = 60
[policy.schedule]
rounds = 10
local_epochs = 1
learning_rate = 0.1
learning_rate_final_fraction = 0.5
server_momentum = 0.0
server_learning_rate = 1.0
[log]
format = "json"
{more}
"""
    )
    return config
