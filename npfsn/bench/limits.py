"""The least time a step could take: its bytes over bandwidth, and its operations over peak.

Bytes and operations per frame are counted from the packed weights; memory bandwidth and peak
throughput are measured on the spot.
"""

from __future__ import annotations

import time
import timeit
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..enhancer import Enhancer
from ..layers import PRODUCTS, Product


@dataclass
class Work:
    """Average bytes and operations per frame for one kind of product."""

    #: Bytes of weights multiplied by a single row: read for every frame, or once for two.
    row_bytes: float = 0.0
    #: Bytes of weights multiplied by many rows, and the multiplications and additions with them.
    bytes: float = 0.0
    operations: float = 0.0


def frame_work(enhancer: Enhancer) -> dict[type[Product], Work]:
    """Count what the layers of a network read and compute per frame, by kind of product."""
    work: dict[type[Product], Work] = defaultdict(Work)
    for stack in enhancer._stream._one.network_pass.stacks:
        spec, units, rate = stack.weights.spec, stack.weights.units, 1.0 / stack.every
        # With a single unit, recurrent weights are read every other frame (`recur`).
        reads = 0.5 if units == 1 else 1.0
        products = []
        for i, layer in enumerate(stack.weights.layers):
            products.append((layer.input, spec.hidden_size if i else spec.input_size, 1.0))
            products.append((layer.recurrent, spec.hidden_size, reads))
        if stack.weights.linear is not None:
            products.append((stack.weights.linear, spec.hidden_size, 1.0))
        for product, n_in, share in products:
            kind = work[PRODUCTS[product.precision]]
            n_bytes = rate * share * (sum(w.nbytes for w in product.weights) + product.bias.nbytes)
            if units == 1:
                kind.row_bytes += n_bytes
            else:
                kind.bytes += n_bytes
                kind.operations += rate * product.operations(units, n_in)
    return dict(work)


def limits(enhancer: Enhancer, mean_ms: float, quick: bool) -> dict[str, Any]:
    """Compare the mean step with bytes over bandwidth plus operations over peak.

    The sum assumes no overlap: where tiles prefetch weights, a step may take less.
    """
    repeats = 3 if quick else 25
    work = frame_work(enhancer)
    row_bytes = sum(each.row_bytes for each in work.values())
    total_bytes = row_bytes + sum(each.bytes for each in work.values())
    bandwidth = read_bandwidth(int(total_bytes), repeats)
    peaks = {kind: tile_peak(kind, repeats) for kind, each in work.items() if each.operations}
    read_ms = row_bytes / bandwidth * 1e3
    compute_ms = sum(work[kind].operations / peak for kind, peak in peaks.items()) * 1e3
    return {
        "bytes_per_frame": int(total_bytes),
        "bytes_read_once": int(row_bytes),
        "bandwidth_gb_s": bandwidth / 1e9,
        "memory_bandwidth_gb_s": read_bandwidth((32 if quick else 256) << 20, 3) / 1e9,
        "operations_per_frame": int(sum(each.operations for each in work.values())),
        "peak_gop_s": {kind.precision: peak / 1e9 for kind, peak in peaks.items()},
        "read_ms": read_ms,
        "compute_ms": compute_ms,
        "limit_ms": read_ms + compute_ms,
        "mean_ms": mean_ms,
        "share_of_limit": (read_ms + compute_ms) / mean_ms,
    }


def _fastest(call: Callable[[], Any], repeats: int) -> float:
    """Return the time of the fastest call, s, the one least disturbed by other programs."""
    return min(timeit.repeat(call, number=1, repeat=repeats, timer=time.perf_counter))


def read_bandwidth(n_bytes: int, repeats: int) -> float:
    """Return the bytes per second at which one core reads a buffer of that size repeatedly.

    The faster of NumPy's reduction and our product with one row: neither is known to be optimal.
    """
    n_in = 512
    n_out = max(n_bytes // (4 * n_in) // 16 * 16, 16)
    weight = np.ones((n_out, n_in), np.float32)
    numpy_rate = weight.nbytes / _fastest(partial(np.max, weight), repeats)
    product = Product(weight, np.zeros(n_out, np.float32))
    del weight
    x, out = np.ones((1, n_in), np.float32), np.zeros((1, product.width), np.float32)
    bound = product.bind(1, n_in)
    own_rate = product.weights[0].nbytes / _fastest(lambda: bound(x, out, 1), repeats)
    return max(numpy_rate, own_rate)


def tile_peak(kind: type[Product], repeats: int) -> float:
    """Return the operations per second of a kind of product with all data in the nearest caches."""
    sizes = ((48, 256, 192), (96, 384, 192), (64, 384, 1536))
    return max(_throughput(kind, *size, repeats) for size in sizes)


def _throughput(kind: type[Product], rows: int, n_in: int, n_out: int, repeats: int) -> float:
    """Return the operations per second of a product of that size."""
    product = kind(np.ones((n_out, n_in), np.float32), np.zeros(n_out, np.float32))
    x, out = np.ones((rows, n_in), np.float32), np.zeros((rows, n_out), np.float32)
    bound = product.bind(rows, n_in)
    calls = 1 + int(2e7 / (rows * n_in * n_out))

    def run() -> None:
        for _ in range(calls):
            bound(x, out, rows)

    run()
    return calls * 2.0 * rows * n_in * n_out / _fastest(run, repeats)
