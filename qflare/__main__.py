"""`qflare` and `python -m qflare`: what must come before the command's own imports."""

import signal
import sys


def main() -> int:
    """Run the command; returns its exit code.

    Importing takes half a second, in which Ctrl-C has nothing to clean up: it ends the process, and
    prints no traceback. Where it is ignored, as under nohup, it stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from qflare.cli import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
