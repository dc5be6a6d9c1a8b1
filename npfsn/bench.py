"""`npfsn bench`: what one step costs on this machine, and how far that is from what is possible.

Whole steps are timed, from the samples of a hop to the samples of a hop, with the standard
library's clock and nothing installed in the engine. Only `--profile` plays a frame call by call, in
a run of its own. What is read and computed per frame is counted from the packed weights; the
bandwidth and the peak that it is held against are measured on the spot.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from . import __version__
from .enhancer import Enhancer
from .errors import NpfsnError
from .jit import host_features
from .kernels import spectrum
from .kernels.amx import HAS_TILES
from .layers import PRODUCTS, BoundProduct, Product
from .program import Program
from .terminal import norm_name, number, to_stdout
from .weights import Model, load_model

SECONDS = 10.0
QUICK_SECONDS = 0.5
WARM_UP_STEPS = 24
ROUNDS = 5
#: Frames that `--profile` looks at, those with and without timers in turns of so many, and of them
#: those that `--plot` draws one by one.
PROFILE_STEPS, PROFILE_TURN = 400, 20
DRAWN_STEPS = 8

# Worth naming when numbers are compared between machines.
_SIMD = (
    "avx2", "fma", "avx512f", "avx512vnni", "avxvnni", "amx-int8", "neon", "dotprod",
)  # fmt: skip

_CONDUCTING = "Python"
_TIMERS = "(timers)"


# --- arguments ---------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments of `npfsn bench`."""
    parser.add_argument("-m", "--model", metavar="PATH", help="model file (default: the built-in)")
    parser.add_argument(
        "--precision",
        choices=("float32", "int8"),
        default="float32",
        help="arithmetic of the large products (default: %(default)s)",
    )
    parser.add_argument(
        "--norm",
        metavar="NAME",
        type=norm_name,
        help="run the model with another norm than its own, such as cumulative_laplace_norm",
    )
    parser.add_argument(
        "--seconds",
        metavar="S",
        type=number(float, 0.1, 3600.0, "a number of seconds from 0.1 to 3600"),
        help=f"length of each signal (default: {SECONDS:g}, with --quick {QUICK_SECONDS:g})",
    )
    parser.add_argument("--profile", action="store_true", help="also say where the time goes")
    parser.add_argument(
        "--plot", metavar="FILE", help="draw steps and stages over time (needs matplotlib)"
    )
    parser.add_argument(
        "--cold", action="store_true", help="also time a start that must compile (10 to 20 seconds)"
    )
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more about errors")
    parser.add_argument(
        "--quick", action="store_true", help="as little as shows that it works; figures are rough"
    )


def main(args: argparse.Namespace) -> int:
    """Run `npfsn bench`.

    Parameters
    ----------
    args : Namespace
        What `add_arguments` describes.

    Returns
    -------
    int
        The exit code. How fast the machine is does not enter into it.
    """
    if args.plot is not None:
        _check_picture(args.plot)  # better now than after a minute of measuring
    result = bench(
        load_model(args.model),
        args.model,
        precision=args.precision,
        norm=args.norm,
        seconds=args.seconds or (QUICK_SECONDS if args.quick else SECONDS),
        profile=args.profile or args.plot is not None,
        cold=args.cold,
        quick=args.quick,
    )
    drawings = {"steps_ms", "timeline"}
    if args.json:
        figures = {name: value for name, value in result.items() if name not in drawings}
        text = json.dumps(figures, indent=1)
    else:
        text = "\n".join(_page(result))
    with to_stdout():
        print(text, flush=True)
    if args.plot is not None:
        _draw(result, args.plot)
    return 0


# --- measuring ---------------------------------------------------------------------------------


