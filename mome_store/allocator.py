"""One setting of the C library's allocator without which a model on the CPU spends its time on page faults.

Every layer of a forward pass frees tensors of some megabytes and allocates others of the same size. glibc gives such
memory back to the kernel (its trim and mmap thresholds start at 128 KiB), so each tensor is made of fresh pages, which
fault one by one when first written. In a virtual machine whose host takes free pages back, that is most of the time:
docs/tuning.md has the measurement.
"""

from __future__ import annotations

import ctypes

# <malloc.h>
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST_MMAP_THRESHOLD = 32 << 20  # mallopt refuses more
_NEVER = (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory up to 2 GiB for this process's next allocations; calling it again does no harm.

    The process then stays as large as it once was. Returns False, having done nothing, where the C library has no
    `mallopt` (musl, macOS).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD) and mallopt(_M_TRIM_THRESHOLD, _NEVER))
