"""The page docs/benchmark.md, made of one result of `measure`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Figures = dict[str, Any]

TITLES = {"fast_fullsubnet": "Fast FullSubNet", "fullsubnet": "FullSubNet"}
# Model, precision -> limits on mean and p99 as shares of ONNX Runtime's.
TARGETS = {
    ("fast_fullsubnet", "float32"): (0.80, 0.60),
    ("fast_fullsubnet", "int8"): (0.75, 0.65),
    ("fullsubnet", "float32"): (0.95, 1.00),
    ("fullsubnet", "int8"): (0.80, 0.85),
}
WHOLE_FILE = 0.80
WORST_FRAME = 1.30
START_S, START_SHARE = 1.0, 0.5
COMPILE_S = 25.0
MEMORY_MB = 250.0
# Wall times are unreliable if other programs take more than this share of a core.
DISTURBED = 0.15


def render(result: dict[str, Any], picture: str | None = None) -> str:
    """Return the page.

    Parameters
    ----------
    result : dict
        Of `measure.measure`, with the command that made it.
    picture : str, optional
        Where the page finds the picture of the same result.

    Returns
    -------
    str
        Markdown.
    """
    return (
        "\n".join(
            [
                *_head(result),
                *_picture(picture),
                *_targets(result),
                *_models(result),
                *_alone(result),
                *_starts(result),
            ]
        )
        + "\n"
    )


def _table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|---" + "|---:" * (len(head) - 1) + "|"
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


def _head(result: dict[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    governor = f", governor {result['governor']}" if result["governor"] else ""
    yield "# Benchmark"
    yield ""
    yield "<!-- Rendered by tools/bench from one measurement. Not to be edited. -->"
    yield ""
    yield f"- **machine**: {result['cpu']}, {result['cores']} cores, {result['system']}{governor}"
    yield f"- **vector features in use**: {', '.join(result['simd']) or 'none'}"
    yield f"- **threads**: {result['threads']} for every contender"
    yield f"- **versions**: {versions}"
    commit = result["commit"] or "unknown"
    yield f"- **date, commit**: {result['date']}, `{commit}`"
    yield f"- **command**: `{result['command']}` ({result['seconds']:.0f} s)"
    yield ""
    yield (
        "npfsn's figures are whole steps, from samples to samples: STFT, network, mask and "
        "overlap-add. The peers' are the network alone, from magnitudes to the mask, with states "
        "kept inside. All have the same drawn weights at the sizes of the papers, and take turns "
        "in short rounds of one run. Milliseconds are per frame of 16 ms. The weights are drawn in "
        "half precision; *float16 file* is npfsn with a model file that keeps them so, as the "
        "default weights do: it reads half as much and computes the same, in float32. Everyone "
        "else holds them in float32."
    )
    yield ""
    load = result["other_load"]
    if load is not None and load > DISTURBED:
        yield (
            f"**Disturbed**: other programs kept {load:.2f} cores busy during this run, so waiting "
            "times, the p99 first of all, are not the contenders' own."
        )
        yield ""
    if result["quick"]:
        yield "**Quick**: this run only shows that the tool works; its figures mean nothing."
        yield ""


def _picture(place: str | None) -> Iterator[str]:
    if place is not None:
        yield f"![Milliseconds per frame of npfsn, ONNX Runtime and PyTorch]({place})"
        yield ""


def _ours(figures: Figures, precision: str) -> list[str]:
    """Return the names of the npfsn variants measured in one precision."""
    names = [who.removeprefix("npfsn ") for who in figures if who.startswith("npfsn ")]
    return [name for name in names if name.startswith(precision)]


def _verdict(holds: bool) -> str:
    return "yes" if holds else "**no**"


def _targets(result: dict[str, Any]) -> Iterator[str]:
    rows = []

    def ratio(what: str, value: float, most: float, cpu: float | None = None) -> None:
        digits = 0 if most >= 10.0 else 3
        by_cpu = "" if cpu is None else f"{cpu:.3f}"
        holds = _verdict(value <= most)
        rows.append([what, f"{value:.{digits}f}", by_cpu, f"{most:.{min(digits, 2)}f}", holds])

    def between(what: str, ours: Figures, peer: Figures, key: str, most: float) -> None:
        cpu = ours[f"cpu_{key}"] / peer[f"cpu_{key}"] if f"cpu_{key}" in ours else None
        ratio(what, ours[key] / peer[key], most, cpu)

    for (name, precision), (mean, p99) in TARGETS.items():
        steps = result["models"][name]["steps"]
        peer = steps[f"ONNX Runtime {precision}"]
        for which in _ours(steps, precision):
            what = f"{TITLES[name]} {which} / ONNX Runtime {precision}"
            between(f"{what}: mean", steps[f"npfsn {which}"], peer, "mean_ms", mean)
            between(f"{what}: p99", steps[f"npfsn {which}"], peer, "p99_ms", p99)
    fast = result["models"]["fast_fullsubnet"]
    whole = fast["whole_ms_per_frame"]
    for which in _ours(whole, "float32"):
        between(
            f"whole file, Fast FullSubNet {which} / PyTorch whole utterance",
            whole[f"npfsn {which}"],
            whole["PyTorch float32, whole utterance"],
            "mean_ms",
            WHOLE_FILE,
        )
    for which in _ours(fast["steps"], ""):
        ours = fast["steps"][f"npfsn {which}"]
        what = f"worst frame, Fast FullSubNet {which}: p99 / mean"
        cpu = ours["cpu_p99_ms"] / ours["cpu_mean_ms"]
        ratio(what, ours["p99_ms"] / ours["mean_ms"], WORST_FRAME, cpu)
    starts = result["starts"]
    ours, torch = starts["npfsn float32"], starts["PyTorch float32"]
    ratio("start to first output, s", ours["total_s"], START_S)
    between("start / PyTorch's", ours, torch, "total_s", START_SHARE)
    ratio("memory, MB", ours["memory_mb"], MEMORY_MB)
    between("memory / PyTorch's", ours, torch, "memory_mb", 1.0)
    if "npfsn float32, compiling" in starts:
        ratio("start that compiles, s", starts["npfsn float32, compiling"]["total_s"], COMPILE_S)
    yield "## What must hold"
    yield ""
    yield (
        "CPU time is what the thread was given: where it differs from the measured time, other "
        "programs had the core. Only the measured time counts."
    )
    yield ""
    yield from _table(["", "measured", "by CPU time", "at most", "holds"], rows)

    def each(steps: dict[str, Any], say: Callable[[dict[str, Any]], str]) -> str:
        return "; ".join(f"{who} {say(steps[f'npfsn {who}'])}" for who in _ours(steps, ""))

    control = "; ".join(
        f"{step['p99_ms'] / step['mean_ms']:.3f} like {which} ({step['mean_ms']:.2f} ms)"
        for which, step in fast["control"].items()
    )
    yield (
        "What the machine adds to a frame shows in work that is the same for every frame: "
        "additions over as many bytes as a step reads, once, then over 96 KB until as much time is "
        f"spent. In turns beside Fast FullSubNet, their p99 / mean in this run is {control}."
    )
    yield ""
    alike = result["models"]["fullsubnet"]["steps"]
    floor = each(alike, lambda step: f"{step['p99_ms'] / step['mean_ms']:.2f}")
    kinds = each(fast["steps"], lambda step: "{:.2f} and {:.2f}".format(*step["even_odd_ms"]))
    turns = each(fast["steps"], lambda step: "{:.2f} to {:.2f}".format(*step["turn_means_ms"]))
    in_turn = each(fast["steps"], lambda step: f"{step['p99_in_turn']:.2f}")
    yield (
        "FullSubNet, whose frames all have the same work and are longer, has a p99 / mean of "
        f"{floor}. Fast FullSubNet has two kinds of frames, "
        f"and shares its work out between them; their medians, in ms: {kinds}. The machine is not "
        "always as fast: the means of turns, of a quarter of a second and less, range from and to, "
        f"in ms: {turns}. Over the mean of their own turn the p99 of its frames is {in_turn}."
    )
    yield ""


def _models(result: dict[str, Any]) -> Iterator[str]:
    for name, model in result["models"].items():
        yield f"## {TITLES[name]}, {model['parameters'] / 1e6:.2f} M parameters"
        yield ""
        rows = []
        for who, steps in model["steps"].items():
            precision = "int8" if "int8" in who else "float32"
            ours = model["steps"][f"npfsn {precision}"]
            shares = ["", ""]
            if not who.startswith("npfsn"):
                shares = [f"{ours[key] / steps[key]:.2f}" for key in ("mean_ms", "p99_ms")]
            values = [steps[f"{key}_ms"] for key in ("mean", "median", "p95", "p99", "max")]
            rows.append([who, *(f"{value:.2f}" for value in values), *shares,
                         f"{steps['deadline_share']:.0%}"])  # fmt: skip
        head = ["ms per frame", "mean", "p50", "p95", "p99", "max", "npfsn / this: mean", "p99",
                "p99 of the deadline"]  # fmt: skip
        yield from _table(head, rows)
        yield _how_alike(model)
        yield ""
        yield from _whole(model)
        yield from _limits(model)


def _alone(result: dict[str, Any]) -> Iterator[str]:
    for key, title, remark in (
        ("built_in", "The built-in model", "What `npfsn.Enhancer()` runs, at 16 kHz."),
        ("improved", "Improved FullSubNet, 48 kHz", "With causal section norms, 10 ms a hop."),
    ):
        if key not in result:
            continue
        found = result[key]
        yield f"## {title}, {found['parameters'] / 1e6:.2f} M parameters"
        yield ""
        yield f"{remark} Hop by hop, without a peer."
        yield ""
        rows = []
        for precision, steps in found["steps"].items():
            values = [steps[f"{key}_ms"] for key in ("mean", "median", "p95", "p99", "max")]
            rows.append([f"npfsn {precision}", *(f"{value:.2f}" for value in values),
                         f"{steps['real_time_factor']:.3f}"])  # fmt: skip
        head = ["ms per frame", "mean", "p50", "p95", "p99", "max", "of real time"]
        yield from _table(head, rows)


def _how_alike(model: dict[str, Any]) -> str:
    alike = model["differences"]
    exact = max(value for who, value in alike.items() if "int8" not in who)
    text = f"Masks in float32 agree to {exact:.0e} of the largest value"
    rough = [f"{who} {value:.0e}" for who, value in alike.items() if "int8" in who]
    if rough:
        text += f"; in int8 they are off by {', '.join(rough)}"
    cells = ", ".join(
        f"{precision} with {'the LSTM operator' if cells == 'LSTM' else 'MatMul and gates'}"
        for precision, cells in model["onnx_cells"].items()
    )
    tried = ", ".join(f"{name} {value:.2f}" for name, value in model["onnx_variants_ms"].items())
    return f"{text}. ONNX Runtime runs its faster graphs: {cells} (ms tried: {tried})."


def _whole(model: dict[str, Any]) -> Iterator[str]:
    whole = model["whole_ms_per_frame"]
    peer = whole["PyTorch float32, whole utterance"]["mean_ms"]
    yield f"Whole file of {model['whole_seconds']:g} s at once (`npfsn.enhance`):"
    yield ""
    rows = [
        [who, f"{each['mean_ms']:.2f}", f"{each['mean_ms'] / peer:.2f}",
         f"{16.0 / each['mean_ms']:.1f}"]
        for who, each in whole.items()
    ]  # fmt: skip
    yield from _table(["", "ms per frame", "share of PyTorch's", "times real time"], rows)


def _limits(model: dict[str, Any]) -> Iterator[str]:
    yield (
        "Against the limits: weights that meet one row are read once per frame, recurrent ones "
        "once for two, at the bandwidth of a buffer as large as all weights; the others are "
        "reused, and cost operations at the tile's measured peak. The limit is one after the "
        "other; some of it goes on at the same time."
    )
    yield ""
    rows = []
    for precision, each in model["limits"].items():
        peaks = ", ".join(f"{rate:.0f} ({name})" for name, rate in each["peak_gop_s"].items())
        rows.append([
            precision,
            f"{each['bytes_read_once'] / 1e6:.1f} of {each['bytes_per_frame'] / 1e6:.1f}",
            f"{each['bandwidth_gb_s']:.0f} ({each['memory_bandwidth_gb_s']:.0f})",
            f"{each['read_ms']:.2f}",
            f"{each['operations_per_frame'] / 1e6:.0f}",
            peaks,
            f"{each['compute_ms']:.2f}",
            f"{each['limit_ms']:.2f}",
            f"{each['mean_ms']:.2f}",
            f"{each['share_of_limit']:.0%}",
        ])  # fmt: skip
    head = ["npfsn", "MB read a frame, of all", "GB/s (from memory)", "ms to read",
            "M operations", "peak, GOP/s", "ms to compute", "limit, ms", "mean step, ms",
            "limit / step"]  # fmt: skip
    yield from _table(head, rows)


def _starts(result: dict[str, Any]) -> Iterator[str]:
    yield "## Start and memory"
    yield ""
    yield (
        "Fresh processes with warm caches, from the call to the first output, the "
        "quickest of each; Fast FullSubNet. Memory is the most a process ever held while it "
        "streamed. For npfsn, loading includes packing the weights and fetching compiled "
        "kernels, and the first output takes as many steps as its latency has hops, and one."
    )
    yield ""
    rows = []
    for who, each in result["starts"].items():
        load = each["load_s"] + each.get("prepare_s", 0.0)
        memory = "" if each.get("compiled") else f"{each['memory_mb']:.0f}"
        rows.append([who, f"{each['total_s']:.2f}", f"{each['import_s']:.2f}", f"{load:.2f}",
                     f"{1e3 * each['first_output_s']:.1f}", memory])  # fmt: skip
    head = ["", "total, s", "import, s", "load, s", "first output, ms", "memory, MB"]
    yield from _table(head, rows)
