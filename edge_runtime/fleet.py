"""Many devices in one process, each with its own machine, store and link, and one worker for all.

    python -m edge_runtime.fleet --config a/edge.toml --config b/edge.toml
    python -m edge_runtime.fleet --configs-from devices/

Training takes turns: one training process and one interpreter serve every device.
"""

import argparse
import os
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path

from edge_runtime.daemon import complain, configure_logs, serve

from edge_runtime.config import EdgeConfig, load  # isort: skip - after daemon, which hides rich
from qflare.faults import LocalFault
from qflare.host.config import ConfigFault
from qflare.host.memory import one_heap


def main(argv: Sequence[str] | None = None) -> int:
    """Run the named devices; return the exit status."""
    one_heap()
    parser = argparse.ArgumentParser(
        prog="python -m edge_runtime.fleet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", type=Path, action="append", default=[], metavar="FILE", help="one device"
    )
    parser.add_argument(
        "--configs-from", type=Path, metavar="DIR", help="every *.toml in DIR and in its folders"
    )
    arguments = parser.parse_args(argv)
    paths: list[Path] = list(arguments.config)
    if arguments.configs_from is not None:
        here = arguments.configs_from
        paths += sorted([*here.glob("*.toml"), *here.glob("*/*.toml")])
    try:
        if not paths:
            raise ConfigFault("no device; give --config FILE or --configs-from DIR with files")

        def read() -> list[EdgeConfig]:
            return [load(path, os.environ).value for path in paths]

        configs = read()
        if len({config.device.state_dir.resolve() for config in configs}) < len(configs):
            raise ConfigFault("two devices share a device.state_dir; give each its own")
        configure_logs(configs[0])
        serve(read)
    except LocalFault as fault:
        return complain(fault)
    except (OSError, sqlite3.Error) as error:
        return complain(LocalFault(f"{type(error).__name__}: {error}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
