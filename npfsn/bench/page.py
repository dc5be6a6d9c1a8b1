"""Format the figures of `measure.py` as text."""

from __future__ import annotations

from typing import Any


def page(result: dict[str, Any]) -> list[str]:
    """Format the figures as lines of text."""
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
        lines.append(f"note: other programs took {result['other_load']:g} of the cores meanwhile")
    lines += ["", f"{'whole steps, ms':<22}{'median':>8}{'p95':>8}{'p99':>8}{'max':>8}{'mean':>8}"
              f"{'p99 of deadline':>17}{'real-time factor':>18}"]  # fmt: skip
    for name, case in result["cases"].items():
        columns = [case[f"{key}_ms"] for key in ("median", "p95", "p99", "max", "mean")]
        lines.append(
            f"{name:<22}"
            + "".join(f"{value:8.3f}" for value in columns)
            + f"{case['deadline_share']:>17.1%}{case['real_time_factor']:>18.3f}"
        )
    if "group" in result:
        lines += ["", _group_line(result["group"])]
    lines += ["", *_limit_lines(result["limits"])]
    if "profile" in result:
        lines += ["", *_profile_lines(result["profile"])]
    lines.append("")
    for key in ("start", "cold_start"):
        if key in result:
            lines.append(_start_line(result[key]))
    lines.append(_memory_line(result))
    return lines


def _group_line(group: dict[str, Any]) -> str:
    name = f"mean of {group['streams']} streams"
    together, alone = group["together_ms"], group["alone_ms"]
    return (
        f"{name:<22}{together:.3f} ms per hop and stream as an EnhancerGroup, {alone:.3f} ms one "
        f"by one: {together / alone:.0%}"
    )


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


def _memory_line(result: dict[str, Any]) -> str:
    further = result["further_stream_mb"]
    return (
        f"{'peak memory':<22}{result['memory_mb']:.0f} MB, and {further['by_hop']:.1f} MB for each "
        f"further stream, {further['by_two_hops']:.1f} MB where calls bring several hops"
    )