def bench(
    model: Model,
    path: str | os.PathLike[str] | None,
    *,
    precision: str = "float32",
    norm: str | None = None,
    seconds: float = SECONDS,
    profile: bool = False,
    cold: bool = False,
    quick: bool = False,
) -> dict[str, Any]:
    """Measure a model.

    Parameters
    ----------
    model : Model
    path : path-like or None
        Where fresh processes find the same model; None: the built-in one.
    precision, norm
        As in `Enhancer`.
    seconds : float
        Length of each signal.
    profile : bool
        Also look where the time goes.
    cold : bool
        Also start without compiled kernels.
    quick : bool
        Measure the machine and the start only roughly.

    Returns
    -------
    dict
        Ready for JSON, but for `steps_ms` and `timeline`, which are for drawing.
    """
    options: dict[str, Any] = {"precision": precision, "norm": norm}
    config = model.config if norm is None else model.config.with_norm(norm)
    hop_ms = 1000.0 * config.hop_length / config.sample_rate
    busy = OtherLoad()
    steps = _time_cases(model, options, seconds, rounds=1 if quick else ROUNDS)
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
    if profile:
        result["profile"], result["timeline"] = _profile(model, options, quick)
    result["other_load"] = busy.share()
    start = [cold_start(path, precision=precision, norm=norm) for _ in range(1 if quick else 3)]
    result["start"] = min(start, key=lambda each: float(each["total_s"]))
    if cold:
        with tempfile.TemporaryDirectory() as folder:
            result["cold_start"] = cold_start(path, precision=precision, norm=norm, cache=folder)
    result["memory_mb"] = max(each["memory_mb"] for each in start)
    result["steps_ms"] = steps
    return result


class OtherLoad:
    """How many cores other programs kept busy since this was made."""

    def __init__(self) -> None:
        self._at = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float] | None:
        try:
            with open("/proc/stat") as file:
                values = [int(text) for text in file.readline().split()[1:9]]
        except (OSError, ValueError):
            return None
        idle = values[3] + values[4]
        busy = (sum(values) - idle) / os.sysconf("SC_CLK_TCK")
        return busy, sum(os.times()[:4]), time.monotonic()  # own: and of processes that ended

    def share(self) -> float | None:
        """Return the mean number of cores, or None where the system does not tell."""
        now = self._now()
        if self._at is None or now is None:
            return None
        busy, own, wall = (b - a for a, b in zip(self._at, now, strict=True))
        return round(max(busy - own, 0.0) / max(wall, 1e-3), 2)


