"""Training in slices of any length, which together give exactly the result of one long run."""

from __future__ import annotations

import copy
import io
import itertools
import json
import math
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.utils.data
from torch import Tensor

import npfsn
from npfsn.output import complete_or_absent

from .loss import loss, total
from .mix import Mixer, load_mixer
from .model import (
    FastFullSubNet,
    ModelArgs,
    bottleneck_size,
    enhance,
    read_checkpoint,
    stft,
)
from .pool import SAMPLE_RATE

LENGTHS = (2.0, 3.0, 3.0, 3.0, 4.0, 4.0, 5.0, 8.0)
# Steps between two lines of figures.
REPORT_EVERY = 20


@dataclass(frozen=True)
class TrainConfig:
    """The settings that determine a run.

    Parameters
    ----------
    steps : int
        Last step of the schedule.
    decay_steps : int
        How many of the last steps bring the learning rate down to nearly zero. Before these it is
        constant, so that ``steps`` may be changed during a run.
    batch_seconds : float
        Audio per step.
    reuse : int
        Steps for which a batch is used: in all but the first, its items exchange their noise.
    """

    seed: int = 1
    steps: int = 14_000
    decay_steps: int = 5_000
    warmup_steps: int = 300
    batch_seconds: float = 40.0
    reuse: int = 1
    learning_rate: float = 1e-3
    final_rate: float = 1e-5
    weight_decay: float = 1e-2
    clip_norm: float = 2.0
    ema: float = 0.998
    over_suppression: float = 0.5
    validation_items: int = 60


def rate_at(step: int, config: TrainConfig) -> float:
    """Return the learning rate of a step: warm-up, constant, cosine to nearly zero."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    done = (step - (config.steps - config.decay_steps)) / max(1, config.decay_steps)
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, done))))
    return config.final_rate + (config.learning_rate * warm - config.final_rate) * fall


def batch(
    mixer: Mixer, step: int, seconds: float, rank: int = 0, ranks: int = 1
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return a rank's items of one step, all of the same random length.

    Returns
    -------
    noisy, target : ndarray, shape (items, samples), float32
    share : float
        This rank's part of the step's items.
    """
    rng = np.random.default_rng([mixer.seed, step, 1])
    length = min(LENGTHS[rng.integers(len(LENGTHS))], seconds / ranks)
    count = max(ranks, round(seconds / length))
    samples = int(length * SAMPLE_RATE)
    items = [mixer.item(step * 1_000 + k, samples) for k in range(rank, count, ranks)]
    noisy, target = np.stack([i.noisy for i in items]), np.stack([i.target for i in items])
    return noisy, target, len(items) / count


class _Batches(torch.utils.data.Dataset[tuple[np.ndarray, np.ndarray]]):
    """Whole batches by number, for processes that mix while an accelerator computes."""

    def __init__(self, mixer: Mixer, seconds: float) -> None:
        self.mixer, self.seconds = mixer, seconds

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        return batch(self.mixer, number, self.seconds)[:2]


