"""What keeps a process on a small device small."""

import ctypes

_M_ARENA_MAX = -8


def one_heap() -> None:
    """Let all threads share one heap (glibc); call it before the first thread starts.

    With a heap per thread, what one thread frees the others can't use: about 3 MB of a device's
    memory. Elsewhere than on glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
