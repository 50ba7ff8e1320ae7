"""Open a model file of any size without holding it in memory."""

import mmap
import os
import stat
from pathlib import Path

from qflare.faults import LocalFault

SIZE_MAX = 2**31  # a flatbuffer can't be longer
REMEDY = "give a .tflite file; if it is one, copy it again from where it was made"


def open_model(path: Path) -> memoryview:
    """The bytes of a regular file, mapped; LocalFault says what is wrong with it."""
    try:
        # Without O_NONBLOCK, opening a pipe would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise LocalFault(f"{path}: {error.strerror}; give the path of a .tflite file") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise LocalFault(f"{path} is not a regular file; give the path of a .tflite file")
        if status.st_size > SIZE_MAX:
            raise LocalFault(
                f"{path} has {status.st_size:,} bytes, more than any TFLite model; {REMEDY}"
            )
        if status.st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ))
    except OSError as error:
        raise LocalFault(f"{path}: {error.strerror}; copy it to an ordinary disk") from None
    finally:
        os.close(descriptor)
