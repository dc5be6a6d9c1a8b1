"""Measure npfsn and its peers side by side: contenders take turns in rounds of one run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

import npfsn
from npfsn.bench.limits import frame_work, limits
from npfsn.bench.machine import OtherLoad, machine
from npfsn.bench.start import fresh_start
from npfsn.bench.steps import no_collection, signals, summary, time_steps
from npfsn.weights import Model

from .onnx_graphs import CELLS, write_graphs
from .onnx_peer import onnx_peer
from .paper_models import MODELS, in_halves, paper_model
from .torch_peer import torch_peer

ROOT = Path(__file__).resolve().parents[2]
HOP_MS = 16.0
PRECISIONS = ("float32", "int8")
# Untimed steps at the start of a turn, which bring a contender's weights back into the caches.
SETTLE = 6
# Masks may differ by this share of the largest: enough for another order of summation.
AGREEMENT = 1e-4
START_STEPS = 300
# Floats of a row of the constant work: 96 KB, less than any second-level cache.
CONTROL_FLOATS = 24 * 1024


@dataclass
class Contender:
    """An implementation that processes frames one by one, and its times."""

    name: str
    step: Callable[[int], Any]
    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    frame: int = 0

    def turn(self, steps: int) -> None:
        """Process some frames; keep the times of all but the first ones."""
        wall, cpu, step = time.perf_counter_ns, time.thread_time_ns, self.step
        for i in range(SETTLE + steps):
            cpu_start, start = cpu(), wall()
            step(self.frame)
            end, cpu_end = wall(), cpu()
            if i >= SETTLE:
                self.kept.append(self.frame)
                self.wall_ms.append((end - start) / 1e6)
                self.cpu_ms.append((cpu_end - cpu_start) / 1e6)
            self.frame += 1

    def summary(self) -> dict[str, Any]:
        """Return the figures in wall time, and the same in CPU time of the thread.

        Also the medians of even and of odd frames, which differ if a part of the network runs at
        half the rate, and the p99 of frames over the mean of their own turn, which leaves out that
        the machine was slower in one turn than in another.
        """
        wall, cpu = np.array(self.wall_ms), summary(np.array(self.cpu_ms), HOP_MS)
        odd = np.array(self.kept) % 2 == 1
        turns = np.split(wall, np.flatnonzero(np.diff(self.kept) > 1) + 1)  # none keeps its first
        means = [float(turn.mean()) for turn in turns]
        in_turn = np.concatenate([turn / mean for turn, mean in zip(turns, means, strict=True)])
        return {
            **summary(wall, HOP_MS),
            "cpu_mean_ms": cpu["mean_ms"],
            "cpu_p99_ms": cpu["p99_ms"],
            "even_odd_ms": [float(np.median(wall[kind])) for kind in (~odd, odd)],
            "p99_in_turn": float(np.quantile(in_turn, 0.99)),
            "turn_means_ms": [min(means), max(means)],
        }


def constant_work(name: str, n_bytes: float, milliseconds: float) -> Contender:
    """Return a contender that does the same additions in every frame, for about the time asked.

    It reads as many bytes as asked once, as a step does its weights, and spends what is left of
    the time on additions in the nearer caches. Any variation of its time is due to the machine.
    """
    row = np.ones(CONTROL_FLOATS, np.float32)
    read = np.ones((max(round(n_bytes / row.nbytes), 1), CONTROL_FLOATS), np.float32)
    read_sums = np.zeros(len(read), np.float32)

    def additions(passes: int, reads: bool = True) -> Contender:
        rows, sums = np.broadcast_to(row, (passes, CONTROL_FLOATS)), np.zeros(passes, np.float32)

        def step(t: int) -> None:
            if reads:
                np.add.reduce(read, axis=1, out=read_sums)
            np.add.reduce(rows, axis=1, out=sums)

        return Contender(name, step)

    def median_ms(trial: Contender) -> float:
        trial.turn(50)
        return float(np.median(trial.wall_ms))

    # Each on its own: a difference of two times that memory dominates may be next to nothing.
    reading, of_100 = median_ms(additions(0)), median_ms(additions(100, reads=False))
    return additions(max(round(100 * (milliseconds - reading) / of_100), 0))


class Setting:
    """A model, the files for its peers, and the frames that all of them process."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.model: Model = paper_model(name)
        half = in_halves(self.model)
        path, half_path = folder / f"{name}.npz", folder / f"{name}-float16.npz"
        npfsn.save_model(self.model, path)
        npfsn.save_model(half, half_path)
        #: The variants of npfsn that are measured: a model, its file and the precision.
        self.ours = {
            "float32": (self.model, path, "float32"),
            "float32, float16 file": (half, half_path, "float32"),
            "int8": (self.model, path, "int8"),
        }
        self.tensors = {
            key: torch.from_numpy(np.array(value)) for key, value in self.model.tensors.items()
        }
        (folder / f"{name}-torch").mkdir()
        torch.save(self.tensors, folder / f"{name}-torch" / "weights.pt")
        for precision in PRECISIONS:
            for cells in CELLS:
                write_graphs(self.model, cells, precision == "int8", self.onnx(precision, cells))
        signal = signals(16.0, 16000)["speech"]
        self.hops = signal[: signal.shape[0] // 256 * 256].reshape(-1, 256)
        window = np.hanning(513)[:512]
        frames = np.concatenate([self.hops[:-1], self.hops[1:]], axis=1)
        mags = np.abs(np.fft.rfft(frames * window)).astype(np.float32)
        self.mags = mags[: mags.shape[0] // 2 * 2, None]  # [T, 1, F]
        self.signal = signal

    def onnx(self, precision: str, cells: str) -> Path:
        """Return the folder of the graphs."""
        return self.folder / f"{self.name}-onnx-{precision}-{cells}"

    def npfsn(self, which: str) -> Contender:
        """Return whole steps of npfsn, as one of `ours`."""
        enhancer = self.enhancer(which)
        out, n, hops = np.zeros(256, np.float32), len(self.hops), self.hops
        return Contender(f"npfsn {which}", lambda t: enhancer.step(hops[t % n], out))

    def enhancer(self, which: str) -> npfsn.Enhancer:
        """Return a stream, as one of `ours`."""
        model, _, precision = self.ours[which]
        return npfsn.Enhancer(model, precision=precision)

    def constant_work(self, which: str, steps: int) -> Contender:
        """Return work that reads as much as one of `ours` and takes as long."""
        works = frame_work(self.enhancer(which)).values()
        n_bytes = sum(work.row_bytes + work.bytes for work in works)
        trial = self.npfsn(which)
        trial.turn(steps)
        return constant_work(which, n_bytes, float(np.median(trial.wall_ms)))

    def enhance(self, which: str, signal: np.ndarray) -> Any:
        """Enhance a whole signal, as one of `ours`."""
        model, _, precision = self.ours[which]
        return npfsn.enhance(signal, 16000, model, precision=precision)

    def onnx_contender(self, precision: str, cells: str) -> Contender:
        """Return ONNX Runtime's network."""
        peer = onnx_peer(self.name, self.onnx(precision, cells))
        mags, n = self.mags, len(self.mags)
        return Contender(f"ONNX Runtime {precision}", lambda t: peer.step(mags[t % n]))

    def torch_contender(self) -> Contender:
        """Return PyTorch's network, step by step."""
        peer, mags = torch_peer(self.name, self.tensors), torch.from_numpy(self.mags)
        n = len(mags)
        return Contender("PyTorch float32, step by step", lambda t: peer.step(mags[t % n]))

    def npfsn_masks(self, which: str, n: int) -> np.ndarray:
        """Return the network's masks of the first frames."""
        network = self.enhancer(which)._stream._one.network_pass
        masks = []
        for t in range(n):
            network.mag[:] = self.mags[t]
            network.program.play(t, 1)
            masks.append(network.mask.reshape(-1).copy())
        return np.array(masks)

    def check(self, onnx_cells: dict[str, str]) -> dict[str, float]:
        """Compare all contenders' masks with npfsn's in float32; refuse if they differ.

        Returns
        -------
        dict
            Largest difference as a share of the largest mask value.
        """
        n = 41
        reference = self.npfsn_masks("float32", n)
        differences = {}

        def compare(name: str, masks: np.ndarray, exact: bool) -> None:
            share = float(np.abs(masks - reference).max() / np.abs(reference).max())
            differences[name] = share
            if exact and not share <= AGREEMENT:  # nor may it be NaN
                raise SystemExit(f"{self.name}: {name} computes another network ({share:.1e})")

        for precision, cells in onnx_cells.items():
            onnx = onnx_peer(self.name, self.onnx(precision, cells))
            masks = []
            for t in range(n):
                onnx.step(self.mags[t])
                masks.append(onnx.mask.numpy().reshape(-1).copy())
            compare(f"ONNX Runtime {precision}", np.array(masks), precision == "float32")
        mags = torch.from_numpy(self.mags[:n])
        peer = torch_peer(self.name, self.tensors)
        steps = np.array([peer.step(mag).numpy().copy() for mag in mags])
        compare("PyTorch float32, step by step", steps, True)
        compare("PyTorch float32, whole utterance", peer.whole(mags[:, 0]).numpy(), True)
        for which in list(self.ours)[1:]:
            compare(f"npfsn {which}", self.npfsn_masks(which, n), which != "int8")
        return differences


def measure(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure everything.

    Parameters
    ----------
    quick : bool
        Do as little as shows that it works.
    say : callable
        Called with messages on progress.

    Returns
    -------
    dict
        Serialisable as JSON; `report.render` makes the page from it.
    """
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # users have bytecode cached
    result: dict[str, Any] = {**machine(), "quick": quick, "models": {}}
    for name in ("onnx", "onnxruntime", "torch"):
        result["versions"][name] = metadata.version(name)
    started, busy = time.monotonic(), OtherLoad()
    with tempfile.TemporaryDirectory() as folder, no_collection():
        for name in MODELS:
            setting = Setting(name, Path(folder))
            model = result["models"][name] = _measure_model(setting, quick, say)
            if name == "fast_fullsubnet":
                result["starts"] = _starts(setting, model["onnx_cells"], quick, say)
        say("the built-in model and improved_fullsubnet: without a peer")
        result["built_in"] = _measure_alone(npfsn.load_model(), quick)
        result["improved"] = _measure_alone(paper_model("improved_fullsubnet"), quick)
    result["other_load"] = busy.share()
    result["seconds"] = time.monotonic() - started
    return result


def _measure_alone(model: Model, quick: bool) -> dict[str, Any]:
    """Time whole steps of a model that has no peer."""
    found: dict[str, Any] = {"parameters": model.n_parameters, "steps": {}}
    for precision in PRECISIONS:
        enhancer = npfsn.Enhancer(model, precision=precision)
        size = enhancer.frame_length
        noise = np.random.default_rng(0).normal(0.0, 0.1, (20 if quick else 500, size))
        frames = noise.astype(np.float32)
        time_steps(enhancer.step, frames[:20])
        times = time_steps(enhancer.step, frames)
        found["steps"][precision] = summary(times, 1e3 * size / enhancer.sample_rate)
    return found


def _measure_model(setting: Setting, quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure steps, whole files and limits of one network."""
    fast = setting.name == "fast_fullsubnet"
    say(f"{setting.name}: which way of writing it suits ONNX Runtime best")
    variants, onnx_cells = _choose_cells(setting, 10 if quick else 40)
    say(f"{setting.name}: whether all compute the same network")
    differences = setting.check(onnx_cells)

    # Enough frames that p99 does not depend on a few of them.
    rounds, steps = (2, 10) if quick else (40, 100 if fast else 40)
    say(f"{setting.name}: {rounds} rounds of {steps} steps each")
    racing = [setting.npfsn(which) for which in setting.ours]
    racing += [setting.onnx_contender(*item) for item in onnx_cells.items()]
    racing.append(setting.torch_contender())
    controls = [setting.constant_work(which, steps) for which in setting.ours] if fast else []
    contenders, order = [*racing, *controls], np.random.default_rng(0)
    for _ in range(rounds):
        # The previous contender affects caches and clocks: the order is drawn anew each round.
        for index in order.permutation(len(contenders)):
            contender = contenders[index]
            # PyTorch is far slower: fewer of its steps tell as much and leave time for the others.
            contender.turn(max(steps // 3, 1) if "PyTorch" in contender.name else steps)
    figures = {contender.name: contender.summary() for contender in racing}

    seconds = 2.0 if quick else 10.0 if fast else 3.0
    rounds = 1 if quick else 10 if fast else 3
    say(f"{setting.name}: {rounds} rounds of a whole file of {seconds:g} s")
    whole = _whole_files(setting, seconds, rounds)
    return {
        "parameters": setting.model.n_parameters,
        "onnx_cells": onnx_cells,
        "onnx_variants_ms": variants,
        "differences": differences,
        "steps": figures,
        "control": {contender.name: contender.summary() for contender in controls},
        "whole_seconds": seconds,
        "whole_ms_per_frame": whole,
        "limits": {
            which: limits(setting.enhancer(which), figures[f"npfsn {which}"]["mean_ms"], quick)
            for which in setting.ours
        },
    }


def _choose_cells(setting: Setting, steps: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Time the ways of writing recurrent layers; return the times and the faster for each."""
    contenders = {
        (precision, cells): setting.onnx_contender(precision, cells)
        for precision in PRECISIONS
        for cells in CELLS
    }
    for _ in range(3):
        for contender in contenders.values():
            contender.turn(steps)
    times = {key: float(np.mean(contender.cpu_ms)) for key, contender in contenders.items()}
    best = {p: min(CELLS, key=lambda cells, p=p: times[p, cells]) for p in PRECISIONS}  # type: ignore[misc]
    return {f"{p} {cells}": time for (p, cells), time in times.items()}, best


def _whole_files(setting: Setting, seconds: float, rounds: int) -> dict[str, Any]:
    """Time whole signals, ms per frame: `npfsn.enhance` and PyTorch's network, in turns."""
    n = int(seconds * 16000) // 512 * 512
    signal = setting.signal[:n]
    mags = torch.from_numpy(setting.mags[: n // 256 + 1, 0])
    mags = mags[: (mags.shape[0] - 1) // 2 * 2 + 1]
    peer = torch_peer(setting.name, setting.tensors)
    runs: dict[str, Callable[[], Any]] = {}
    for which in setting.ours:
        runs[f"npfsn {which}"] = partial(setting.enhance, which, signal)
    runs["PyTorch float32, whole utterance"] = partial(peer.whole, mags)
    times: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            cpu_start, start = time.thread_time(), time.perf_counter()
            run()
            times[name].append((time.perf_counter() - start) * 1e3 / mags.shape[0])
            cpu[name].append((time.thread_time() - cpu_start) * 1e3 / mags.shape[0])
    return {
        name: {
            "mean_ms": float(np.mean(times[name])),
            "min_ms": min(times[name]),
            "cpu_mean_ms": float(np.mean(cpu[name])),
        }
        for name in runs
    }


def _starts(
    setting: Setting, onnx_cells: dict[str, str], quick: bool, say: Callable[[str], None]
) -> dict[str, Any]:
    """Start fresh processes in turns; keep the quickest start and the most memory of each."""
    starts: dict[str, Callable[[], dict[str, Any]]] = {}
    for which, (_, path, precision) in setting.ours.items():
        starts[f"npfsn {which}"] = partial(
            fresh_start, path, precision=precision, steps=START_STEPS
        )
    for precision, cells in onnx_cells.items():
        graphs = setting.onnx(precision, cells)
        starts[f"ONNX Runtime {precision}"] = partial(_start_peer, "onnx", setting.name, graphs)
    weights = setting.folder / f"{setting.name}-torch"
    starts["PyTorch float32"] = partial(_start_peer, "torch", setting.name, weights)
    rounds = 1 if quick else 3
    say(f"{setting.name}: {rounds} rounds of starts")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in starts}
    for turn in range(rounds + 1):
        for name, start in starts.items():
            one = start()
            if turn:  # the first turn fills the caches
                found[name].append(one)
    result = {
        name: {
            **min(each, key=lambda one: float(one["total_s"])),
            "memory_mb": max(one["memory_mb"] for one in each),
        }
        for name, each in found.items()
    }
    if not quick:
        say(f"{setting.name}: a start that compiles")
        with tempfile.TemporaryDirectory() as folder:
            one = fresh_start(setting.ours["float32"][1], cache=folder, steps=1)
        result["npfsn float32, compiling"] = one
    return result


def _start_peer(peer: str, architecture: str, folder: Path) -> dict[str, Any]:
    """Start a fresh process of a peer."""
    command = [sys.executable, "-W", "ignore", "-m", "tools.bench.start"]
    arguments = [peer, architecture, str(folder), str(START_STEPS)]
    started = time.time()
    done = subprocess.run(command + arguments, cwd=ROOT, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    result["total_s"] = result.pop("ready") - started
    return result
