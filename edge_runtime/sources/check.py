"""What a device's data is worth to a model, for a person and for `qflare doctor`.

    python -m edge_runtime.sources.check --config edge.toml --model model.tflite

prints the source's report as JSON, with a line for each thing that somebody should do something
about; the exit status is 0 if there is something to train on and nothing to be done, else 1, and
78 if the configuration is wrong. A process of its own, since it needs numpy and the interpreter.
"""

import argparse
import json
import os
import secrets
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from edge_runtime.contract import parse_contract
from edge_runtime.sources.opening import open_source
from edge_runtime.sources.settings import DataSection
from qflare.faults import LocalFault, PeerFault
from qflare.host.config import ConfigFault
from qflare.host.files import read_bounded
from qflare.host.model.file import TFLITE_CEILING

_KEYLESS: Final = (
    "the samples are encrypted, and systemd gives the key to the services alone; to look, run this "
    "by systemd-run --pipe --wait "
    "-p LoadCredentialEncrypted=storage.key:/etc/qflare/storage.key.cred"
)


def report(settings: DataSection, model: Path, key: bytes | None = None) -> dict[str, Any]:
    """The source's report on this model; a source that can't be opened is a problem in it.

    `key` is that of the samples, if they are sealed.
    """
    try:
        contract = parse_contract(read_bounded(model, TFLITE_CEILING))
    except OSError as error:
        raise LocalFault(f"{model}: {error.strerror}; name the model's file") from None
    except PeerFault as fault:
        raise LocalFault(f"{model}: {fault.detail}; name another file") from None
    with tempfile.TemporaryDirectory(prefix="qflare-check-") as scratch:
        try:
            source = open_source(settings, contract, Path(scratch), None, key)
            found = {"model": contract.name} | source.report()
            if not source.count() and not found["problems"]:
                found["problems"] = ["there is nothing to train on yet; wait, or look at data.path"]
        except LocalFault as fault:
            found = {"kind": settings.kind, "path": str(settings.path), "model": contract.name}
            found |= {"examples": {"train": 0, "test": 0}, "problems": [str(fault)]}
    return found | {"ok": not found["problems"]}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; return the exit status."""
    parser = argparse.ArgumentParser(description="Say what a device's data is worth to a model.")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="edge.toml")
    parser.add_argument("--model", type=Path, required=True, metavar="FILE", help="a .tflite")
    arguments = parser.parse_args(argv)
    from edge_runtime.config import load
    from edge_runtime.storage.opening import SAMPLES, purpose_key
    from edge_runtime.storage.sealing import locked

    try:
        config = load(arguments.config, os.environ).value
        key: bytes | None = secrets.token_bytes(32)  # nobody else reads what is made of tables here
        if config.data.collected:
            state, storage = config.device.state_dir, config.storage
            if locked(state, os.environ, storage.key_file):
                raise LocalFault(f"{config.data.path}: {_KEYLESS}")
            key = purpose_key(state, storage, os.environ, SAMPLES)
        found = report(config.data, arguments.model, key)
    except LocalFault as fault:
        sys.stderr.write(f"{fault}\n")
        return ConfigFault.exit_code if isinstance(fault, ConfigFault) else 1
    except OSError as error:
        sys.stderr.write(f"{error.filename}: {error.strerror}; run it as root\n")
        return 1
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
