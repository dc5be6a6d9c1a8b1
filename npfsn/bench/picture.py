"""Plot a few frames call by call, and every step against the deadline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import NpfsnError
from ..output import is_folder
from .profile import CONDUCTING


def picture_kind(path: str) -> str:
    """Return the image format that a file name stands for; refuse names that cannot be written."""
    # Without formats that are no pictures, or that need programs few have.
    kinds = sorted({*_figure().canvas.get_supported_filetypes()} - {"pgf", "raw", "rgba"})
    place = Path(path)
    kind = place.suffix[1:].lower()
    if kind not in kinds:
        raise NpfsnError(
            f"--plot {path}: no kind of picture that can be drawn; expected a name that ends in "
            f"one of .{', .'.join(kinds)}"
        )
    if is_folder(path) or not place.parent.is_dir():
        what = "is a folder" if is_folder(path) else f"there is no folder {place.parent}"
        raise NpfsnError(f"--plot {path}: {what}; expected the name of a file to be written")
    return kind


def _figure(**options: Any) -> Any:
    try:
        import matplotlib.figure
    except ImportError:
        raise NpfsnError(
            "--plot needs matplotlib, which is not installed: pip install matplotlib"
        ) from None
    return matplotlib.figure.Figure(**options)


def draw(result: dict[str, Any], path: Path, kind: str) -> None:
    """Draw a few frames call by call, and every step of every case against the deadline."""
    from matplotlib import colormaps

    hop_ms = result["model"]["hop_ms"]
    timeline = result["timeline"]
    figure = _figure(figsize=(11, 7), layout="constrained")
    frames, steps = figure.subplots(2, 1)
    ranked = [row["stage"] for row in result["profile"]["stages"] if row["stage"] != CONDUCTING]
    colours = {stage: colormaps["tab20"](i % 20) for i, stage in enumerate(ranked)}
    for i, frame in enumerate(timeline):
        frames.barh(i, frame["step_us"] / 1e3, color="0.85", height=0.8)
        for stage, start, end in frame["parts"]:
            frames.barh(
                i, (end - start) / 1e3, left=start / 1e3, height=0.8,
                color=colours.get(stage, "0.6"),
            )  # fmt: skip
    drawn = {stage for frame in timeline for stage, _, _ in frame["parts"]}
    for stage in ranked:
        if stage in drawn:
            frames.barh(0, 0, color=colours[stage], label=stage)
    frames.barh(0, 0, color="0.85", label=CONDUCTING)
    frames.invert_yaxis()
    frames.set(xlabel=f"ms of {hop_ms:g}", ylabel="frame", title="Consecutive frames, call by call")
    beside = {"fontsize": "small", "loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
    frames.legend(**beside)
    for name, times in result["steps_ms"].items():
        steps.plot(np.arange(times.shape[0]) * hop_ms / 1e3, times, ".", markersize=3, label=name)
    steps.axhline(hop_ms, color="tab:red", linewidth=1, label="deadline")
    steps.set(xlabel="s of signal", ylabel="ms per step", yscale="log", title="Every step")
    steps.legend(**beside)
    model = result["model"]
    figure.suptitle(
        f"{model['architecture']}, {model['precision']}, {result['cpu']}, npfsn "
        f"{result['versions']['npfsn']}"
    )
    figure.savefig(path, format=kind)
