"""TensorFlow without its chatter: it writes to standard error from C++, past Python."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what the block writes to standard error, from any language; show it if it raises.

    A LocalFault says all that a person needs, so after one it stays hidden.
    """
    from qflare.faults import LocalFault

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # the graph is made on the processor
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except LocalFault:
            raise
        except Exception:
            sys.stderr.flush()
            kept.seek(0)
            os.write(saved, kept.read()[-20_000:])
            raise
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
