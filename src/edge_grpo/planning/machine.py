"""What this machine has left: CPU cores and memory under the limits of a container, disk; no torch."""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

from edge_grpo.base.cores import num_cores

__all__ = ["cores_allowed", "free_disk", "free_memory", "resident"]

CGROUPS: Final = Path("/sys/fs/cgroup")


def free_memory(*, system: Path = Path("/proc/meminfo"), group: Path = CGROUPS) -> float | None:
    """Bytes of memory that can be had: of the machine, or of the container if that is less; None if nothing tells."""
    found = [left for left in (_available(system), _left_in(group)) if left is not None]
    return min(found, default=None)


def cores_allowed(*, group: Path = CGROUPS) -> float:
    """CPU cores that this process may use: those it may run on, or the container's quota if that is less."""
    with suppress(OSError, ValueError):  # version 2 of control groups, then version 1
        quota, period = (group / "cpu.max").read_text().split()
        return min(num_cores(), int(quota) / int(period)) if quota != "max" else num_cores()
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota_us = int((group / "cpu/cpu.cfs_quota_us").read_text())
        period_us = int((group / "cpu/cpu.cfs_period_us").read_text())
        return min(num_cores(), quota_us / period_us) if quota_us > 0 else num_cores()
    return num_cores()


def free_disk(folder: Path) -> float | None:
    """Bytes that may be written to a folder, or to its nearest parent that exists; None if nothing tells."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    with suppress(OSError):
        return float(shutil.disk_usage(place).free)
    return None


def resident() -> float | None:
    """Bytes of this process in physical memory; None if the system does not tell."""
    with suppress(OSError, ValueError, IndexError):
        return float(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    return None


def _available(system: Path) -> float | None:
    with suppress(OSError, ValueError):
        for line in system.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    return None


def _left_in(group: Path) -> float | None:
    """What a container's limit leaves; its file cache can be had, too."""
    names = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
    for limit, used in names:
        with suppress(OSError, ValueError):
            most, now = int((group / limit).read_text()), int((group / used).read_text())
            if most >= 2**60:
                continue  # no limit, in version 1
            return float(max(0, most - now + _cached(group / limit)))
    return None


def _cached(limit: Path) -> int:
    """Bytes of files that are kept in memory and may go."""
    with suppress(OSError, ValueError):
        for line in limit.with_name("memory.stat").read_text().splitlines():
            if line.startswith(("inactive_file ", "total_inactive_file ")):
                return int(line.split()[1])
    return 0
