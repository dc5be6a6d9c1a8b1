"""Run hours of sound through one stream and see that nothing about it changes.

    python -m tools.soak                       # an hour, beside a float64 reference
    python -m tools.soak --hours 8 --picture soak.png --json soak.json
    python -m tools.soak --model weights/fast_fullsubnet.npz --no-reference
    python -m tools.soak --silence             # what silence costs beside speech

The sound is drawn from a seed: speech-like tones, noise, digital silence, clicks, and jumps of
level by up to 80 dB. The reference (`Reference`) is Fast FullSubNet in float64 NumPy, made of the
cells of tests/reference.py. It runs alongside the stream for the whole time, so that the difference
shows drift and not the error of one frame. Steps are timed in wall time and in CPU time of the
thread; the latter excludes other load.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import drawn_models  # noqa: E402
import reference as ref  # noqa: E402

import npfsn  # noqa: E402
from npfsn.bench.start import peak_memory_mb  # noqa: E402
from npfsn.terminal import number  # noqa: E402
from tools.results import picture_file, result_file  # noqa: E402

KINDS = ("speech", "noise", "silence", "faint", "clicks")
BLOCK_SECONDS = 10


class Scene:
    """An endless signal, drawn from a seed, in blocks of one kind each.

    Parameters
    ----------
    seed : int
    sample_rate : int
    """

    def __init__(self, seed: int, sample_rate: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.sample_rate = sample_rate
        self.level = 0.1

    def block(self, n: int, kind: str | None = None) -> tuple[str, np.ndarray]:
        """Return a kind and `n` samples of it, float32, within full scale."""
        rng = self.rng
        if kind is None:
            kind = str(rng.choice(KINDS, p=(0.5, 0.2, 0.15, 0.05, 0.1)))
        if rng.random() < 0.3:  # the level jumps, and stays there
            self.level = float(10.0 ** rng.uniform(-4.5, -0.5))
        if kind == "silence":
            return kind, np.zeros(n, np.float32)
        if kind == "faint":
            return kind, (rng.standard_normal(n) * 1e-40).astype(np.float32)
        noise = rng.standard_normal(n)
        if kind == "clicks":
            x = 0.01 * noise
            x[rng.integers(0, n, 20)] += rng.choice((-30.0, 30.0), 20)
        elif kind == "noise":
            x = noise
        else:
            t = np.arange(n) / self.sample_rate
            pitch = 120.0 * (1.0 + 0.2 * np.sin(2 * np.pi * 0.7 * t))
            phase = 2 * np.pi * np.cumsum(pitch) / self.sample_rate
            x = sum((np.sin(k * phase) / k for k in range(1, 16)), np.zeros(n))
            x *= np.maximum(np.sin(2 * np.pi * 2.3 * t + rng.uniform(0, 6)), 0.0) ** 2
            x += 0.02 * noise
        return kind, np.clip(self.level * x, -1.0, 1.0).astype(np.float32)


class RunningNorm:
    """A causal norm of `tests/reference.py`, frame by frame.

    Parameters
    ----------
    name : str
        One of the three causal norms.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.total: Any = 0.0
        self.square: Any = 0.0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Normalise one frame [B, C]."""
        if self.name == "forgetting_norm":
            longest = 191 / 193
            past = min((self.count - 1) / (self.count + 1), longest)
            self.count += 1
            self.total = past * self.total + (1.0 - past) * x.mean()
            return x / (self.total + 1e-10)
        self.count += 1
        n = self.count * x.shape[1]
        self.total = self.total + x.sum(axis=1)
        mean = self.total / n
        if self.name == "cumulative_laplace_norm":
            return x / (mean + ref.FLOAT32_EPS)[:, None]
        self.square = self.square + (x**2).sum(axis=1)
        var = np.maximum((self.square - 2.0 * mean * self.total) / n + mean**2, 0.0)
        return (x - mean[:, None]) / np.sqrt(var + ref.FLOAT32_EPS)[:, None]


class Stack:
    """A stack of LSTM or GRU layers with its output layer, frame by frame, float64."""

    def __init__(self, params: dict[str, np.ndarray], prefix: str, spec: Any) -> None:
        self.cell, self.activation = spec.cell, spec.activation
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        self.layers = [
            [params[f"{prefix}.sequence_model.{kind}_l{i}"].astype(np.float64) for kind in kinds]
            for i in range(spec.num_layers)
        ]
        self.states: list[Any] = [None] * spec.num_layers
        self.linear, self.slope = None, params.get(f"{prefix}.activate_function.weight")
        if spec.output_size:
            self.linear = [
                params[f"{prefix}.fc_output_layer.{kind}"].astype(np.float64)
                for kind in ("weight", "bias")
            ]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Run one frame [B, C]."""
        for i, weights in enumerate(self.layers):
            zeros = np.zeros((x.shape[0], weights[1].shape[1]))
            if self.cell == "LSTM":
                h, c = self.states[i] or (zeros, zeros)
                self.states[i] = ref.lstm_step(x, h, c, *weights)
                x = self.states[i][0]
            else:
                h = zeros if self.states[i] is None else self.states[i]
                x = self.states[i] = ref.gru_step(x, h, *weights)
        if self.linear is not None:
            x = ref.activate(ref.linear(x, *self.linear), self.activation, self.slope)
        return x


