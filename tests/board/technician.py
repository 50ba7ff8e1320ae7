"""A technician's laptop: `qflare provision serial` as a process, at this end of a board's line."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from tests.board.machine import Broken

SETTINGS = """\
[data]
path = "/srv/samples.npz"
[gates]
enabled = false
"""


class Technician:
    """Has one ticket, and a folder of records. `line` is where the board's serial line ends."""

    def __init__(self, folder: Path, tickets: Path, line: Path) -> None:
        folder.mkdir()
        self._folder, self._tickets, self._line = folder, tickets, line
        (folder / "settings.toml").write_text(SETTINGS)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run the command; what was typed is the same every time."""
        here = self._folder
        with self._open("out") as out, self._open("shown") as shown:
            self._process = subprocess.Popen(
                [
                    sys.executable, "-m", "qflare.cli", "provision", "serial",
                    "--port", str(self._line), "--ticket", str(self._tickets),
                    "--settings", str(here / "settings.toml"), "--jobs", str(here / "jobs"),
                    "--labels", str(here / "labels"), "--yes", "--json", "--wait", "300",
                ],
                stdin=subprocess.DEVNULL, stdout=out, stderr=shown,
            )  # fmt: skip

    def _open(self, name: str) -> IO[bytes]:
        return (self._folder / name).open("ab")

    def record(self) -> dict[str, Any]:
        """The job as it stands; empty before there is one."""
        for path in (self._folder / "jobs").glob("*.json"):
            found: dict[str, Any] = json.loads(path.read_text())
            return found
        return {}

    def reached(self, step: str, within_s: float = 300.0) -> None:
        """Wait until the record has this step."""
        end = time.monotonic() + within_s
        while step not in self.record().get("steps", {}):
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > end:
                raise Broken(f"provisioning never came to {step!r}:\n{self.shown()}")
            time.sleep(0.1)

    def done(self, within_s: float = 400.0) -> dict[str, Any]:
        """Wait for the command's end; the record that it printed. Broken unless all is done."""
        if self._process is None:
            raise Broken("provisioning wasn't started")
        try:
            code = self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise Broken(f"provisioning doesn't end:\n{self.shown()}") from None
        if code:
            raise Broken(f"provisioning ended with {code}:\n{self.shown()}")
        found: dict[str, Any] = json.loads((self._folder / "out").read_text())
        return found

    def shown(self) -> str:
        """What a technician sees."""
        return (self._folder / "shown").read_text(errors="replace")

    def leave(self) -> None:
        """Shut the laptop, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
