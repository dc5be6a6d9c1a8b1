"""Training: slices of any length that stop, resume and end exactly as one long run would."""

from __future__ import annotations

import json
import math
import os
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

import npfsn

from .loss import loss, total
from .mix import MixConfig, Mixer, load_mixer
from .model import FastFullSubNet, ModelArgs, enhance, stft
from .pool import SAMPLE_RATE

LENGTHS = (2.0, 3.0, 3.0, 3.0, 4.0, 4.0, 5.0, 8.0)


@dataclass(frozen=True)
class TrainConfig:
    """What a run needs to be repeated.

    Parameters
    ----------
    steps : int
        Last step of the schedule.
    decay_steps : int
        How many of them bring the learning rate down to nearly zero; before, it is constant, so
        that ``steps`` may be moved while a run goes on.
    batch_seconds : float
        Audio per step.
    """

    seed: int = 1
    steps: int = 14_000
    decay_steps: int = 5_000
    warmup_steps: int = 300
    batch_seconds: float = 40.0
    learning_rate: float = 1e-3
    final_rate: float = 1e-5
    weight_decay: float = 1e-2
    clip_norm: float = 2.0
    ema: float = 0.998
    over_suppression: float = 0.5
    validation_items: int = 60


def rate_at(step: int, config: TrainConfig) -> float:
    """Learning rate of a step: warm-up, constant, cosine to nearly zero."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    done = (step - (config.steps - config.decay_steps)) / max(1, config.decay_steps)
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, done))))
    return config.final_rate + (config.learning_rate * warm - config.final_rate) * fall


def batch(
    mixer: Mixer, step: int, seconds: float, rank: int = 0, ranks: int = 1
) -> tuple[np.ndarray, np.ndarray, float]:
    """Items of one step, all of one length drawn for it; every rank takes its part.

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


class Run:
    """A training run: everything that a checkpoint holds."""

    def __init__(self, args: ModelArgs, config: TrainConfig) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.model = FastFullSubNet(args).train()
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
        self, noisy: np.ndarray, target: np.ndarray, share: float = 1.0, stop: bool = False
    ) -> tuple[dict[str, float], bool]:
        """One step on one batch, or on this rank's ``share`` of it.

        Returns
        -------
        figures : dict of str to float
            Terms of the loss on this rank's items, and the gradient's norm.
        stop : bool
            Whether any rank was asked to stop.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.step, self.config)
        x, s = torch.from_numpy(noisy), torch.from_numpy(target)
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
        figures = {name: float(term.detach()) for name, term in terms.items()}
        return figures | {"loss": float(value.detach()), "norm": float(norm)}, stop

    def _reduce(self, share: float, stop: bool) -> bool:
        """Sum the ranks' gradients by their shares, and their wishes to stop, in one exchange."""
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
        model = FastFullSubNet(self.model.args).eval()
        model.load_state_dict(self.average)
        return model

    def save(self, path: Path, average: bool) -> None:
        """Write a checkpoint in the published form; written aside first, so that none is cut."""
        content = {
            "epoch": self.step,
            "best_score": self.best,
            "optimizer": self.optimizer.state_dict() if not average else {},
            "scaler": {},
            "model": self.average if average else self.model.state_dict(),
        }
        if not average:
            content["average"] = self.average
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".part")
        torch.save(content, aside)
        os.replace(aside, path)

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint as if it had never stopped."""
        content = torch.load(path, map_location="cpu", weights_only=True)
        self.average = content["average"]
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step, self.best = content["epoch"], content["best_score"]

    def begin_from(self, path: Path) -> None:
        """Begin at step 0 with the weights of a model file or a checkpoint, averaged if it can."""
        if path.suffix == ".npz":
            tensors = npfsn.load_model(path).tensors
            weights = {name: torch.tensor(np.float32(value)) for name, value in tensors.items()}
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
            weights = content.get("average", content["model"])
        # Not a weight, and rounded in files of half precision.
        weights["mel_scale.fb"] = self.model.mel_scale.fb
        self.model.load_state_dict(weights)
        self.average = {k: v.clone() for k, v in self.model.state_dict().items()}


def si_sdr(estimate: np.ndarray, target: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio, dB."""
    scale = np.dot(estimate, target) / (np.dot(target, target) + 1e-12)
    clean = scale * target
    rest = estimate - clean
    return float(10 * np.log10((clean @ clean + 1e-12) / (rest @ rest + 1e-12)))


def validate(model: FastFullSubNet, mixer: Mixer, items: int, seconds: float) -> dict[str, float]:
    """Gain in SI-SDR on held-out talkers, and the fidelity to clean speech; float32, seeded."""
    gains, clean = [], []
    for number in range(items):
        item = mixer.item(number, int(seconds * SAMPLE_RATE))
        if not item.talker:
            continue
        out = enhance(model, torch.from_numpy(item.noisy)[None])[0].numpy()
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
    mix: MixConfig | None = None,
    minutes: float = math.inf,
    ranks: int = 1,
    start_from: Path | None = None,
    validate_every: int = 250,
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
        Weights to begin with where there is nothing to resume.
    """
    options = (work, args, config, mix or MixConfig(), minutes, start_from, validate_every)
    if ranks == 1:
        return _train(0, 1, "", *options)
    context = torch.multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        store = f"file://{folder}/store"
        others = [
            context.Process(target=_train, args=(rank, ranks, store, *options), daemon=True)
            for rank in range(1, ranks)
        ]
        for process in others:
            process.start()
        run = _train(0, ranks, store, *options)
        for process in others:
            process.join(30)
    return run


def _train(
    rank: int,
    ranks: int,
    store: str,
    work: Path,
    args: ModelArgs,
    config: TrainConfig,
    mix: MixConfig,
    minutes: float,
    start_from: Path | None,
    validate_every: int,
    report_every: int = 20,
) -> Run:
    """One rank of `train`; rank 0 reports, judges and saves."""
    if ranks > 1:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks)
    run = Run(args, config)
    latest, best = work / "checkpoints/latest_model.tar", work / "checkpoints/best_model.tar"
    if latest.exists():
        run.restore(latest)
    elif start_from is not None:
        run.begin_from(start_from)
    stop = False

    def ask(*_: object) -> None:
        nonlocal stop
        stop = True

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, ask if rank == 0 else signal.SIG_IGN) for number in numbers]
    mixer = load_mixer(work / "pools", config.seed, mix)
    judge = load_mixer(work / "pools", config.seed + 1, mix, validation=True)
    began, first = time.monotonic(), run.step
    sums: dict[str, list[float]] = {}
    done = run.step >= config.steps
    while not done:
        wish = stop or time.monotonic() - began > 60 * minutes
        figures, done = run.update(*batch(mixer, run.step, config.batch_seconds, rank, ranks), wish)
        done = done or run.step >= config.steps
        if rank > 0:
            continue
        for name, value in figures.items():
            sums.setdefault(name, []).append(value)
        if run.step % report_every == 0:
            pace = (run.step - first) / (time.monotonic() - began)
            row = {name: round(float(np.mean(values)), 4) for name, values in sums.items()}
            row |= {"audio_per_second": round(pace * config.batch_seconds, 1)}
            row |= {"minutes_left": round((config.steps - run.step) / pace / 60, 1)}
            row |= {"lr": round(rate_at(run.step, config), 6)}
            print(json.dumps({"step": run.step} | row), flush=True)
            sums = {}
        if run.step % validate_every == 0 or run.step == config.steps:
            score = validate(run.averaged(), judge, config.validation_items, 4.0)
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
