"""The whole recipe as one command: ``python -m tools.train --work DIR [--speech DIR] [...]``."""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path
from typing import Any

try:
    import torch
except ModuleNotFoundError:
    raise SystemExit("tools.train needs PyTorch: pip install -e '.[train]'") from None

from npfsn.terminal import number

from .mix import build_pools
from .model import ModelArgs
from .speech import audio_files, opens
from .train import TrainConfig, begun, train

_count = number(int, 1, 1 << 31, "a whole number from 1 up")
_count_or_zero = number(int, 0, 1 << 31, "a whole number from 0 up")
_above_zero = number(float, sys.float_info.min, sys.float_info.max, "a number above 0")
_zero_or_more = number(float, 0.0, math.inf, "a number from 0 up")


def _device(text: str) -> str:
    try:
        torch.zeros(1, device=text)
    except (RuntimeError, AssertionError, NotImplementedError) as problem:
        reason = str(problem).strip().splitlines()[0]
        raise argparse.ArgumentTypeError(f"{text!r} cannot be used here: {reason}") from None
    return text


def _file(text: str) -> Path:
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return Path(text)


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    default = TrainConfig()
    out = argparse.ArgumentParser(
        prog="python -m tools.train",
        description="Make the data that is missing, then train from where the last run stopped.",
    )
    data, training = out.add_argument_group("data"), out.add_argument_group("training")

    def add(group: Any, name: str, kind: Any, value: Any, text: str, **more: Any) -> None:
        more.setdefault("metavar", "S" if name.endswith("seconds") else "N")
        text += f" (default: {value})" if isinstance(value, int | float) else ""
        group.add_argument("--" + name, type=kind, default=value, help=text, **more)

    add(data, "work", Path, None, "folder of pools and checkpoints", required=True, metavar="DIR")
    folders: dict[str, Any] = {"action": "append", "metavar": "DIR"}
    add(data, "speech", Path, [], "folder of clean speech, with all below it", **folders)
    add(data, "noise", Path, [], "folder of recorded noise, besides what is made", **folders)
    add(data, "synthetic-seconds", _zero_or_more, 8_000.0, "synthetic speech to make")
    add(data, "noise-seconds", _above_zero, 10_800.0, "noise to make")
    add(data, "rooms", _count, 500, "rooms to make")
    add(training, "minutes", _zero_or_more, math.inf, "stop after N minutes, to go on later")
    add(training, "ranks", _count, os.cpu_count() or 1, "processes")
    add(
        training, "device", _device, "cpu", '"cuda" for one process; --ranks others mix for it',
        metavar="NAME",
    )  # fmt: skip
    add(training, "validate-every", _count, 250, "steps between two judgements")
    add(training, "bottleneck", _count, 128, "hidden size")
    add(
        training, "start-from", _file, None,
        "checkpoint or model file whose weights begin a run; its bottleneck may be smaller",
        metavar="FILE",
    )  # fmt: skip
    add(training, "seed", _count_or_zero, default.seed, "seed of data, weights and order")
    add(training, "steps", _count, default.steps, "last step of the schedule")
    add(training, "decay-steps", _count_or_zero, default.decay_steps, "last ones, ever slower")
    add(training, "warmup-steps", _count, default.warmup_steps, "first ones, ever faster")
    add(training, "reuse", _count, default.reuse, "steps per batch, noises exchanged in between")
    add(training, "validation-items", _count, default.validation_items, "mixtures to judge with")
    add(training, "batch-seconds", _above_zero, default.batch_seconds, "audio per step")
    add(training, "learning-rate", _above_zero, default.learning_rate, "between warm-up and decay")
    add(
        training, "over-suppression", _zero_or_more, default.over_suppression,
        "extra weight of speech that is lost",
    )  # fmt: skip
    return out


def main(arguments: list[str] | None = None) -> None:
    """Run the recipe, or the next slice of it."""
    command = parser()
    options = vars(command.parse_args(arguments))
    for folder in options["speech"] + options["noise"]:
        if not any(map(opens, audio_files(folder))):
            command.error(f"there are no recordings under {folder} that can be opened")
    data = [options.pop(name) for name in ("speech", "noise")] + [options["seed"]]
    data += [options.pop(name) for name in ("synthetic_seconds", "noise_seconds", "rooms")]
    args = ModelArgs(bottleneck_hidden_size=options.pop("bottleneck"))
    names = ("work", "minutes", "ranks", "start_from", "device", "validate_every")
    slices = {name: options.pop(name) for name in names}
    if slices["device"] != "cpu":
        slices["workers"], slices["ranks"] = slices["ranks"], 1
    config, work = TrainConfig(**options), slices.pop("work")
    try:
        begun(work, args, config, slices["start_from"])  # told before the data are made, and once
        build_pools(work / "pools", *data)
    except (OSError, ValueError) as error:  # such as no speech, or a full disk
        raise SystemExit(f"tools.train: {error}") from None
    try:
        train(work, args, config, **slices)
    except OSError as error:
        raise SystemExit(f"tools.train: {error}") from None
    found = [path for path in (work / f"checkpoints/{n}_model.tar" for n in ("latest", "best"))
             if path.exists()]  # fmt: skip
    print(f"checkpoints: {', '.join(map(str, found)) or 'none yet'}")


if __name__ == "__main__":
    main()
