"""What is tried inside the machine with the collector; it prints one JSON object. Standard library.

The sensor is a server on a TCP port, as a serial line over the network is; the broker of sensors
is one that only looks at who wants in.
"""

import json
import socket
import struct
import threading
import time
from pathlib import Path

from trial_kit import journal, show, systemctl, wait_for

UNIT, EDGE = "qflare-collect.service", "qflare-edge.service"
CONFIG, STATE = Path("/etc/qflare/edge.toml"), Path("/var/lib/qflare")
CANARY = "canary-of-the-owner"
VALUE = struct.pack("<f", 1234.5678)


def status() -> dict:
    try:
        return json.loads(Path("/run/qflare-collect/collect.json").read_text())
    except (OSError, ValueError):
        return {}


def sensor(port: int) -> None:
    """Sends a line now and then to whoever listens."""
    server = socket.create_server(("127.0.0.1", port))
    while True:
        line, _ = server.accept()
        try:
            while True:
                line.sendall(f"1234.5678,{CANARY}\n".encode())
                time.sleep(0.01)
        except OSError:
            continue


def who_wants_in(port: int, said: list[bytes]) -> None:
    server = socket.create_server(("127.0.0.1", port))
    while True:
        line, _ = server.accept()
        said.append(line.recv(4096))
        line.close()


def raw(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def main() -> dict:
    told: dict = {}
    threading.Thread(target=sensor, args=(7001,), daemon=True).start()
    systemctl("start", UNIT)
    told["collects"] = wait_for(lambda: status().get("rows", 0) > 100)
    told["unit"], told["log"] = show(UNIT), journal(UNIT)
    systemctl("start", EDGE)
    told["edge"], told["edge log"] = show(EDGE), journal(EDGE)
    told["status"] = status()
    systemctl("stop", UNIT)
    told["stopped"] = show(UNIT)
    ring = STATE / "samples"
    told["files"] = sorted(path.name for path in ring.iterdir())
    told["in the clear"] = [CANARY.encode() in raw(STATE), VALUE in raw(STATE)]
    told["seal"] = (STATE / "storage.seal").exists()
    # Without the TPM's key neither starts, and nothing is tried again.
    for unit in (UNIT, EDGE):
        Path(f"/etc/systemd/system/{unit}.d/storage-key.conf").unlink()
    systemctl("daemon-reload")
    before = raw(ring)
    systemctl("stop", EDGE)
    for unit in (UNIT, EDGE):
        systemctl("start", unit)
        told[f"{unit} without key"] = [show(unit), journal(unit)]
    told["untouched"] = raw(ring) == before
    # The password of a sensors' broker comes as a credential from root's file.
    said: list[bytes] = []
    threading.Thread(target=who_wants_in, args=(7002, said), daemon=True).start()
    (STATE / "storage.seal").unlink()
    CONFIG.write_text(Path("/opt/trial/mqtt.toml").read_text())
    systemctl("reset-failed", UNIT)
    systemctl("start", "--no-block", UNIT)
    wait_for(lambda: bool(said), 30)
    told["password given"] = bool(said) and b"secret of sensors" in said[0]
    told["password log"] = journal(UNIT)
    return told


print(json.dumps(main()))
