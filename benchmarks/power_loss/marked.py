"""`qflare-edge` that notes, in the file for marks, what its store has made durable.

A mark is the digest of all that the store keeps. `python -m benchmarks.power_loss.marked MARK …`
"""

import hashlib
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from edge_runtime import daemon
from edge_runtime.storage.rows import Rows
from edge_runtime.store import Store

WRITERS = ("load", "save_memory", "save_manifest", "commit", "settle")
FACTS = ("manifest", "residual", "personal")


def digest(store: Store) -> bytes:
    """Of everything but the session, which is another one at each start."""
    rows: Rows = store._rows
    memory = (rows.fact("memory") or b"")[8:]  # without the count of its changes
    parts = [memory, *(rows.fact(name) or b"" for name in FACTS)]
    parts += [repr(rows.outbox()).encode(), repr(rows.journal()).encode()]
    parts += [entry.data for entry in rows.outbox()[0]]
    whole = b"".join(hashlib.sha256(part).digest() for part in parts)
    return hashlib.sha256(whole).hexdigest().encode()


def main() -> int:
    mark = Path(sys.argv[1]).open("wb", buffering=0)  # noqa: SIM115  for as long as we live

    def marked(real: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(real)
        def method(store: Store, *arguments: Any) -> Any:
            result = real(store, *arguments)
            mark.write(real.__name__.encode() + b" " + digest(store))
            return result

        return method

    for name in WRITERS:
        setattr(Store, name, marked(getattr(Store, name)))
    return daemon.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
