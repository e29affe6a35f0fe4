"""The most memory this process has held, counted from a moment that can be set (Linux), or since its start."""

from __future__ import annotations

import resource
from pathlib import Path

from luthier.core.process import release_memory

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def reset_peak() -> None:
    """Begin to count anew where the system allows it; what an earlier step freed is given back first."""
    release_memory()
    if _CLEAR.exists():
        try:
            _CLEAR.write_text("5")
        except OSError:
            return


def peak_bytes() -> int:
    """Bytes of the highest resident memory since the last reset."""
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
