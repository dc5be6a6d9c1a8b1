"""Sample rate conversion: a polyphase filter, one phase of which gives each output."""

from __future__ import annotations

from ..jit import inlined
from .tables import SUMS


@inlined
def outputs(x, taps, up, down, first, y):
    """Compute y[i] = sum over k of x[p // up + k] taps[p % up, k], where p = first + i down.

    x      f64[N]      input
    taps   f64[up, K]  of each phase, in the order of the input; K a multiple of SUMS
    up, down  i64      steps of the common grid between two inputs, two outputs
    first  i64         grid position of the first output, whose oldest input is x[first // up]
    y      f64[M]

    Updates: y. The order of additions depends on K alone.
    """
    for i in range(y.shape[0]):
        start, phase = divmod(first + i * down, up)
        a = b = c = d = 0.0
        for k in range(0, taps.shape[1], SUMS):
            a += x[start + k] * taps[phase, k]
            b += x[start + k + 1] * taps[phase, k + 1]
            c += x[start + k + 2] * taps[phase, k + 2]
            d += x[start + k + 3] * taps[phase, k + 3]
        y[i] = (a + b) + (c + d)
