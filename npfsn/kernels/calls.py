"""Kernels that Python calls by themselves, outside programs: arrays come as addresses and sizes."""

from __future__ import annotations

import numpy as np

from ..jit import kernel
from . import products, resample, spectrum
from .arrays import array_at, record
from .tables import PRODUCT


@kernel
def check_samples(x, n, out, bad):
    """Call `spectrum.check_samples` for n samples."""
    spectrum.check_samples(
        array_at(x, n, np.float32),
        array_at(out, n, np.float32),
        array_at(bad, 1, np.int64),
    )


@kernel
def find_start(x, n, hop, patience, silent, hops):
    """Call `spectrum.find_start` for n samples."""
    spectrum.find_start(
        array_at(x, n, np.float32), hop, patience, array_at(silent, 1, np.int64),
        array_at(hops, 1, np.int64),
    )  # fmt: skip


@kernel
def filtered(x, n_x, taps, n_phase, n_tap, up, down, first, y, n_y):
    """Call `resample.outputs` for n_y outputs of a filter f64[n_phase, n_tap]."""
    resample.outputs(
        array_at(x, n_x, np.float64), array_at(taps, (n_phase, n_tap), np.float64),
        up, down, first, array_at(y, n_y, np.float64),
    )  # fmt: skip


@kernel
def matmul(x, n_column, w, n_row, out, width):
    """Call `products.product` for all panels: from f32[n_row, n_column] to f32[n_row, width]."""
    x = array_at(x, (n_row, n_column), np.float32)
    out = array_at(out, (n_row, width), np.float32)
    w = record(w, PRODUCT)
    products.make_ready(x, 0, n_row, w)
    products.product(x, 0, n_row, w, 0, w.weight.rows, out, 0)