class Reference:
    """Fast FullSubNet hop by hop in float64, from the formulas of `tests/reference.py`.

    Parameters
    ----------
    model : Model
        Its window must be two hops long.
    """

    def __init__(self, model: npfsn.Model) -> None:
        config = self.config = model.config
        if model.architecture != "fast_fullsubnet" or config.n_fft != 2 * config.hop_length:
            raise ValueError(
                "the reference is of Fast FullSubNet with a window of two hops: other models run "
                "with --no-reference"
            )
        params = dict(model.tensors)
        self.fb = params["mel_scale.fb"].astype(np.float64)
        self.fb_norm, self.sb_norm = RunningNorm(config.norm_type), RunningNorm(config.norm_type)
        self.encoder = [Stack(params, f"encoder.{i}", s) for i, s in enumerate(config.encoder)]
        self.bottleneck = Stack(params, "bottleneck", config.bottleneck)
        self.decoder = [Stack(params, f"decoder_lstm.{i}", s) for i, s in enumerate(config.decoder)]
        n_mel, near = config.num_mels, config.noisy_input_num_neighbors
        far = config.encoder_output_num_neighbors
        self.near = self._neighbors(n_mel, near)
        self.far = self._neighbors(n_mel, far)
        self.window = ref.periodic_hann(config.n_fft)
        self.before: np.ndarray | None = None  # the previous hop
        self.frame = 0
        self.sum = np.zeros((n_mel, config.bottleneck.input_size))
        self.held = np.zeros(n_mel)
        self.waiting: list[np.ndarray] = []  # spectra whose masks are still to come
        self.ola = np.zeros(config.n_fft)
        self.env = np.zeros(config.n_fft)

    @staticmethod
    def _neighbors(n: int, reach: int) -> np.ndarray:
        """Return the indices [B, C] of every unit's neighbourhood."""
        return np.array(
            [[ref.reflect(i + j, n) for j in range(-reach, reach + 1)] for i in range(n)]
        )

    def push(self, x: np.ndarray) -> np.ndarray:
        """Take a hop and return one, with the latency of the engine."""
        hop = self.config.hop_length
        before, self.before = self.before, x.astype(np.float64)
        if before is None:
            return np.zeros(hop)
        samples = np.concatenate([before, self.before])
        if self.frame == 0:  # the first frame is reflected about sample 0
            self._run(np.concatenate([samples[hop:0:-1], before]))
        done = self._run(samples)
        return np.zeros(hop) if done is None else done

    def _run(self, samples: np.ndarray) -> np.ndarray | None:
        """Run a frame; return a hop once there is one."""
        spec = np.fft.rfft(self.window * samples)
        self.waiting.append(spec)
        mask = self._mask(np.abs(spec))
        if len(self.waiting) <= self.config.look_ahead:
            return None
        gain = ref.decompress_mask(mask)
        clean = self.waiting.pop(0) * (gain[0] + 1j * gain[1])
        hop = self.config.hop_length
        self.ola += self.window * np.fft.irfft(clean, self.config.n_fft)
        self.env += self.window**2
        with np.errstate(invalid="ignore", divide="ignore"):
            out = np.where(self.env > 0, self.ola / self.env, 0.0)[:hop]
        for buffer in (self.ola, self.env):
            buffer[:-hop] = buffer[hop:]
            buffer[-hop:] = 0.0
        # The first output hop lies before sample 0.
        return None if self.frame == self.config.look_ahead + 1 else out

    def _mask(self, mag: np.ndarray) -> np.ndarray:
        """Run the network on one frame [F]; return [2, F]."""
        config = self.config
        mel = mag @ self.fb  # [B]
        enc = self.fb_norm(mel[None])
        for stack in self.encoder:
            enc = stack(enc)
        enc = enc[0]  # [B]
        self.sum += np.concatenate([mel[self.near], enc[self.far]], axis=1)
        if self.frame % config.shrink_size == 0:
            size = 1 if self.frame == 0 else config.shrink_size
            self.held = self.bottleneck(self.sb_norm(self.sum / size))[:, 0]
            self.sum[:] = 0.0
        self.frame += 1
        dec = np.concatenate([enc, self.held])[None]
        for stack in self.decoder:
            dec = stack(dec)
        return dec.reshape(2, -1)


