"""Print how far Improved FullSubNet's causal section norm is from the published one.

    python -m tools.causal_difference

The recorded cases of tests/golden run as published, over the whole signal, and with the causal
norm, as in a stream. The table shows the ratio of the published output to the difference, in dB,
overall and over the last half second, where the running mean is close to that of the whole signal.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import npfsn


def ratio_db(signal: np.ndarray, other: np.ndarray) -> float:
    """Return the energy of `signal` over that of its difference from `other`, dB."""
    signal, other = signal.astype(np.float64), other.astype(np.float64)
    return float(10 * np.log10(np.sum(signal**2) / np.sum((signal - other) ** 2)))


def main() -> None:
    """Print a table."""
    argparse.ArgumentParser(
        prog="python -m tools.causal_difference", description=(__doc__ or "").split("\n\n")[0]
    ).parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import drawn_models
    import golden_cases

    print("| case | seconds | overall, dB | last 0.5 s, dB |\n|---|---:|---:|---:|")
    for name in golden_cases.IMPROVED_CASES:
        case, model = drawn_models.golden_case(name), drawn_models.golden_model(name)
        rate = model.config.sample_rate
        published = npfsn.enhance(case.x, rate, model)
        causal = npfsn.enhance(case.x, rate, model, norm="cumulative_laplace_norm")
        half = rate // 2
        print(
            f"| {name} | {len(case.x) / rate:.1f} | {ratio_db(published, causal):.1f} | "
            f"{ratio_db(published[-half:], causal[-half:]):.1f} |"
        )


if __name__ == "__main__":
    main()
