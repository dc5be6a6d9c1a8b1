"""Profile a step kernel by kernel: its program is played call by call."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import samples
from ..enhancer import Enhancer
from ..program import Program
from ..weights import Model
from .steps import no_collection, signals, time_steps, warm_up_steps

# Frames measured with timers, and as many without; the two alternate in turns of _TURN frames. The
# picture shows _DRAWN_STEPS of those with timers.
_STEPS, _TURN = 400, 20
_DRAWN_STEPS = 8

#: Stages for the time between kernels, and for the cost of the timers themselves.
CONDUCTING = "Python"
_TIMERS = "(timers)"


@dataclass
class _Recorder:
    """The calls of kernels in some steps: (step, stage, kernel, start ns, end ns)."""

    step: int = -1
    events: list[tuple[int, str, str, int, int]] = field(default_factory=list)

    def wrap(self, call: Callable[..., None], name: str, stage: str) -> Any:
        """Wrap `call` so that each call is timed."""

        def timed(*args: Any) -> None:
            start = time.perf_counter_ns()
            call(*args)
            self.events.append((self.step, stage, name, start, time.perf_counter_ns()))

        return timed


@contextlib.contextmanager
def _recorded(recorder: _Recorder) -> Iterator[None]:
    """Within the block, play programs call by call and time every kernel of a step."""
    plain = Program.play, samples.check_samples

    def play(program: Program, *frames_and_samples: Any) -> None:
        for i, (stage, name) in enumerate(program.stages):
            recorder.wrap(program.play_call, name, stage)(i, *frames_and_samples)

    check = recorder.wrap(samples.check_samples, "check_samples", "samples in")
    timed: tuple[Any, Any] = play, check
    try:
        Program.play, samples.check_samples = timed  # type: ignore[method-assign]
        yield
    finally:
        Program.play, samples.check_samples = plain  # type: ignore[method-assign]


def profile(
    model: Model, options: dict[str, Any], quick: bool
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run some frames with every call timed; return the table and the calls of a few frames."""
    enhancer = Enhancer(model, **options)
    config = model.config
    n_step = 40 if quick else _STEPS
    n_warm, hop = warm_up_steps(enhancer), config.hop_length
    n_frame = n_warm + 2 * n_step
    x = signals((n_frame + 1) * hop / config.sample_rate, config.sample_rate)
    frames = x["noise"][: n_frame * hop].reshape(-1, hop)
    out = np.zeros(hop, np.float32)
    for frame in frames[:n_warm]:
        enhancer.step(frame, out)
    every = max(stack.every for stack in enhancer._stream._one.network_pass.stacks)
    period = every if every <= 4 else 1  # else too many columns or too few frames
    recorder = _Recorder()
    plain_ms: np.ndarray = np.zeros(0)
    plain_at: np.ndarray = np.zeros(0, int)
    spans: list[tuple[int, int]] = []
    phases: list[int] = []
    with no_collection():
        # Steps with and without timers alternate, so that other load affects both alike.
        for turn in np.split(frames[n_warm:], n_step // _TURN):
            at = int(enhancer._stream.clock[1])
            plain_at = np.append(plain_at, (at + np.arange(_TURN)) % period)
            plain_ms = np.append(plain_ms, time_steps(enhancer.step, turn[:_TURN]))
            with _recorded(recorder):
                for frame in turn[_TURN:]:
                    recorder.step = len(spans)
                    phases.append(int(enhancer._stream.clock[1]) % period)
                    start = time.perf_counter_ns()
                    enhancer.step(frame, out)
                    spans.append((start, time.perf_counter_ns()))
    plain = [_faster_half(plain_ms[plain_at == phase]) for phase in range(period)]
    return _table(recorder, np.array(phases), period, spans, plain), _timeline(recorder, spans)


def _table(
    recorder: _Recorder,
    phases: np.ndarray,
    period: int,
    spans: list[tuple[int, int]],
    plain: list[float],
) -> dict[str, Any]:
    """Return mean microseconds by stage and kernel, overall and by phase of the shrink period.

    Only the faster half of the frames counts: means add up to the whole, and the effect of other
    programs stays out. The cost of the timers is a stage of its own, subtracted from Python's.
    """
    n_step = len(spans)
    total = np.array([end - start for start, end in spans]) / 1e3
    own: dict[tuple[str, str], np.ndarray] = defaultdict(lambda: np.zeros(n_step))
    calls: dict[tuple[str, str], int] = defaultdict(int)
    for step, stage, name, start, end in recorder.events:
        own[stage, name][step] += (end - start) / 1e3
        calls[stage, name] += 1
    own[CONDUCTING, "between kernels"] += total - np.sum(list(own.values()), axis=0)
    halves, timers = [], np.zeros(n_step)
    for phase in range(period):
        at = np.flatnonzero(phases == phase)
        half = at[np.argsort(total[at])[: max(at.shape[0] // 2, 1)]]
        halves.append(half)
        timers[at] = max(total[half].mean() - plain[phase], 0.0)
    timers = np.minimum(timers, own[CONDUCTING, "between kernels"])
    own[CONDUCTING, "between kernels"] -= timers
    own[_TIMERS, "around calls"] = timers

    def figures(times: np.ndarray) -> dict[str, Any]:
        means = [float(times[half].mean()) for half in halves]
        return {"mean_us": float(np.mean(means)), "by_phase_us": means}

    whole = figures(total)
    stages: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for (stage, name), times in own.items():
        row = {"kernel": name, "calls": calls[stage, name] / n_step, **figures(times)}
        stages[stage].append(row)
    rows: list[dict[str, Any]] = []
    for stage, kernels in stages.items():
        times = np.sum([own[stage, row["kernel"]] for row in kernels], axis=0)
        row = {"stage": stage, **figures(times)}
        row["share"] = row["mean_us"] / whole["mean_us"]
        row["kernels"] = sorted(kernels, key=lambda kernel: -float(kernel["mean_us"]))
        rows.append(row)
    return {
        "steps": n_step,
        "period": period,
        "step_us": whole,
        "unprofiled_us": float(np.mean(plain)),
        "stages": sorted(rows, key=lambda row: -float(row["mean_us"])),
    }


def _faster_half(times_ms: np.ndarray) -> float:
    """Return the mean of the shorter half of times, us."""
    return float(np.sort(times_ms)[: max(times_ms.shape[0] // 2, 1)].mean() * 1e3)


def _timeline(recorder: _Recorder, spans: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """Return the calls of a few consecutive frames, in microseconds from the start of each step."""
    lengths = np.array([end - start for start, end in spans])
    n = _DRAWN_STEPS
    # The consecutive frames that took least time together, so were disturbed least.
    sums = np.convolve(lengths, np.ones(n), "valid")
    at = np.arange(sums.shape[0])
    first = int(np.argmin(np.where(at % _TURN <= _TURN - n, sums, np.inf)))
    timeline = []
    for i in range(first, first + n):
        start, end = spans[i]
        parts = [
            (stage, (begin - start) / 1e3, (stop - start) / 1e3)
            for step, stage, _, begin, stop in recorder.events
            if step == i
        ]
        timeline.append({"step_us": (end - start) / 1e3, "parts": parts})
    return timeline