def signals(seconds: float, rate: int) -> dict[str, np.ndarray]:
    """Make the signals: something like speech, noise, and silence after speech.

    Speech-like is a gliding buzz under a syllable's envelope, with pauses, in faint noise. What it
    leaves behind in silence is where arithmetic on denormal numbers would show.
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


def _time_cases(
    model: Model, options: dict[str, Any], seconds: float, rounds: int
) -> dict[str, np.ndarray]:
    """Time every step of every case, ms; the cases take turns, each with a hop at least."""
    enhancers, hops, times = {}, {}, {}
    seconds = max(seconds, (rounds + 1) * model.config.hop_length / model.config.sample_rate)
    for name, signal in signals(seconds, model.config.sample_rate).items():
        enhancer = enhancers[name] = Enhancer(model, **options)
        hop = enhancer.frame_length
        whole: np.ndarray = signal[: signal.shape[0] // hop * hop].reshape(-1, hop)
        lead: np.ndarray = np.random.default_rng(1).normal(0.0, 0.1, (WARM_UP_STEPS, hop))
        lead = lead.astype(np.float32)
        if "silence" in name:  # only the silent part counts
            lead, whole = whole[: whole.shape[0] // 3], whole[whole.shape[0] // 3 :]
        for frame in lead:
            enhancer.step(frame)
        hops[name], times[name] = np.array_split(whole, rounds), np.zeros(0)
    with no_collection():
        for turn in range(rounds):
            for name, enhancer in enhancers.items():
                new = time_steps(enhancer.step, hops[name][turn], enhancer.frame_length)
                times[name] = np.concatenate([times[name], new])
    return times


def time_steps(step: Callable[..., Any], frames: np.ndarray, size: int) -> np.ndarray:
    """Return how long each call ``step(frame, out)`` took, ms."""
    out, now = np.zeros(size, np.float32), time.perf_counter_ns
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


# --- limits ------------------------------------------------------------------------------------


@dataclass
class Work:
    """What a frame needs of one kind of arithmetic, on average."""

    #: Bytes of weights that meet one row: read once and used once, or read once for two frames.
    row_bytes: float = 0.0
    #: Bytes of weights that meet many rows, and multiplications and additions with them.
    bytes: float = 0.0
    operations: float = 0.0


def frame_work(enhancer: Enhancer) -> dict[type[Product], Work]:
    """Count what the layers of a network read and compute per frame, by kind of product."""
    work: dict[type[Product], Work] = defaultdict(Work)
    for stack in enhancer._stream._one.network_pass.stacks:
        spec, key = stack.weights.spec, stack.weights.key
        shrink = getattr(enhancer.model.config, "shrink_size", 1)
        rate = 1.0 / shrink if key == "bottleneck" else 1.0
        # Every other frame reads what a single unit's recurrent product needs (`recur`).
        reads = 0.5 if stack.units == 1 else 1.0
        products = []
        for i, layer in enumerate(stack.weights.layers):
            products.append((layer.input, spec.hidden_size if i else spec.input_size, 1.0))
            products.append((layer.recurrent, spec.hidden_size, reads))
        if stack.weights.linear is not None:
            products.append((stack.weights.linear, spec.hidden_size, 1.0))
        for product, n_in, share in products:
            kind = work[type(product)]
            n_bytes = rate * share * (sum(w.nbytes for w in product.weights) + product.bias.nbytes)
            if stack.units == 1:
                kind.row_bytes += n_bytes
            else:
                kind.bytes += n_bytes
                kind.operations += rate * 2.0 * stack.units * n_in * product.width
    return dict(work)


def limits(enhancer: Enhancer, mean_ms: float, quick: bool) -> dict[str, Any]:
    """Hold the mean step against bytes over bandwidth plus operations over peak.

    One after the other: where tiles ask memory for what comes next, a step may take less.
    """
    repeats = 3 if quick else 25
    work = frame_work(enhancer)
    row_bytes = sum(each.row_bytes for each in work.values())
    total_bytes = row_bytes + sum(each.bytes for each in work.values())
    bandwidth = read_bandwidth(int(total_bytes), repeats)
    peaks = {kind: tile_peak(kind, repeats) for kind, each in work.items() if each.operations}
    read_ms = row_bytes / bandwidth * 1e3
    compute_ms = sum(work[kind].operations / peak for kind, peak in peaks.items()) * 1e3
    return {
        "bytes_per_frame": int(total_bytes),
        "bytes_read_once": int(row_bytes),
        "bandwidth_gb_s": bandwidth / 1e9,
        "memory_bandwidth_gb_s": read_bandwidth((32 if quick else 256) << 20, 3) / 1e9,
        "operations_per_frame": int(sum(each.operations for each in work.values())),
        "peak_gop_s": {_kind_name(kind): peak / 1e9 for kind, peak in peaks.items()},
        "read_ms": read_ms,
        "compute_ms": compute_ms,
        "limit_ms": read_ms + compute_ms,
        "mean_ms": mean_ms,
        "share_of_limit": (read_ms + compute_ms) / mean_ms,
    }


def _kind_name(kind: type[Product]) -> str:
    return next((name for name, each in PRODUCTS.items() if each is kind), kind.__name__)


def _fastest(call: Callable[[], Any], repeats: int) -> float:
    """Shortest of some calls, s: what the machine can do when nothing disturbs it."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def read_bandwidth(n_bytes: int, repeats: int) -> float:
    """Bytes per second at which one core reads a buffer of that size again and again.

    The better of NumPy's reduction and our own product with one row: neither is the last word.
    """
    n_in = 512
    n_out = max(n_bytes // (4 * n_in) // 16 * 16, 16)
    weight = np.ones((n_out, n_in), np.float32)
    numpy_rate = weight.nbytes / _fastest(partial(np.max, weight), repeats)
    product = Product(weight, np.zeros(n_out, np.float32))
    del weight
    x, out = np.ones((1, n_in), np.float32), np.zeros((1, product.width), np.float32)
    bound = product.bind(1, n_in)
    own_rate = product.weights[0].nbytes / _fastest(lambda: bound(x, out, 1), repeats)
    return max(numpy_rate, own_rate)


def tile_peak(kind: type[Product], repeats: int) -> float:
    """Operations per second of a kind of product while all it needs is in the nearest caches."""
    best = 0.0
    for rows, n_in, n_out in ((48, 256, 192), (96, 384, 192), (64, 384, 1536)):
        product = kind(np.ones((n_out, n_in), np.float32), np.zeros(n_out, np.float32))
        x, out = np.ones((rows, n_in), np.float32), np.zeros((rows, n_out), np.float32)
        bound = product.bind(rows, n_in)
        calls = 1 + int(2e7 / (rows * n_in * n_out))

        def run(
            bound: BoundProduct = bound, x: Any = x, out: Any = out, rows: int = rows,
            calls: int = calls,
        ) -> None:  # fmt: skip
            for _ in range(calls):
                bound(x, out, rows)

        run()
        best = max(best, calls * 2.0 * rows * n_in * n_out / _fastest(run, repeats))
    return best


# --- profile -----------------------------------------------------------------------------------


@dataclass
class _Recorder:
    """The kernels of some steps: (step, stage, kernel, start ns, end ns)."""

    step: int = -1
    events: list[tuple[int, str, str, int, int]] = field(default_factory=list)

    def wrap(self, call: Callable[..., None], name: str, stage: str) -> Any:
        """Return `call`, timed."""

        def timed(*args: Any) -> None:
            start = time.perf_counter_ns()
            call(*args)
            self.events.append((self.step, stage, name, start, time.perf_counter_ns()))

        return timed


@contextlib.contextmanager
def _recorded(recorder: _Recorder) -> Iterator[None]:
    """While this lasts, play programs call by call, and time every kernel of a step."""
    undo: list[tuple[Any, str, Any]] = []

    def replace(owner: Any, name: str, value: Any) -> None:
        undo.append((owner, name, vars(owner)[name]))
        setattr(owner, name, value)

    def play(program: Program, frame: int, n_frame: int, *samples: np.ndarray) -> None:
        for i, (stage, name) in enumerate(program.stages):
            recorder.wrap(program.play_call, name, stage)(i, frame, n_frame, *samples)

    try:
        replace(Program, "play", play)
        for name, stage in (("check_samples", "samples in"), ("mix_dry", "samples out")):
            replace(spectrum, name, recorder.wrap(getattr(spectrum, name), name, stage))
        yield
    finally:
        for owner, name, value in reversed(undo):
            setattr(owner, name, value)


def _profile(
    model: Model, options: dict[str, Any], quick: bool
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run some frames with every call timed; return the table and the calls of a few frames."""
    enhancer = Enhancer(model, **options)
    config = model.config
    n_step = 40 if quick else PROFILE_STEPS
    n_warm, hop = WARM_UP_STEPS, config.hop_length
    n_frame = n_warm + 2 * n_step
    x = signals((n_frame + 1) * hop / config.sample_rate, config.sample_rate)
    frames = x["noise"][: n_frame * hop].reshape(-1, hop)
    out = np.zeros(hop, np.float32)
    for frame in frames[:n_warm]:
        enhancer.step(frame, out)
    shrink = int(getattr(config, "shrink_size", 1))
    period = shrink if shrink <= 4 else 1  # more columns than fit, or frames
    recorder = _Recorder()
    plain_ms: np.ndarray = np.zeros(0)
    plain_at: np.ndarray = np.zeros(0, int)
    spans: list[tuple[int, int]] = []
    phases: list[int] = []
    with no_collection():
        # A few steps with timers, a few without: what else the machine does meets both.
        for turn in np.split(frames[n_warm:], n_step // PROFILE_TURN):
            at = int(enhancer._stream.clock[1])
            plain_at = np.append(plain_at, (at + np.arange(PROFILE_TURN)) % period)
            few = turn[:PROFILE_TURN]
            plain_ms = np.append(plain_ms, time_steps(enhancer.step, few, hop))
            with _recorded(recorder):
                for frame in turn[PROFILE_TURN:]:
                    recorder.step = len(spans)
                    phases.append(int(enhancer._stream.clock[1]) % period)
                    start = time.perf_counter_ns()
                    enhancer.step(frame, out)
                    spans.append((start, time.perf_counter_ns()))
    plain = [_faster_half(plain_ms[plain_at == phase]) for phase in range(period)]
    return (
        _profile_table(recorder, np.array(phases), period, spans, plain),
        _timeline(recorder, spans),
    )


def _profile_table(
    recorder: _Recorder,
    phases: np.ndarray,
    period: int,
    spans: list[tuple[int, int]],
    plain: list[float],
) -> dict[str, Any]:
    """Return mean microseconds by stage and kernel: of all, and by place in the shrink's period.

    Only the faster half of the frames counts: means add up, and what other programs take from this
    one stays out. What the timers themselves cost is a stage of its own, taken from Python's.
    """
    n_step = len(spans)
    total = np.array([end - start for start, end in spans]) / 1e3
    own: dict[tuple[str, str], np.ndarray] = defaultdict(lambda: np.zeros(n_step))
    calls: dict[tuple[str, str], int] = defaultdict(int)
    for step, stage, name, start, end in recorder.events:
        own[stage, name][step] += (end - start) / 1e3
        calls[stage, name] += 1
    own[_CONDUCTING, "between kernels"] += total - np.sum(list(own.values()), axis=0)
    halves, timers = [], np.zeros(n_step)
    for phase in range(period):
        at = np.flatnonzero(phases == phase)
        half = at[np.argsort(total[at])[: max(at.shape[0] // 2, 1)]]
        halves.append(half)
        timers[at] = max(total[half].mean() - plain[phase], 0.0)
    timers = np.minimum(timers, own[_CONDUCTING, "between kernels"])
    own[_CONDUCTING, "between kernels"] -= timers
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
    """Return the mean of the shorter half, us."""
    return float(np.sort(times_ms)[: max(times_ms.shape[0] // 2, 1)].mean() * 1e3)


def _timeline(recorder: _Recorder, spans: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """Return the calls of a few ordinary frames, microseconds from the start of their step."""
    lengths = np.array([end - start for start, end in spans])
    n = DRAWN_STEPS
    # The stretch with the least disturbance, of frames that follow each other.
    sums = np.convolve(lengths, np.ones(n), "valid")
    at = np.arange(sums.shape[0])
    first = int(np.argmin(np.where(at % PROFILE_TURN <= PROFILE_TURN - n, sums, np.inf)))
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


# --- fresh processes ---------------------------------------------------------------------------

# Runs in a process of its own: how long each part of a start takes, then memory after some steps.
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
from npfsn.bench import peak_memory_mb
print(json.dumps({"import_s": b - a, "load_s": c - b, "prepare_s": d - c, "first_output_s": e - d,
                  "ready": now, "memory_mb": peak_memory_mb()}))
"""


def cold_start(
    path: str | os.PathLike[str] | None,
    *,
    precision: str = "float32",
    norm: str | None = None,
    cache: str | None = None,
    steps: int = 200,
) -> dict[str, Any]:
    """Start a fresh process, and say how long it takes and how much memory it comes to need.

    Parameters
    ----------
    path : path-like or None
        The model; None: the built-in one.
    precision, norm
        As in `Enhancer`.
    cache : str, optional
        Another folder for compiled kernels. An empty one makes the process compile.
    steps : int
        Frames to stream before memory is looked at.

    Returns
    -------
    dict
        Seconds: `import_s`, `load_s` (the file), `prepare_s` (weights packed, kernels compiled or
        fetched from the cache), `first_output_s` (steps until one gives what the network made), and
        `total_s` from the start of the process to that. `memory_mb`: the most it ever held.
    """
    place = str(Path(__file__).resolve().parent.parent)
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
    result["compiled"] = cache is not None
    return result


def peak_memory_mb() -> float:
    """Most memory that this process ever held, MB; 0 where the system does not tell."""
    # getrusage starts from what the parent held when it made this process; this does not.
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


# --- the machine -------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """Say what measures and what is measured: CPU, features in use, versions, threads, commit."""
    import llvmlite
    import numba

    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "cpu": cpu_name(),
        "cores": os.cpu_count() or 1,
        "simd": [name for name in _SIMD if name in host_features() and _in_use(name)],
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": 1,
        "versions": {
            "npfsn": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "numba": numba.__version__,
            "llvmlite": llvmlite.__version__,
        },
    }


def _in_use(feature: str) -> bool:
    """Whether kernels use a feature of this CPU: the system may not have granted it."""
    return feature != "amx-int8" or HAS_TILES


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
    """Return the commit of the checkout that this is, with a + if files have changed."""
    place = Path(__file__).resolve().parent.parent
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


# --- the page ----------------------------------------------------------------------------------


def _page(result: dict[str, Any]) -> list[str]:
    """Lay the figures out for people."""
    versions, model = result["versions"], result["model"]
    lines = [
        f"npfsn {versions['npfsn']}"
        + (f" ({result['commit']})" if result["commit"] else "")
        + f", Python {versions['python']}, NumPy {versions['numpy']}, Numba {versions['numba']}",
        f"{result['cpu']}, {', '.join(result['simd']) or 'no vector features'}, 1 thread",
        f"{model['architecture']}, {model['parameters'] / 1e6:.2f} M parameters, "
        f"{model['precision']}, {model['norm']}, hop {model['hop_ms']:g} ms",
    ]
    if (result["other_load"] or 0) > 0.2:
        lines.append(f"note: other programs kept {result['other_load']:g} cores busy meanwhile")
    lines += ["", f"{'whole steps, ms':<22}{'median':>8}{'p95':>8}{'p99':>8}{'max':>8}{'mean':>8}"
              f"{'p99 of deadline':>17}{'real-time factor':>18}"]  # fmt: skip
    for name, case in result["cases"].items():
        columns = [case[f"{key}_ms"] for key in ("median", "p95", "p99", "max", "mean")]
        lines.append(
            f"{name:<22}"
            + "".join(f"{value:8.3f}" for value in columns)
            + f"{case['deadline_share']:>17.1%}{case['real_time_factor']:>18.3f}"
        )
    lines += ["", *_limit_lines(result["limits"])]
    if "profile" in result:
        lines += ["", *_profile_lines(result["profile"])]
    lines.append("")
    for key in ("start", "cold_start"):
        if key in result:
            lines.append(_start_line(result[key]))
    lines.append(f"{'peak memory':<22}{result['memory_mb']:.0f} MB")
    return lines


def _limit_lines(limits: dict[str, Any]) -> list[str]:
    peaks = ", ".join(f"{rate:.0f} ({name})" for name, rate in limits["peak_gop_s"].items())
    lines = [
        f"{'limits of a frame':<22}{limits['bytes_per_frame'] / 1e6:.1f} MB of weights, of which "
        f"{limits['bytes_read_once'] / 1e6:.1f} are used once: {limits['read_ms']:.2f} ms at the "
        f"{limits['bandwidth_gb_s']:.0f} GB/s of a buffer that large "
        f"({limits['memory_bandwidth_gb_s']:.0f} from memory)"
    ]
    if peaks:
        lines.append(
            f"{'':<22}{limits['operations_per_frame'] / 1e6:.0f} M operations: "
            f"{limits['compute_ms']:.2f} ms at the tile's peak of {peaks} GOP/s"
        )
    lines.append(
        f"{'':<22}together {limits['limit_ms']:.2f} ms, {limits['share_of_limit']:.0%} of the mean "
        f"step's {limits['mean_ms']:.2f} ms"
    )
    return lines


def _profile_lines(profile: dict[str, Any]) -> list[str]:
    period = profile["period"]
    phases = [f"t = {phase} (mod {period})" for phase in range(period)] if period > 1 else []
    head = f"{'where it goes, us':<38}{'mean':>9}{'share':>8}{'calls':>7}"
    lines = [head + "".join(f"{name:>14}" for name in phases)]

    def row(name: str, figures: dict[str, Any], share: str = "", calls: str = "") -> str:
        columns = "".join(f"{value:>14.1f}" for value in figures["by_phase_us"] if phases)
        return f"{name:<38}{figures['mean_us']:>9.1f}{share:>8}{calls:>7}{columns}".rstrip()

    for stage in profile["stages"]:
        lines.append(row(stage["stage"], stage, f"{stage['share']:.1%}"))
        if len(stage["kernels"]) > 1 or stage["kernels"][0]["kernel"] not in stage["stage"]:
            for kernel in stage["kernels"]:
                lines.append(row("  " + kernel["kernel"], kernel, "", f"{kernel['calls']:.1f}"))
    lines.append(row("step", profile["step_us"], "100%"))
    lines.append(
        f"(the faster half of {profile['steps']} noise frames; without these timers a step takes "
        f"{profile['unprofiled_us']:.1f} us)"
    )
    return lines


def _start_line(start: dict[str, Any]) -> str:
    name = "start, compiling" if start["compiled"] else "start, kernels cached"
    return (
        f"{name:<22}{start['total_s']:.2f} s: import {start['import_s']:.2f}, load "
        f"{start['load_s']:.2f}, prepare {start['prepare_s']:.2f}, first output "
        f"{start['first_output_s'] * 1e3:.1f} ms"
    )


# --- the picture -------------------------------------------------------------------------------


def _check_picture(path: str) -> None:
    """Refuse what no picture can be written to."""
    figure = _pyplot().figure()
    kinds = sorted(figure.canvas.get_supported_filetypes())
    _pyplot().close(figure)
    place = Path(path)
    if place.suffix[1:].lower() not in kinds:
        raise NpfsnError(
            f"--plot {path}: no kind of picture that can be drawn; expected a name that ends in "
            f"one of .{', .'.join(kinds)}"
        )
    if place.is_dir() or not place.parent.is_dir():
        what = "is a folder" if place.is_dir() else f"there is no folder {place.parent}"
        raise NpfsnError(f"--plot {path}: {what}; expected the name of a file to be written")


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise NpfsnError(
            "--plot needs matplotlib, which is not installed: pip install matplotlib"
        ) from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _draw(result: dict[str, Any], path: str) -> None:
    """Draw a few frames call by call, and every step of every case against the deadline."""
    plt = _pyplot()
    hop_ms = result["model"]["hop_ms"]
    timeline = result["timeline"]
    figure, (frames, steps) = plt.subplots(2, 1, figsize=(11, 7), layout="constrained")
    ranked = [row["stage"] for row in result["profile"]["stages"] if row["stage"] != _CONDUCTING]
    colours = {stage: plt.get_cmap("tab20")(i % 20) for i, stage in enumerate(ranked)}
    for i, frame in enumerate(timeline):
        frames.barh(i, frame["step_us"] / 1e3, color="0.85", height=0.8)
        for stage, start, end in frame["parts"]:
            frames.barh(
                i, (end - start) / 1e3, left=start / 1e3, height=0.8,
                color=colours.get(stage, "0.6"),
            )  # fmt: skip
    for stage in ranked[:12]:
        frames.barh(0, 0, color=colours[stage], label=stage)
    frames.barh(0, 0, color="0.85", label=_CONDUCTING)
    frames.invert_yaxis()
    frames.set(xlabel=f"ms of {hop_ms:g}", ylabel="frame", title="Consecutive frames, call by call")
    frames.legend(fontsize="small", ncol=2, loc="lower right")
    for name, times in result["steps_ms"].items():
        steps.plot(np.arange(times.shape[0]) * hop_ms / 1e3, times, ".", markersize=3, label=name)
    steps.axhline(hop_ms, color="tab:red", linewidth=1, label="deadline")
    steps.set(xlabel="s of signal", ylabel="ms per step", yscale="log", title="Every step")
    steps.legend(fontsize="small")
    model = result["model"]
    figure.suptitle(
        f"{model['architecture']}, {model['precision']}, {result['cpu']}, npfsn "
        f"{result['versions']['npfsn']}"
    )
    figure.savefig(path)
    plt.close(figure)
