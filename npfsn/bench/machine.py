"""The machine and software measured: CPU, features in use, versions, commit, other load."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import llvmlite
import numpy as np

from .. import __version__
from ..kernels.cpu import FEATURES, HAS_TILES

# CPU features that matter when figures are compared between machines.
SIMD = (
    "avx2", "fma", "avx512f", "avx512vnni", "avxvnni", "amx-int8", "neon", "dotprod",
)  # fmt: skip


def machine() -> dict[str, Any]:
    """Describe the machine and software: CPU, features in use, versions, threads, commit."""
    unused = () if HAS_TILES else ("amx-int8",)  # the operating system may not have enabled it
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "cpu": cpu_name(),
        "cores": os.cpu_count() or 1,
        "simd": [name for name in SIMD if name in FEATURES and name not in unused],
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": 1,
        "versions": {
            "npfsn": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "numba": importlib.metadata.version("numba"),
            "llvmlite": llvmlite.__version__,
        },
    }


def cpu_name() -> str:
    """Return the CPU's name as the system knows it."""
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        if line.lower().startswith(("model name", "hardware")):
            return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        with contextlib.suppress(OSError):
            name = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(name, capture_output=True, text=True, check=False).stdout.strip()
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """Return the commit of this checkout, with a + if files have changed."""
    place = Path(__file__).resolve().parents[2]
    if not (place / ".git").exists():
        return None
    try:
        name, changes = (
            subprocess.run(
                ["git", "-C", str(place), *words], capture_output=True, text=True, check=True
            ).stdout.strip()
            for words in (
                ("rev-parse", "--short=10", "HEAD"),
                ("status", "--porcelain", "--untracked-files=no", "--", "npfsn"),
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return name + ("+" if changes else "")


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


class OtherLoad:
    """Measures how many cores other programs keep busy, from its creation on."""

    def __init__(self) -> None:
        self._at = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float] | None:
        try:
            with open("/proc/stat") as file:
                values = [int(text) for text in file.readline().split()[1:9]]
            ticks = os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, AttributeError):  # not Linux
            return None
        idle = values[3] + values[4]
        busy = (sum(values) - idle) / ticks
        return busy, sum(os.times()[:4]), time.monotonic()  # own: with ended children

    def share(self) -> float | None:
        """Return the mean number of cores, or None where the system does not tell."""
        now = self._now()
        if self._at is None or now is None:
            return None
        busy, own, wall = (b - a for a, b in zip(self._at, now, strict=True))
        return round(max(busy - own, 0.0) / max(wall, 1e-3), 2)