@dataclass
class Soak:
    """Measurements of a run.

    Parameters
    ----------
    minutes : float
    drift : list of float
        Largest difference from the reference in every minute; full scale is 1. Empty without one.
    p50, p99, cpu_p99 : list of float
        Microseconds per step in every minute: wall time, and CPU time of the thread.
    rss : list of int
        Resident memory at the end of every minute, bytes.
    kinds : dict of str to list of float
        Median and 99th percentile of CPU time by kind of sound, microseconds.
    """

    minutes: float = 0.0
    drift: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    cpu_p99: list[float] = field(default_factory=list)
    rss: list[int] = field(default_factory=list)
    kinds: dict[str, list[float]] = field(default_factory=dict)
    first_p99: float = 0.0
    last_p99: float = 0.0
    first_cpu_p99: float = 0.0
    last_cpu_p99: float = 0.0
    peak: float = 0.0


def rss() -> int:
    """Return the resident memory of this process, bytes; where only its peak is known, that."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux
        return int(peak_memory_mb() * 1e6)


def soak(
    model: npfsn.Model, minutes: float, seed: int, *, compare: bool = True, progress: bool = False
) -> Soak:
    """Run a stream.

    Parameters
    ----------
    model : Model
    minutes : float
        Length of the sound.
    seed : int
    compare : bool
        Whether to run the reference alongside.
    progress : bool
        Report progress every ten minutes, and every minute of the first ten.

    Returns
    -------
    Soak
    """
    enhancer = npfsn.Enhancer(model)
    beside = Reference(model) if compare else None
    scene = Scene(seed, enhancer.sample_rate)
    hop = enhancer.frame_length
    per_block = BLOCK_SECONDS * enhancer.sample_rate // hop
    n_block = max(round(minutes * 60 / BLOCK_SECONDS), 1)
    per_minute = 60 // BLOCK_SECONDS
    # Allocated and written at the start: pages that are mapped later would look like a leak.
    wall, cpu = (np.full((n_block, per_block), np.nan) for _ in range(2))
    errors, found, kinds = np.zeros(n_block), Soak(minutes=minutes), []
    out = np.zeros(hop, np.float32)
    clock, thread = time.perf_counter_ns, time.thread_time_ns
    for block in range(n_block):
        kind, x = scene.block(per_block * hop)
        kinds.append(kind)
        for i in range(per_block):
            frame = x[i * hop : (i + 1) * hop]
            t0, c0 = clock(), thread()
            enhancer.step(frame, out)
            c1, t1 = thread(), clock()
            wall[block, i], cpu[block, i] = (t1 - t0) / 1e3, (c1 - c0) / 1e3
            if beside is not None:
                expected = beside.push(frame)
                errors[block] = np.maximum(errors[block], np.abs(out - expected).max())
                found.peak = max(found.peak, float(np.abs(expected).max()))
        if (block + 1) % per_minute == 0:
            minute = slice(block + 1 - per_minute, block + 1)
            found.p50.append(float(np.median(wall[minute])))
            found.p99.append(float(np.percentile(wall[minute], 99)))
            found.cpu_p99.append(float(np.percentile(cpu[minute], 99)))
            if compare:
                found.drift.append(float(errors[minute].max()))
            found.rss.append(rss())
            if progress and (len(found.rss) <= 10 or len(found.rss) % 10 == 0):
                print(f"{len(found.rss)} min: {_line(found)}", file=sys.stderr, flush=True)
    ten = min(10 * per_minute, n_block // 2 or 1)
    for name, times in (("p99", wall), ("cpu_p99", cpu)):
        setattr(found, f"first_{name}", float(np.percentile(times[:ten], 99)))
        setattr(found, f"last_{name}", float(np.percentile(times[-ten:], 99)))
    for kind in sorted(set(kinds)):
        times = cpu[[k == kind for k in kinds]]
        found.kinds[kind] = [float(np.median(times)), float(np.percentile(times, 99))]
    return found


def silence_cost(model: npfsn.Model, seed: int) -> dict[str, list[float]]:
    """Time steps on ten minutes of speech, then of digital silence, then of noise of 1e-40.

    Returns
    -------
    dict of str to list of float
        Median and 99th percentile of CPU time, microseconds.
    """
    enhancer = npfsn.Enhancer(model)
    scene = Scene(seed, enhancer.sample_rate)
    hop = enhancer.frame_length
    found = {}
    for kind in ("speech", "silence", "faint"):
        _, x = scene.block(10 * 60 * enhancer.sample_rate // hop * hop, kind)
        times = []
        for at in range(0, len(x), hop):
            started = time.thread_time_ns()
            enhancer.step(x[at : at + hop])
            times.append((time.thread_time_ns() - started) / 1e3)
        found[kind] = [float(np.median(times)), float(np.percentile(times, 99))]
    return found


def _line(found: Soak) -> str:
    drift = f"drift {np.max(found.drift):.1e}, " if found.drift else ""
    return (
        f"{drift}p99 {found.p99[-1]:.0f} us (CPU "
        f"{found.cpu_p99[-1]:.0f} us), memory {found.rss[-1] / 2**20:.1f} MiB"
    )


def report(found: Soak) -> str:
    """Return the result in words."""
    growth = ""
    if len(found.rss) > 2:
        growth = f"; growth after the second minute {(found.rss[-1] - found.rss[1]) / 1024:.0f} KiB"
    part = "ten minutes" if found.minutes >= 20 else "half"
    lines = [f"{found.minutes:g} minutes of sound"]
    if found.drift:
        lines.append(
            f"drift: largest difference {np.max(found.drift):.2e} of full scale (output peaks at "
            f"{found.peak:.2f}); first minute {found.drift[0]:.2e}, last {found.drift[-1]:.2e}"
        )
    lines += [
        f"memory: {found.rss[0] / 2**20:.2f} MiB after one minute, {found.rss[-1] / 2**20:.2f} at "
        f"the end, most {max(found.rss) / 2**20:.2f}{growth}",
        f"p99 of a step: first {part} {found.first_p99:.1f} us, last {part} {found.last_p99:.1f} "
        f"({_change(found.first_p99, found.last_p99)}); CPU time {found.first_cpu_p99:.1f} and "
        f"{found.last_cpu_p99:.1f} us ({_change(found.first_cpu_p99, found.last_cpu_p99)})",
    ]
    for kind, (median, high) in found.kinds.items():
        lines.append(f"  {kind}: CPU time median {median:.1f} us, p99 {high:.1f} us")
    return "\n".join(lines)


def _change(first: float, last: float) -> str:
    """Return by how much a time has grown; CPU time on Windows has a resolution of 16 ms."""
    return f"{last / first - 1:+.1%}" if first else "too short for this clock"


def draw(found: Soak, path: str | Path) -> None:
    """Draw drift, time and memory over the minutes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    minutes = np.arange(1, len(found.rss) + 1)
    if found.drift:
        axes[0].semilogy(minutes, np.maximum(found.drift, 1e-12))
    axes[0].axhline(1e-4, color="gray", linestyle=":")
    axes[0].set_ylabel("difference from float64,\nof full scale")
    axes[1].plot(minutes, found.p99, label="p99, clock")
    axes[1].plot(minutes, found.cpu_p99, label="p99, CPU time")
    axes[1].plot(minutes, found.p50, label="median, clock")
    axes[1].set_ylabel("a step, us")
    axes[1].set_ylim(bottom=0)
    axes[1].legend()
    axes[2].plot(minutes, np.array(found.rss) / 2**20)
    axes[2].set_ylim(bottom=0)
    axes[2].set_ylabel("resident memory, MiB")
    axes[2].set_xlabel("minutes of sound")
    figure.savefig(path, dpi=100)


