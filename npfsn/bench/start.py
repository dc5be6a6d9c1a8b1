"""Measure fresh processes: time to the first output, and peak memory."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ..errors import NpfsnError

# Runs in a fresh process: times each part of the start, then takes peak memory after some steps.
_CHILD = """\
import json, sys, time
a = time.perf_counter()
import numpy as np
import npfsn
b = time.perf_counter()
path, precision, norm, steps = json.loads(sys.argv[1])
model = npfsn.load_model(path)
c = time.perf_counter()
enhancer = npfsn.Enhancer(model, precision=precision, norm=norm)
frame = np.zeros(enhancer.frame_length, np.float32)
d = time.perf_counter()
for _ in range(enhancer.latency_samples // frame.shape[0] + 1):
    enhancer.step(frame)
e = time.perf_counter()
now = time.time()
rng = np.random.default_rng(0)
for _ in range(steps):
    enhancer.step(rng.normal(0.0, 0.1, frame.shape[0]).astype(np.float32))
from npfsn.bench.start import peak_memory_mb
from npfsn.machine_code import has_compiled
print(json.dumps({"import_s": b - a, "load_s": c - b, "prepare_s": d - c, "first_output_s": e - d,
                  "ready": now, "memory_mb": peak_memory_mb(), "compiled": has_compiled()}))
"""


def fresh_start(
    path: str | os.PathLike[str] | None,
    *,
    precision: str = "float32",
    norm: str | None = None,
    cache: str | None = None,
    steps: int = 200,
) -> dict[str, Any]:
    """Start a fresh process; measure how long it takes and its peak memory.

    Parameters
    ----------
    path : path-like or None
        The model; None: the built-in one.
    precision, norm
        As in `Enhancer`.
    cache : str, optional
        Another folder for compiled kernels. An empty one makes the process compile.
    steps : int
        Frames to stream before peak memory is read.

    Returns
    -------
    dict
        Seconds: `import_s`, `load_s` (the file), `prepare_s` (weights packed, kernels compiled or
        fetched from the cache), `first_output_s` (steps until the network's first output), and
        `total_s` from the start of the process until then. `memory_mb`: peak memory.
        `compiled`: whether some kernel was not in the cache.
    """
    place = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "NPFSN_QUIET": "1"}
    if cache is not None:
        environment["NUMBA_CACHE_DIR"] = cache
    elsewhere = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = place if not elsewhere else os.pathsep.join([place, elsewhere])
    arguments = json.dumps([None if path is None else str(path), precision, norm, steps])
    started = time.time()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _CHILD, arguments],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise NpfsnError(f"a fresh process failed: {done.stderr.strip().splitlines()[-1:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    result["total_s"] = result.pop("ready") - started
    return result


def peak_memory_mb() -> float:
    """Return the peak memory of this process, MB; 0 where the system does not report it."""
    if os.name == "nt":
        return _peak_memory_of_windows() / 1e6
    # Unlike getrusage, this does not include what the parent held when it forked this process.
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024 / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def _peak_memory_of_windows() -> int:
    """Return `PeakWorkingSetSize` of PROCESS_MEMORY_COUNTERS, bytes; 0 if the call fails."""
    import ctypes

    class Counters(ctypes.Structure):
        _fields_ = [
            ("size", ctypes.c_uint32),
            ("page_faults", ctypes.c_uint32),
            ("peak_working_set", ctypes.c_size_t),
            ("others", ctypes.c_size_t * 7),
        ]

    counters = Counters(size=ctypes.sizeof(Counters))
    kernel32 = ctypes.CDLL("kernel32")
    kernel32.GetCurrentProcess.restype = ctypes.c_void_p
    kernel32.K32GetProcessMemoryInfo.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32]
    told = kernel32.K32GetProcessMemoryInfo(
        kernel32.GetCurrentProcess(), ctypes.byref(counters), counters.size
    )
    return int(counters.peak_working_set) if told else 0
