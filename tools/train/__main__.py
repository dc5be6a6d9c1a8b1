"""The whole recipe as one command: ``python -m tools.train --work DIR [--speech DIR] [...]``."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

from .mix import build_pools
from .model import ModelArgs
from .speech import audio_files
from .train import TrainConfig, train


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    defaults = TrainConfig()
    out = argparse.ArgumentParser(
        prog="python -m tools.train",
        description="Make the data that is not there yet, then train, from where it stopped.",
    )
    data = out.add_argument_group("data")
    data.add_argument("--work", type=Path, required=True, help="pools and checkpoints")
    data.add_argument("--speech", type=Path, action="append", default=[], metavar="DIR")
    data.add_argument("--noise", type=Path, action="append", default=[], metavar="DIR")
    data.add_argument("--synthetic-seconds", type=float, default=8_000)
    data.add_argument("--noise-seconds", type=float, default=10_800)
    data.add_argument("--rooms", type=int, default=500)
    training = out.add_argument_group("training")
    training.add_argument("--minutes", type=float, default=math.inf, help="stop after this slice")
    training.add_argument("--ranks", type=int, default=os.cpu_count(), help="processes")
    training.add_argument("--device", default="cpu", help='"cuda", for one; --ranks then mix')
    training.add_argument("--validate-every", type=int, default=250, metavar="STEPS")
    training.add_argument("--bottleneck", type=int, default=128, help="hidden size")
    training.add_argument(
        "--start-from",
        type=Path,
        help="checkpoint or model file whose weights begin a run; its bottleneck may be smaller",
    )
    for name in ("seed", "steps", "decay_steps", "warmup_steps", "reuse", "validation_items"):
        value = getattr(defaults, name)
        training.add_argument("--" + name.replace("_", "-"), type=int, default=value)
    for name in ("batch_seconds", "learning_rate", "over_suppression"):
        value = getattr(defaults, name)
        training.add_argument("--" + name.replace("_", "-"), type=float, default=value)
    return out


def main(arguments: list[str] | None = None) -> None:
    """Run the recipe, or the next slice of it."""
    command = parser()
    options = vars(command.parse_args(arguments))
    for folder in options["speech"] + options["noise"]:
        if not audio_files(folder):
            command.error(f"there are no recordings under {folder}")
    work, seed = options["work"], options["seed"]
    build_pools(
        work / "pools",
        options.pop("speech"),
        options.pop("noise"),
        seed,
        options.pop("synthetic_seconds"),
        options.pop("noise_seconds"),
        options.pop("rooms"),
    )
    args = ModelArgs(bottleneck_hidden_size=options.pop("bottleneck"))
    names = ("work", "minutes", "ranks", "start_from", "device", "validate_every")
    slices = {name: options.pop(name) for name in names}
    if slices["device"] != "cpu":
        slices["workers"], slices["ranks"] = slices["ranks"], 1
    config = TrainConfig(**options)
    train(slices.pop("work"), args, config, **slices)
    found = [path for path in (work / f"checkpoints/{n}_model.tar" for n in ("latest", "best"))
             if path.exists()]  # fmt: skip
    print(f"checkpoints: {', '.join(map(str, found)) or 'none yet'}")


if __name__ == "__main__":
    main()
