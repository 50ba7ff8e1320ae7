"""Ask the model on this device, from Python; docs/integrator.md shows it for other languages.

with ModelClient() as model:
    outputs = model.infer(rows)
"""

import http.client
import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class ModelError(RuntimeError):
    """The server's answer was an error; the text says what to do, `status` is HTTP's."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class ModelClient(http.client.HTTPConnection):
    """A connection to the server's socket, made when it is first needed."""

    def __init__(self, path: str | Path = "/run/qflare/model.sock", timeout: float = 30.0) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = str(path)
        self.model = ""  # the digest of the model that gave the last outputs

    def __enter__(self) -> "ModelClient":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

    def infer(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Outputs (n, *output) for rows (n, *input shape) in physical units, float32 or int32.

        Raises ModelError, or OSError if nobody answers.
        """
        kind = "<i4" if np.issubdtype(rows.dtype, np.integer) else "<f4"
        body = np.ascontiguousarray(rows, kind).tobytes()
        response, data = self._ask("POST", "/v1/infer", body)
        self.model = response.headers["qflare-model"]
        shape = [int(side) for side in response.headers["qflare-shape"].split(",")]
        return np.frombuffer(data, "<f4").reshape(shape)

    def status(self) -> dict[str, Any]:
        """Which model is active, since when, and how it is used."""
        return dict(json.loads(self._ask("GET", "/v1/status")[1]))

    def metadata(self) -> dict[str, Any]:
        """What goes into the model and what comes out."""
        return dict(json.loads(self._ask("GET", "/v1/metadata")[1]))

    def _ask(
        self, method: str, path: str, body: bytes | None = None
    ) -> tuple[http.client.HTTPResponse, bytes]:
        headers = {} if body is None else {"Content-Type": "application/octet-stream"}
        for last in (False, True):
            fresh = self.sock is None
            try:
                self.request(method, path, body, headers)
                response = self.getresponse()
                data = response.read()
                break
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                # A connection may end between two requests; asking again does no harm.
                self.close()
                if fresh or last:
                    raise
        if response.status != 200:
            raise ModelError(response.status, str(json.loads(data)["error"]))
        return response, data
