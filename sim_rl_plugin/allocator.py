"""The C library's allocator, set so that large buffers stay with the process."""

from __future__ import annotations

import ctypes
import os
import platform

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed, instead of giving large buffers back to the kernel.

    By default large buffers are mapped afresh or trimmed away, and their pages faulted in and cleared one by one, in
    every mini-batch again. The price is memory that is kept to the end, a few percent more at the peak.

    Returns:
        Whether it was set: not where the C library is another one, nor where ``GLIBC_TUNABLES`` says something
        about ``malloc`` already.
    """
    if platform.libc_ver()[0] != "glibc" or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT))
