"""What a model is, in words: for `npfsn info` and the report of `npfsn-convert`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .config import CAUSAL_NORMS, BaseConfig


def streaming(config: BaseConfig) -> str:
    """Say whether a model streams, and what helps if it does not."""
    if config.streams:
        return "yes"
    norm = config.norm_type if config.norm_type in CAUSAL_NORMS else CAUSAL_NORMS[0]
    return f"no: its {config.obstacle} needs the whole signal; run with `--norm {norm}` it streams"


def norm_in_words(config: BaseConfig, source: Mapping[str, Any]) -> str:
    """Return a model's norm, and the one it was trained with where `source` tells of another."""
    trained = source.get("norm", config.norms)
    return config.norms + ("" if trained == config.norms else f" (trained with {trained})")


def starts(config: BaseConfig) -> str:
    """Say when the network starts."""
    if not config.start_at_sound:
        return "with the first sample"
    return "at the first sound" + ("" if config.streams else ", once a causal norm is chosen")


def arithmetic(config: BaseConfig) -> str:
    """Say what the network adds to the published arithmetic."""
    added = [f"{name} = {value}" for name, value in config.additions.items()]
    return "as published" + (f", with {', '.join(added)}" if added else "")


def latency(config: BaseConfig) -> str:
    """Return the latency as text, with and without the hop, since both numbers are in use."""
    hop_ms = 1000.0 * config.hop_length / config.sample_rate
    return ("" if config.streams else "the whole signal; with a causal norm ") + (
        f"{config.latency_samples} samples ({config.latency_ms:g} ms) from input to output; "
        f"{config.latency_ms + hop_ms:g} ms end to end with the {hop_ms:g} ms of the hop itself"
    )
