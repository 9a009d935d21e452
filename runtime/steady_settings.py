"""Settings of a process under which its training steps take steady time."""

import ctypes
import gc
import os

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def steady_process() -> None:
    """Keep freed memory, and leave what is loaded out of garbage collection.

    A process that trains or measures calls this once, before either; dense and scheduled steps gain
    alike. By default glibc maps every large tensor on a CPU anew and its pages are cleared at first
    touch, up to a fifth of a step; and Python's collector walks all objects of the loaded
    libraries, 4 % of a step of many small lane groups (ViT-S/14 at 112 px on a Xeon).
    """
    if os.name == "posix":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None and mallopt(_M_MMAP_MAX, 0):
            mallopt(_M_TRIM_THRESHOLD, -1)
    gc.collect()
    gc.freeze()