def main(argv: list[str] | None = None) -> int:
    """Run as the module's docstring says; 1 if what must hold does not."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.soak", description=(__doc__ or "").split("\n\n")[0]
    )
    hours = number(float, 1 / 60, 1000.0, "a number of hours from a minute (0.0167) to 1000")
    parser.add_argument("--hours", type=hours, default=1.0, help="hours of sound (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sound (default: 0)")
    parser.add_argument(
        "--model",
        help="file of a model that streams; all but Fast FullSubNet need --no-reference; default: "
        "a small network with drawn weights",
    )
    parser.add_argument("--no-reference", action="store_true", help="check only time and memory")
    parser.add_argument(
        "--silence",
        action="store_true",
        help="only time ten minutes each of speech and of two silences",
    )
    parser.add_argument("--json", metavar="FILE", type=result_file, help="also write the figures")
    parser.add_argument("--picture", metavar="FILE", type=picture_file, help="also draw them")
    args = parser.parse_args(argv)
    if args.silence and (args.json or args.picture):
        parser.error("--silence only prints: leave --json and --picture out")
    if args.model:
        try:
            model = npfsn.load_model(args.model)
        except npfsn.NpfsnError as error:
            parser.exit(1, f"{error}\n")
        # The reference is the published arithmetic.
        model = replace(model, config=model.config.as_published())
    else:
        model = drawn_models.small_model("fast_fullsubnet")
    try:
        return _run(model, args)
    except (npfsn.NpfsnError, ValueError) as error:
        parser.exit(1, f"tools.soak: {error}\n")


def _run(model: npfsn.Model, args: argparse.Namespace) -> int:
    """Do what the arguments ask for."""
    if args.silence:
        costs = silence_cost(model, args.seed)
        for kind, (median, high) in costs.items():
            of_median, of_p99 = median / costs["speech"][0], high / costs["speech"][1]
            print(
                f"{kind}: median {median:.1f} us ({of_median:.2f} of speech), "
                f"p99 {high:.1f} us ({of_p99:.2f})"
            )
        return 0
    compare = not args.no_reference
    found = soak(model, 60 * args.hours, args.seed, compare=compare, progress=True)
    print(report(found))
    if args.json:
        args.json.write_text(json.dumps(asdict(found), indent=1))
    if args.picture:
        draw(found, args.picture)
    return int(compare and not np.max(found.drift) < 1e-4)


if __name__ == "__main__":
    sys.exit(main())