def batches(
    mixer: Mixer, config: TrainConfig, first: int, rank: int, ranks: int, workers: int
) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Yield the batches from number ``first`` on, as `batch`, mixed by ``workers`` if any.

    The batches do not depend on the number of processes.
    """
    if not workers:
        for number in itertools.count(first):
            noisy, target, share = batch(mixer, number, config.batch_seconds, rank, ranks)
            yield torch.from_numpy(noisy), torch.from_numpy(target), share
    loader = torch.utils.data.DataLoader(
        _Batches(mixer, config.batch_seconds),
        batch_size=None,
        sampler=range(first, config.steps // config.reuse + 1),
        num_workers=workers,
    )
    for noisy, target in loader:
        yield noisy, target, 1.0


def swapped(noisy: Tensor, target: Tensor, seed: list[int]) -> Tensor:
    """Exchange the noise between items of a batch, at new ratios.

    Parameters
    ----------
    noisy, target : Tensor, shape (items, samples)

    Returns
    -------
    Tensor, same shape
        Noisy items for the same targets, clipped at full scale.
    """
    rng = np.random.default_rng(seed)
    items = len(noisy)
    noise = (noisy - target).roll(int(rng.integers(1, items)), 0) if items > 1 else noisy - target
    ratio_db = torch.from_numpy(rng.uniform(-5, 20, (items, 1))).to(noisy)
    heard, power = (x.square().mean(-1, keepdim=True) for x in (target, noise))
    # Items without speech get the noise at its own level; items without noise have none to give.
    gain = (heard / (power + 1e-12)).sqrt() * 10 ** (-ratio_db / 20)
    mixed = target + noise * torch.where(heard > 1e-9, gain, 1.0)
    return mixed.clamp(-1.0, 1.0)


class Run:
    """A training run: all state that a checkpoint holds."""

    def __init__(self, args: ModelArgs, config: TrainConfig, device: str = "cpu") -> None:
        torch.manual_seed(config.seed)
        self.args, self.config = args, config
        self.model = FastFullSubNet(args).to(device).train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            config.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=config.weight_decay,
        )
        self.average = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.step = 0
        self.best = -math.inf

    def update(
        self, x: Tensor, s: Tensor, share: float = 1.0, stop: bool = False
    ) -> tuple[dict[str, float], bool]:
        """Train one step on one batch, or on this rank's ``share`` of it.

        Parameters
        ----------
        x, s : Tensor, shape (items, samples)
            Noisy items and their targets, on the network's device.

        Returns
        -------
        figures : dict of str to float
            Terms of the loss on this rank's items, and the gradient's norm.
        stop : bool
            Whether any rank was asked to stop.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.step, self.config)
        terms = loss(self.model(stft(x).abs()), x, s, self.config.over_suppression)
        value = total(terms)
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        if share < 1.0:
            stop = self._reduce(share, stop)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.step += 1
        keep = min(self.config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, tensor in self.model.state_dict().items():
                self.average[name].lerp_(tensor, 1 - keep)
        figures = {**terms, "loss": value, "norm": norm}
        numbers = torch.stack([figure.detach() for figure in figures.values()]).tolist()
        return dict(zip(figures, numbers, strict=True)), stop

    def _reduce(self, share: float, stop: bool) -> bool:
        """Sum the ranks' gradients, weighted by share, and their stop flags, in one reduction."""
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        flat = torch.cat([grad.flatten() * share for grad in grads] + [torch.tensor([float(stop)])])
        dist.all_reduce(flat)
        at = 0
        for grad in grads:
            grad.copy_(flat[at : at + grad.numel()].view_as(grad))
            at += grad.numel()
        return bool(flat[-1] > 0)

    def averaged(self) -> FastFullSubNet:
        """Build the network with the averaged weights, for judging."""
        model = copy.deepcopy(self.model).eval()
        model.load_state_dict(self.average)
        return model

    def save(self, path: Path, average: bool) -> None:
        """Write a checkpoint in the published form, all of it or nothing."""
        content = {
            "epoch": self.step,
            "best_score": self.best,
            "optimizer": self.optimizer.state_dict() if not average else {},
            "scaler": {},
            "model": _on_cpu(self.average if average else self.model.state_dict()),
        }
        if not average:
            content["average"] = _on_cpu(self.average)
        saved = io.BytesIO()  # errors of a disk have no names in torch
        torch.save(content, saved)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with complete_or_absent(path, overwrite=True) as partial:
                partial.write_bytes(saved.getbuffer())
        except OSError as error:
            raise OSError(f"{path} cannot be written: {error.strerror}") from None

    def restore(self, path: Path) -> None:
        """Resume from a checkpoint exactly where it was saved.

        Raises
        ------
        ValueError
            It is damaged, or of another network.
        """
        try:
            content = read_checkpoint(path)
            size, own = bottleneck_size(content["model"], path), self.args.bottleneck_hidden_size
            if size != own:
                raise ValueError(f"{path} goes on with --bottleneck {size}, not {own}")
            self.model.load_state_dict(content["average"])
            self.average = {k: v.clone() for k, v in self.model.state_dict().items()}
            self.model.load_state_dict(content["model"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.step, self.best = content["epoch"], content["best_score"]
        except (KeyError, RuntimeError, TypeError, AttributeError):
            raise ValueError(f"{path} is of another network, or no checkpoint of a run") from None

    def begin_from(self, path: Path) -> None:
        """Start at step 0 from a model file or a checkpoint, with averaged weights if any.

        Raises
        ------
        ValueError
            It is damaged, of another architecture, or larger than this network.
        """
        if path.suffix == ".npz":
            tensors = npfsn.load_model(path).tensors
            weights = {name: torch.tensor(np.float32(value)) for name, value in tensors.items()}
        else:
            content = read_checkpoint(path)
            weights = content.get("average") or content["model"]
        size, most = bottleneck_size(weights, path), self.args.bottleneck_hidden_size
        if size > most:
            raise ValueError(f"{path} has a bottleneck of {size}: --bottleneck {most} is too small")
        own = self.model.state_dict()
        try:
            weights = {name: grown(weights[name], own[name]) for name in own}
        except (KeyError, RuntimeError, TypeError, AttributeError):
            raise ValueError(f"{path} is of another network") from None
        # Not a weight, and rounded in files of half precision.
        weights["mel_scale.fb"] = self.model.mel_scale.fb
        self.model.load_state_dict(weights)
        self.average = {k: v.clone() for k, v in self.model.state_dict().items()}


def begun(
    work: Path, args: ModelArgs, config: TrainConfig, start_from: Path | None, device: str = "cpu"
) -> Run:
    """Resume the run under ``work``, or start one, as `train` does.

    Raises
    ------
    ValueError
        Its last checkpoint, or the file to start from, cannot be used.
    """
    run = Run(args, config, device)
    latest = work / "checkpoints/latest_model.tar"
    if latest.exists():
        try:
            run.restore(latest)
        except ValueError as error:
            best = latest.with_name("best_model.tar")
            hint = f", for example with --start-from {best}" if best.exists() else ""
            raise ValueError(
                f"{error}; or give another --work, or move it away to start anew{hint}"
            ) from None
    elif start_from is not None:
        run.begin_from(start_from)
    return run


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to the CPU, so that every machine can load them."""
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def grown(weight: Tensor, drawn: Tensor) -> Tensor:
    """Put a smaller network's tensor into a larger one's, so that both compute the same.

    New units start with the input weights drawn for them, but nothing uses their outputs yet.
    Recurrent matrices and biases have four parts, one for each gate; with one part, only the inputs
    grow.

    Parameters
    ----------
    weight : Tensor, shape (outputs, inputs) or (outputs,)
    drawn : Tensor, shape (more outputs, more inputs) or (more outputs,)
    """
    if weight.shape == drawn.shape:
        return weight
    out = drawn.detach().cpu().clone()
    gates = 4 if weight.shape[0] != drawn.shape[0] else 1
    old, new = (x.reshape(gates, x.shape[0] // gates, -1) for x in (weight.cpu(), out))
    units, inputs = old.shape[1:]
    new[:, :units, :inputs] = old
    new[:, :units, inputs:] = 0.0
    return out


def si_sdr(estimate: np.ndarray, target: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio, dB."""
    scale = np.dot(estimate, target) / (np.dot(target, target) + 1e-12)
    clean = scale * target
    rest = estimate - clean
    return float(10 * np.log10((clean @ clean + 1e-12) / (rest @ rest + 1e-12)))


def validate(model: FastFullSubNet, mixer: Mixer, items: int) -> dict[str, float]:
    """Return the gain in SI-SDR on held-out talkers and the fidelity to clean speech; seeded."""
    gains, clean = [], []
    for number in range(items):
        item = mixer.item(number, 4 * SAMPLE_RATE)
        if not item.talker:
            continue
        device = next(model.parameters()).device
        out = enhance(model, torch.from_numpy(item.noisy)[None].to(device))[0].cpu().numpy()
        if item.noise == "clean":
            clean.append(si_sdr(out, item.target))
        else:
            gains.append(si_sdr(out, item.target) - si_sdr(item.noisy, item.target))
    return {
        "gain": float(np.mean(gains)) if gains else 0.0,
        "clean": float(np.mean(clean)) if clean else 0.0,
    }


def train(
    work: Path,
    args: ModelArgs,
    config: TrainConfig,
    minutes: float = math.inf,
    ranks: int = 1,
    start_from: Path | None = None,
    validate_every: int = 250,
    device: str = "cpu",
    workers: int = 0,
) -> Run:
    """Train until the schedule ends, the minutes are over or a signal asks to stop.

    Every rank is a process with one thread and its part of each batch: that is faster than threads
    within the recurrent steps, and does not stall when something else wants a core.

    Parameters
    ----------
    work : Path
        Holds ``pools/`` and ``checkpoints/``; an unfinished run there is resumed.
    ranks : int
        Number of processes.
    start_from : Path, optional
        Weights to start with if there is nothing to resume, of this network or a smaller one.
    device : str
        PyTorch's name of the network's device; with any but "cpu" there is one rank.
    workers : int
        Processes that mix batches for that rank.
    """
    options = (work, args, config, minutes, start_from, validate_every, device, workers)
    if ranks == 1:
        return _train(0, 1, "", *options)
    context = torch.multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        store = f"file://{folder}/store"
        others = [
            context.Process(target=_train, args=(rank, ranks, store, *options), daemon=True)
            for rank in range(1, ranks)
        ]
        try:
            for process in others:
                process.start()
            run = _train(0, ranks, store, *options)
            for process in others:
                process.join(30)
        finally:  # ranks ignore other signals, and wait for one that may be gone
            for process in others:
                if process.is_alive():
                    process.kill()
    return run


def _train(
    rank: int,
    ranks: int,
    store: str,
    work: Path,
    args: ModelArgs,
    config: TrainConfig,
    minutes: float,
    start_from: Path | None,
    validate_every: int,
    device: str,
    workers: int,
) -> Run:
    """Run one rank of `train`; rank 0 reports, validates and saves."""
    if ranks > 1:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks)
    run = begun(work, args, config, start_from, device)
    latest, best = work / "checkpoints/latest_model.tar", work / "checkpoints/best_model.tar"
    stop = False

    def ask(*_: object) -> None:
        nonlocal stop
        stop = True

    mixer = load_mixer(work / "pools", config.seed)
    judge = load_mixer(work / "pools", config.seed + 1, validation=True)
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, ask if rank == 0 else signal.SIG_IGN) for number in numbers]
    began, first = time.monotonic(), run.step
    sums: dict[str, list[float]] = {}
    done = run.step >= config.steps
    mixed = batches(mixer, config, run.step // config.reuse, rank, ranks, workers)
    while not done:
        wish = stop or time.monotonic() - began > 60 * minutes
        if run.step % config.reuse == 0 or run.step == first:
            noisy, target, share = next(mixed)
            noisy, target = noisy.to(device), target.to(device)
        turn = run.step % config.reuse
        heard = swapped(noisy, target, [config.seed, run.step, 2]) if turn else noisy
        figures, done = run.update(heard, target, share, wish)
        done = done or run.step >= config.steps
        if rank > 0:
            continue
        if run.step == first + 1:
            seconds = time.monotonic() - began
            print(f"first step after {seconds:.0f} s", file=sys.stderr, flush=True)
        for name, value in figures.items():
            sums.setdefault(name, []).append(value)
        if run.step % REPORT_EVERY == 0:
            pace = (run.step - first) / (time.monotonic() - began)
            row = {name: round(float(np.mean(values)), 4) for name, values in sums.items()}
            row |= {"audio_per_second": round(pace * config.batch_seconds, 1)}
            row |= {"minutes_left": round((config.steps - run.step) / pace / 60, 1)}
            row |= {"lr": round(rate_at(run.step, config), 6)}
            print(json.dumps({"step": run.step} | row), flush=True)
            sums = {}
        if run.step % validate_every == 0 or run.step == config.steps:
            score = validate(run.averaged(), judge, config.validation_items)
            print(json.dumps({"step": run.step, "validation": score}), flush=True)
            if score["gain"] >= run.best:
                run.best = score["gain"]
                run.save(best, average=True)
            run.save(latest, average=False)
    if rank == 0:
        run.save(latest, average=False)
    if ranks > 1:
        dist.barrier()
        dist.destroy_process_group()
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)
    return run
