"""Measure all figures of a model on this machine."""

from __future__ import annotations

import os
import tempfile
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

from ..enhancer import Enhancer
from ..weights import Model
from . import QUICK_SECONDS, SECONDS
from .limits import limits
from .machine import OtherLoad, machine
from .profile import profile as profiled
from .start import fresh_start
from .steps import summary, time_cases, time_group, warm_up_steps

# Rounds in which the signals take turns.
_ROUNDS = 5
# And in which a group of streams and its streams one by one do: two ways that are compared.
_TURNS = 25


def bench(
    model: Model,
    path: str | os.PathLike[str] | None,
    *,
    precision: str,
    norm: str | None,
    seconds: float | None,
    profile: bool,
    cold: bool,
    quick: bool,
    streams: int | None = None,
    progress: Callable[[str], object],
) -> dict[str, Any]:
    """Measure a model.

    Parameters
    ----------
    model : Model
    path : path-like or None
        The file from which fresh processes load the model; None: the built-in one.
    precision, norm
        As in `Enhancer`.
    seconds : float or None
        Length of each signal; None: `SECONDS`, or `QUICK_SECONDS` if `quick`.
    profile : bool
        Also profile the steps.
    cold : bool
        Also time a start without compiled kernels.
    quick : bool
        Measure the machine and the start only roughly.
    streams : int, optional
        Also time so many streams, one by one and as an `EnhancerGroup`.
    progress : callable
        Told what comes next, between measurements.

    Returns
    -------
    dict
        Serialisable as JSON, except `steps_ms` and `timeline`, which are for drawing.
    """
    options: dict[str, Any] = {"precision": precision, "norm": norm}
    config = model.config.with_norm(norm)
    hop_ms = 1000.0 * config.hop_length / config.sample_rate
    seconds = seconds or (QUICK_SECONDS if quick else SECONDS)
    busy = OtherLoad()
    steps = time_cases(model, options, seconds, 1 if quick else _ROUNDS, progress)
    progress("what the machine can do")
    cases = {name: summary(times, hop_ms) for name, times in steps.items()}
    result = {
        **machine(),
        "model": {
            "architecture": model.architecture,
            "file": None if path is None else str(path),
            "parameters": model.n_parameters,
            "precision": precision,
            "norm": config.norm_type,
            "sample_rate": config.sample_rate,
            "hop_ms": hop_ms,
            "latency_ms": config.latency_ms,
        },
        "cases": cases,
        "limits": limits(Enhancer(model, **options), cases["speech"]["mean_ms"], quick),
    }
    if streams is not None:
        progress(f"{streams} streams, one by one and as a group")
        rounds = 1 if quick else _TURNS
        result["group"] = time_group(model, options, streams, seconds, rounds)
    if profile:
        progress("stages of a step")
        result["profile"], result["timeline"] = profiled(model, options, quick)
    result["other_load"] = busy.share()
    start = []
    for turn in range(1 if quick else 3):
        progress(f"a start in a fresh process, {turn + 1}")
        start.append(fresh_start(path, precision=precision, norm=norm))
    result["start"] = min(start, key=lambda each: float(each["total_s"]))
    if cold:
        progress("a start that compiles")
        with tempfile.TemporaryDirectory() as folder:
            result["cold_start"] = fresh_start(path, precision=precision, norm=norm, cache=folder)
    result["memory_mb"] = max(each["memory_mb"] for each in start)
    result["further_stream_mb"] = {
        "by_hop": _further_stream_mb(model, options, 1),
        "by_two_hops": _further_stream_mb(model, options, 2),
    }
    result["steps_ms"] = steps
    return result


def _further_stream_mb(model: Model, options: dict[str, Any], hops: int) -> float:
    """Return what one more stream takes when it gets so many hops a call, MB, without weights."""
    one, tracing = Enhancer(model, **options), tracemalloc.is_tracing()
    chunk = np.full(hops * one.frame_length, 0.1, np.float32)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    another = Enhancer(model, **options)
    for _ in range(warm_up_steps(another)):
        another.process(chunk)
    after, _ = tracemalloc.get_traced_memory()
    if not tracing:
        tracemalloc.stop()
    return (after - before) / 1e6
