"""Time whole steps, from the samples of a hop to the enhanced samples of a hop.

They are timed with the standard library's clock, without instrumentation in the engine.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..enhancer import Enhancer
from ..group import EnhancerGroup
from ..weights import Model

_WARM_UP_STEPS = 24


def signals(seconds: float, rate: int) -> dict[str, np.ndarray]:
    """Make the signals: a speech-like one, noise, and silence after the speech-like one.

    The speech-like signal is a gliding buzz with a syllabic envelope and pauses, in faint noise. In
    the silence after it, states decay, and arithmetic on denormal numbers would show.
    """
    n = max(int(seconds * rate), 1)
    rng = np.random.default_rng(0)
    t = np.arange(n) / rate
    pitch = 2 * np.pi * np.cumsum(120.0 + 40.0 * np.sin(2 * np.pi * 0.7 * t)) / rate
    buzz = sum(np.sin(k * pitch) / k for k in range(1, 20))
    envelope = np.maximum(np.sin(2 * np.pi * 3.0 * t), 0.0) * (np.sin(2 * np.pi * 0.3 * t) > -0.5)
    speech = (0.1 * envelope * buzz + 1e-3 * rng.normal(size=n)).astype(np.float32)
    return {
        "speech": speech,
        "noise": rng.normal(0.0, 0.1, n).astype(np.float32),
        "silence after speech": np.concatenate([speech[: n // 2], np.zeros(n, np.float32)]),
    }


def time_cases(
    model: Model,
    options: dict[str, Any],
    seconds: float,
    rounds: int,
    progress: Callable[[str], object] = lambda _: None,
) -> dict[str, np.ndarray]:
    """Time every step of every case, ms; cases take turns, of at least one hop each."""
    progress("steps: getting ready")
    enhancers, hops, times = {}, {}, {}
    seconds = max(seconds, (rounds + 1) * model.config.hop_length / model.config.sample_rate)
    for name, signal in signals(seconds, model.config.sample_rate).items():
        enhancer = enhancers[name] = Enhancer(model, **options)
        hop = enhancer.frame_length
        whole: np.ndarray = signal[: signal.shape[0] // hop * hop].reshape(-1, hop)
        n_lead = warm_up_steps(enhancer)
        lead: np.ndarray = np.random.default_rng(1).normal(0.0, 0.1, (n_lead, hop))
        lead = lead.astype(np.float32)
        if "silence" in name:  # only the silent part counts
            lead, whole = whole[: whole.shape[0] // 3], whole[whole.shape[0] // 3 :]
        for frame in lead:
            enhancer.step(frame)
        hops[name], times[name] = np.array_split(whole, rounds), np.zeros(0)
    with no_collection():
        for turn in range(rounds):
            progress(f"steps: round {turn + 1} of {rounds}")
            for name, enhancer in enhancers.items():
                new = time_steps(enhancer.step, hops[name][turn])
                times[name] = np.concatenate([times[name], new])
    return times


def time_group(
    model: Model, options: dict[str, Any], n: int, seconds: float, rounds: int
) -> dict[str, Any]:
    """Time hops of `n` streams as a group and one by one, which take turns; ms per stream."""
    group, one_by_one = (
        EnhancerGroup(Enhancer(model, **options) for _ in range(n)) for _ in range(2)
    )

    def alone(frames: np.ndarray, out: np.ndarray) -> None:
        for enhancer, frame, result in zip(one_by_one.enhancers, frames, out, strict=True):
            enhancer.step(frame, result)

    n_lead = warm_up_steps(group.enhancers[0])
    n_hop = int(seconds * model.config.sample_rate) // group.frame_length
    shape = n_lead + max(n_hop, rounds), n, group.frame_length
    hops = np.random.default_rng(0).normal(0.0, 0.1, shape).astype(np.float32)
    times: dict[str, list[np.ndarray]] = {"together": [], "alone": []}
    ways: dict[str, Callable[..., Any]] = {"together": group.step, "alone": alone}
    for step in ways.values():
        time_steps(step, hops[:n_lead])
    with no_collection():
        for some in np.array_split(hops[n_lead:], rounds):
            for name, step in ways.items():
                times[name].append(time_steps(step, some) / n)
    figures = {f"{name}_ms": float(np.concatenate(each).mean()) for name, each in times.items()}
    return {"streams": n, **figures}


def warm_up_steps(enhancer: Enhancer) -> int:
    """Return the number of steps after which all are alike, which includes the latency."""
    return _WARM_UP_STEPS + enhancer.latency_samples // enhancer.frame_length


def time_steps(step: Callable[..., Any], frames: np.ndarray) -> np.ndarray:
    """Return how long each call ``step(frame, out)`` took, ms."""
    out, now = np.zeros(frames.shape[1:], np.float32), time.perf_counter_ns
    times = np.zeros(len(frames))
    for i, frame in enumerate(frames):
        start = now()
        step(frame, out)
        times[i] = now() - start
    return times / 1e6


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Keep Python's garbage collector out of the measurement."""
    was, _ = gc.isenabled(), gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def summary(times_ms: np.ndarray, hop_ms: float) -> dict[str, Any]:
    """Return the figures of a series of steps."""
    median, p95, p99 = np.percentile(times_ms, [50, 95, 99])
    mean, worst = float(times_ms.mean()), float(times_ms.max())
    return {
        "steps": int(times_ms.shape[0]),
        "median_ms": float(median),
        "p95_ms": float(p95),
        "p99_ms": float(p99),
        "max_ms": worst,
        "mean_ms": mean,
        "deadline_share": float(p99) / hop_ms,
        "late_steps": int((times_ms > hop_ms).sum()),
        "real_time_factor": mean / hop_ms,
    }
