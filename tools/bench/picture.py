"""A picture of one result of `measure`: how long a frame takes with each contender."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .report import TITLES

_DEADLINE_MS = 16.0
_COLOURS = {"npfsn": "tab:green", "ONNX Runtime": "tab:blue", "PyTorch": "tab:orange"}


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw bars up to the mean and lines up to the p99, one panel per network.

    Parameters
    ----------
    result : dict
        Of `measure.measure`.
    path : path-like
        The suffix tells what kind of picture.
    """
    from matplotlib.figure import Figure

    models = result["models"]
    heights = [len(model["steps"]) for model in models.values()]
    figure = Figure(figsize=(9, 1.2 + 0.36 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(models), 1, sharex=True, height_ratios=heights)
    for panel, (name, model) in zip(panels, models.items(), strict=True):
        for row, (who, steps) in enumerate(model["steps"].items()):
            colour = next(colour for maker, colour in _COLOURS.items() if who.startswith(maker))
            mean, p99 = steps["mean_ms"], steps["p99_ms"]
            panel.barh(row, mean, color=colour, height=0.7)
            panel.plot([mean, p99], [row, row], color="0.3", linewidth=1.5, marker="|")
            panel.text(  # on white: the deadline runs behind it
                max(mean, p99), row, f"  {mean:.2f}, p99 {p99:.2f}", va="center", size=9,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )  # fmt: skip
        panel.axvline(_DEADLINE_MS, color="tab:red", linewidth=1)
        panel.set_yticks(range(len(model["steps"])), list(model["steps"]))
        panel.invert_yaxis()
        panel.set_title(f"{TITLES[name]}, {model['parameters'] / 1e6:.2f} M parameters", size=10)
        panel.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlim(right=1.15 * panels[-1].get_xlim()[1])  # room for the figures
    panels[-1].set_xlabel(
        f"ms per frame on one core: mean, and line to the p99. Red: the deadline, {_DEADLINE_MS:g} "
        f"ms.\n{result['cpu']}, {', '.join(result['simd'])}, {result['date']}",
        size=9,
    )
    figure.savefig(path, dpi=80)
