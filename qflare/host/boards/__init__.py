"""What is known about each kind of board, and which one this is.

The profiles are `firmware_config/boards/*.toml`, one file a board; they are installed with the
package. `qflare board` shows them and sets a board up as they say.
"""

from qflare.host.boards.profile import Board, estimated, every, load, names
from qflare.host.boards.recognise import detect

__all__ = ["Board", "detect", "estimated", "every", "load", "names"]
