"""Fit the rational tanh of `npfsn.kernels.vector` and print its coefficients and its error.

    python -m tools.fit_tanh     # needs mpmath

tanh x ~ x P(x^2) / Q(x^2) on [0, LIMIT], beyond which float32 tanh is 1. The fit minimises the
largest *relative* error: linearised least squares in 50 digits on Chebyshev nodes, reweighted
(Lawson) until the error is equiripple. The printed error is that of an evaluation in float32,
as in the kernels.
"""

from __future__ import annotations

import argparse

import numpy as np

try:
    import mpmath
except ModuleNotFoundError:
    raise SystemExit("tools.fit_tanh needs mpmath: pip install mpmath") from None


def fit(limit: float, n_p: int, n_q: int, n_node: int = 200, rounds: int = 40) -> tuple[list, list]:
    """Return coefficients of P (n_p of them) and Q (n_q, the first is 1), lowest power first."""
    mpmath.mp.dps = 50
    nodes = [
        mpmath.mpf(limit) / 2 * (1 - mpmath.cos(mpmath.pi * (2 * i + 1) / (2 * n_node)))
        for i in range(n_node)
    ]
    target = [mpmath.tanh(x) for x in nodes]
    weight = [mpmath.mpf(1)] * n_node
    p: list = []
    q: list = []
    for _ in range(rounds):
        # P(x^2) x / target - (Q(x^2) - 1) = 1, each row divided by the previous Q
        old = [mpmath.polyval(q[::-1], x * x) if q else mpmath.mpf(1) for x in nodes]
        rows = mpmath.matrix(n_node, n_p + n_q - 1)
        right = mpmath.matrix(n_node, 1)
        for i, x in enumerate(nodes):
            scale = mpmath.sqrt(weight[i]) / old[i]
            for j in range(n_p):
                rows[i, j] = scale * x ** (2 * j) * x / target[i]
            for j in range(1, n_q):
                rows[i, n_p + j - 1] = -scale * x ** (2 * j)
            right[i] = scale
        solution = mpmath.lu_solve(rows.T * rows, rows.T * right)
        p = [solution[j] for j in range(n_p)]
        q = [mpmath.mpf(1)] + [solution[n_p + j] for j in range(n_q - 1)]
        error = [
            abs(x * mpmath.polyval(p[::-1], x * x) / mpmath.polyval(q[::-1], x * x) / t - 1)
            for x, t in zip(nodes, target, strict=True)
        ]
        weight = [w * e for w, e in zip(weight, error, strict=True)]
        total = mpmath.fsum(weight)
        weight = [w / total * n_node + mpmath.mpf(10) ** -12 for w in weight]
    return p, q


def evaluate(x: np.ndarray, p: list[np.float32], q: list[np.float32], limit: float) -> np.ndarray:
    """Evaluate the rational function in float32, clamped, by Horner's rule."""
    x = np.clip(x, np.float32(-limit), np.float32(limit))
    square = x * x
    top = np.full_like(x, p[-1])
    for value in p[-2::-1]:
        top = top * square + value
    bottom = np.full_like(x, q[-1])
    for value in q[-2::-1]:
        bottom = bottom * square + value
    return x * top / bottom


def main() -> None:
    """Fit, print, measure."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.fit_tanh", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--limit", type=float, default=8.5, help="where it is 1 (default: 8.5)")
    count = {"type": int, "choices": range(2, 21), "default": 5, "metavar": "N"}
    parser.add_argument("--p", **count, help="coefficients of P, 2 to 20 (default: 5)")
    parser.add_argument("--q", **count, help="coefficients of Q, 2 to 20 (default: 5)")
    args = parser.parse_args()
    p, q = fit(args.limit, args.p, args.q)
    p32 = [np.float32(float(value)) for value in p]
    q32 = [np.float32(float(value)) for value in q]
    x = np.linspace(-12, 12, 4_000_001, dtype=np.float32)
    exact = np.tanh(x.astype(np.float64))
    got = evaluate(x, p32, q32, args.limit).astype(np.float64)
    print("LIMIT =", args.limit)
    print("P =", [float(value) for value in p32])
    print("Q =", [float(value) for value in q32])
    print(f"tanh: largest absolute error {np.abs(got - exact).max():.2e}, value {got.max():.9f}")
    tiny = np.abs(x) > 0
    print(f"tanh: largest relative error {np.abs(got[tiny] / exact[tiny] - 1).max():.2e}")
    half = 0.5 + 0.5 * evaluate(np.float32(0.5) * x, p32, q32, args.limit)
    sigmoid = 1 / (1 + np.exp(-x.astype(np.float64)))
    print(f"sigmoid: largest absolute error {np.abs(half - sigmoid).max():.2e}")


if __name__ == "__main__":
    main()
