"""A progress bar where tqdm is installed, and the memory that is free."""

import os
from pathlib import Path
from typing import Any

import jax


class _Silent:
    """Stands in for a bar."""

    def update(self, count: int = 1) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def bar(shown: bool, total: int | None, *, what: str, unit: str, done: int = 0) -> Any:
    """Returns a bar with rate and remaining time; silent without tqdm."""
    if shown and jax.process_index() == 0:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            return _Silent()
        return tqdm(total=total, desc=what, unit=unit, initial=done)
    return _Silent()


def bytes_text(count: float) -> str:
    """A number of bytes for people: `1.50 GB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def free_memory() -> int | None:
    """Free bytes of this machine, or of the container; `None` if unknown."""
    found = []
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        found.append(int(fields["MemAvailable"].split()[0]) * 1024)
    elif hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    elif hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    group = Path("/sys/fs/cgroup")
    limit, current = group / "memory.max", group / "memory.current"
    if limit.exists() and current.exists() and limit.read_text().strip() != "max":
        found.append(int(limit.read_text()) - int(current.read_text()))
    return min(found) if found else None


def device_free_memory(device: Any) -> int | None:
    """Free bytes of an accelerator; `None` for a CPU, whose memory is the host's."""
    stats = None if device.platform == "cpu" else device.memory_stats()
    if not stats or "bytes_limit" not in stats:
        return None
    return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
