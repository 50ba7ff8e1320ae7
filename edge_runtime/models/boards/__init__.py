"""Board profiles, one TOML file a board: what an estimate for it rests on."""

import tomllib
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True, slots=True)
class Board:
    """A kind of device. `speed` is an estimate: no figure was measured on the board itself."""

    name: str
    title: str
    cores: int
    memory: int  # bytes of RAM
    memory_for_training: int  # bytes that the daemon may take while the rest of the system works
    speed: float  # of one core, in units of one core of the reference machine
    source: str  # of the facts
    assumption: str  # behind `speed`


def read_boards() -> tuple[Board, ...]:
    """Every profile of this package, the slowest board first."""
    found = []
    for file in resources.files(__name__).iterdir():
        if file.name.endswith(".toml"):
            says = tomllib.loads(file.read_text(encoding="utf-8"))
            mib = 2**20
            found.append(
                Board(
                    name=file.name.removesuffix(".toml"),
                    title=says["title"],
                    cores=says["cores"],
                    memory=says["memory_mib"] * mib,
                    memory_for_training=says["memory_for_training_mib"] * mib,
                    speed=says["speed"],
                    source=says["source"],
                    assumption=says["assumption"],
                )
            )
    return tuple(sorted(found, key=lambda board: (board.speed, board.name)))
