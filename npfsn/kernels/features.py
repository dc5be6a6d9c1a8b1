"""The steps between spectrum and layers: mel bands, norms, neighbours, time shrink, masks.

Frames come in blocks: x[T, F] or, for U units that share weights, x[T, U, S]. The state makes a
block of T frames give the same as T blocks of one. Running sums are float64: a float32 count of
257 values a frame stops being exact after seventeen minutes.
"""

from __future__ import annotations

import math

import numpy as np

from ..jit import inlined, kernel
from .cpu import SMALLEST
from .tables import FLOAT32_EPS

#: Larger compressed magnitudes are clipped: sums of their squares would leave float64.
MAX_COMPRESSED = 1e36
#: A plain mask beyond this is a broken network's; it must not break the stream.
GAIN_LIMIT = np.float32(1e6)
# A running sum this small is nothing, and soon a denormal number.
_LEAST_SUM = 1e-200
#: Frames that `forgetting_norm` remembers.
MEMORY = 192
#: The compressed mask is clipped to this before it is expanded; float32, as in the published code.
MASK_LIMIT = np.float64(np.float32(9.9))
MASK_K = 10.0

LN_2 = math.log(2.0)
# The bits of sqrt(1/2), the lowest mantissa of `_log`.
ROOT_HALF = int(np.float64(math.sqrt(0.5)).view(np.int64))


@inlined
def _flush(value):
    """Return an f32, or zero for one smaller than `SMALLEST` in size."""
    return value if abs(value) >= SMALLEST else np.float32(0.0)


@inlined
def _fade(sums, share):
    """Keep a share of running sums; those that fade to nothing become zero.

    sums   f64[U]
    share  f64

    Updates: sums.
    """
    for u in range(sums.shape[0]):
        value = sums[u] * share
        sums[u] = value if abs(value) >= _LEAST_SUM else 0.0


@inlined
def pool_mel(mag, first, start, weight, out):
    """Pool T frames into mel bands: out = mag fb, where fb is mostly zero.

    mag     f32[T, F]
    first   i64[M]      first bin of a band
    start   i64[M + 1]  where the band's weights start in weight
    weight  f32[?]      the non-zero part of fb, band after band
    out     f32[T, M]
    """
    for t in range(mag.shape[0]):
        for band in range(out.shape[1]):
            total = np.float32(0.0)
            for i in range(start[band], start[band + 1]):
                total += mag[t, first[band] + i - start[band]] * weight[i]
            out[t, band] = total


@inlined
def power(x, exponent, out):
    """Compressed magnitudes: out[T, F'] = x[T, :F'] ** exponent.

    x         f32[T, >= F']
    exponent  f64
    out       f32[T, F']
    """
    for t in range(out.shape[0]):
        for f in range(out.shape[1]):
            if exponent == 0.5:
                out[t, f] = np.sqrt(x[t, f])
            else:
                value = min(math.pow(x[t, f], exponent), MAX_COMPRESSED)
                out[t, f] = np.float32(value if value >= SMALLEST else 0.0)


@inlined
def cumulative_laplace(x, horizon, count, total, out):
    """Divide by the mean of everything so far + eps, one mean per unit.

    x        f32[T, U, S]
    horizon  f64     frames after which the past fades (infinite: never)
    count    f64[1]  frames so far
    total    f64[U]  sum over frames and features so far
    out      f32[T, U, S]

    Updates: count, total.
    """
    n_unit, size = x.shape[1], x.shape[2]
    for t in range(x.shape[0]):
        if count[0] + 1.0 > horizon:
            _fade(total, (horizon - 1.0) / count[0])
            count[0] = horizon - 1.0
        count[0] += 1.0
        for u in range(n_unit):
            s = 0.0
            for i in range(size):
                s += x[t, u, i]
            total[u] += s
            scale = np.float32(total[u] / (count[0] * size) + FLOAT32_EPS)
            for i in range(size):
                out[t, u, i] = _flush(x[t, u, i] / scale)


@inlined
def cumulative_layer(x, horizon, count, total, square, out):
    """(x - mean) / sqrt(var + eps) of everything so far, one mean and variance per unit.

    var = (sum x^2 - 2 mean sum x) / n + mean^2, as published; never below zero here.

    x, horizon, count, out  as in `cumulative_laplace`
    total   f64[U]  sum so far
    square  f64[U]  sum of squares so far

    Updates: count, total, square.
    """
    n_unit, size = x.shape[1], x.shape[2]
    for t in range(x.shape[0]):
        if count[0] + 1.0 > horizon:
            fade = (horizon - 1.0) / count[0]
            _fade(total, fade)
            _fade(square, fade)
            count[0] = horizon - 1.0
        count[0] += 1.0
        for u in range(n_unit):
            s, q = 0.0, 0.0
            for i in range(size):
                value = np.float64(x[t, u, i])
                s += value
                q += value * value
            total[u] += s
            square[u] += q
            n = count[0] * size
            mean = total[u] / n
            var = max((square[u] - 2.0 * mean * total[u]) / n + mean * mean, 0.0)
            shift, scale = np.float32(mean), np.float32(np.sqrt(var + FLOAT32_EPS))
            for i in range(size):
                out[t, u, i] = _flush((x[t, u, i] - shift) / scale)


@inlined
def forgetting(x, eps, horizon, count, mu, out):
    """Divide by mu + eps, mu_t = a_t mu_(t-1) + (1 - a_t) mean(x_t).

    a_t = (S - 1) / (S + 1) with S = MEMORY; before frame S the smaller of it and (t - 1) / (t + 1).
    At t = 0, a_t is -1 and so mu_0 twice the mean, as published.

    x      f32[T, U, S]  one statistic over all units
    eps    f64
    count  f64[1]  frames so far
    mu     f64[1]  running mean
    out    f32[T, U, S]

    Updates: count, mu. `horizon` shortens the memory where it is smaller.
    """
    n_unit, size = x.shape[1], x.shape[2]
    memory = min(float(MEMORY), horizon)
    steady = (memory - 1.0) / (memory + 1.0)
    for t in range(x.shape[0]):
        s = 0.0
        for u in range(n_unit):
            for i in range(size):
                s += x[t, u, i]
        mean = s / (n_unit * size)
        a = steady
        if count[0] < memory:
            a = (count[0] - 1.0) / (count[0] + 1.0)
        count[0] += 1.0
        mu[0] = a * mu[0] + (1.0 - a) * mean
        if abs(mu[0]) < _LEAST_SUM:
            mu[0] = 0.0
        scale = np.float32(mu[0] + eps)
        for u in range(n_unit):
            for i in range(size):
                out[t, u, i] = _flush(x[t, u, i] / scale)


@inlined
def count_moments(x, moments):
    """Count number, sum and sum of squares of all values, for a norm over the whole signal.

    x        f32[T, U, S]
    moments  f64[3]  number, sum, sum of squares

    Updates: moments.
    """
    for t in range(x.shape[0]):
        s, q = 0.0, 0.0
        for u in range(x.shape[1]):
            for i in range(x.shape[2]):
                value = np.float64(x[t, u, i])
                s += value
                q += value * value
        moments[0] += x.shape[1] * x.shape[2]
        moments[1] += s
        moments[2] += q


@inlined
def scale_fixed(x, shift, scale, out):
    """(x - shift) / scale with given numbers.

    x, out        f32[T, U, S]
    shift, scale  f32
    """
    for t in range(x.shape[0]):
        for u in range(x.shape[1]):
            for i in range(x.shape[2]):
                out[t, u, i] = _flush((x[t, u, i] - shift) / scale)


@kernel
def unfold(x, near, first, step, out, at):
    """Copy units of `step` bins, with their neighbours, reflected at the edges.

    out[t, u, at + j] = x[t, first + u step + j - near], j < step + 2 near. The edge itself is not
    repeated: index -1 is 1, F is F - 2.

    x            f32[T, F]
    near         int           neighbours each side
    first, step  int           where unit 0 starts, and how far the next one is
    out          f32[T, U, S]
    at           int           where they go in the unit's features
    """
    last = x.shape[1] - 1
    for t in range(x.shape[0]):
        for u in range(out.shape[1]):
            for j in range(step + 2 * near):
                i = first + u * step + j - near
                if i < 0:
                    i = -i
                if i > last:
                    i = 2 * last - i
                out[t, u, at + j] = x[t, i]


@inlined
def follow_level(mel, normed, quiet, level, enc, out):
    """Compute out = enc min(level / quiet, 1), where level is the running mean of mel.

    mel     f32[T, M]
    normed  f32[T, M]  mel over its running mean
    quiet   f64        the mean below which input is quiet
    level   f64[1]     the running mean at the last frame in which mel was not all zero
    enc     f32[T, M]  the encoder's output
    out     f32[T, M]

    Updates: level.
    """
    for t in range(mel.shape[0]):
        total, share = 0.0, 0.0
        for m in range(mel.shape[1]):
            total += mel[t, m]
            share += normed[t, m]
        if share > 0.0:
            level[0] = total / share
        gain = np.float32(min(level[0] / quiet, 1.0))
        for m in range(mel.shape[1]):
            out[t, m] = _flush(enc[t, m] * gain)


@inlined
def shrink_units(mel, enc, near, far, frame, shrink, acc, out):
    """Build units at 1 / s of the rate: means over frame 0 alone, 1 .. s, s + 1 .. 2 s, ...

    A unit is a mel band with its neighbours, then the encoder's output there with its neighbours.
    Averaging before the neighbours are copied gives the same numbers for less work.

    mel, enc   f32[T, M]
    near, far  int     neighbours each side in mel and in enc
    frame      int     index of mel[0] in the stream
    shrink     int     s
    acc        f32[2, M]  sums of mel and enc over the current block
    out        f32[K, M, 2 near + 2 far + 2]  the blocks that end within these frames

    Updates: acc.
    """
    block = 0
    for t in range(mel.shape[0]):
        for m in range(mel.shape[1]):
            acc[0, m] += mel[t, m]
            acc[1, m] += enc[t, m]
        if (frame + t) % shrink == 0:
            n = np.float32(1.0) if frame + t == 0 else np.float32(shrink)
            for part in range(2):
                for m in range(mel.shape[1]):
                    acc[part, m] /= n
            unfold(acc[:1], near, 0, 1, out[block : block + 1], 0)
            unfold(acc[1:], far, 0, 1, out[block : block + 1], 2 * near + 1)
            for part in range(2):
                for m in range(mel.shape[1]):
                    acc[part, m] = np.float32(0.0)
            block += 1


@inlined
def join_held(enc, block, frame, shrink, held, out):
    """Join the decoder's input: a frame's encoder output, then the result of the last block to end.

    enc     f32[T, M]
    block   f32[K, M]  results of the blocks that end within these frames
    frame   int        index of enc[0] in the stream
    shrink  int        s, frames of a block
    held    f32[M]     the last result before them
    out     f32[T, 2 M]

    Updates: held.
    """
    size = enc.shape[1]
    k = 0
    for t in range(enc.shape[0]):
        if (frame + t) % shrink == 0:
            for m in range(size):
                held[m] = block[k, m]
            k += 1
        for m in range(size):
            out[t, m] = enc[t, m]
            out[t, size + m] = held[m]


@inlined
def gather_mask(x, center, first, units, mask):
    """Put the results of units side by side: a unit gives [2, center] values.

    x       f32[T U, 2 center]
    center  int  bins per unit
    first   int  bin of the first unit
    units   int  U
    mask    f32[T, 2, F]

    Updates: mask, bins first .. first + U center - 1.
    """
    for t in range(mask.shape[0]):
        for u in range(units):
            for part in range(2):
                for j in range(center):
                    mask[t, part, first + u * center + j] = x[t * units + u, part * center + j]


@inlined
def _log(x):
    """Return the natural logarithm of a positive float64, to 3 ulp; loops over it vectorise.

    x = m 2^e with m in [sqrt(1/2), sqrt(2)); ln m = 2 z (1 + z^2 / 3 + z^4 / 5 + ...) with
    z = (m - 1) / (m + 1), |z| < 0.172: ten terms.
    """
    bits = np.float64(x).view(np.int64)
    exponent = (bits - ROOT_HALF) >> 52
    m = np.int64(bits - (exponent << 52)).view(np.float64)
    z = (m - 1.0) / (m + 1.0)
    square = z * z
    series = 2.0 / 19.0
    series = series * square + 2.0 / 17.0
    series = series * square + 2.0 / 15.0
    series = series * square + 2.0 / 13.0
    series = series * square + 2.0 / 11.0
    series = series * square + 2.0 / 9.0
    series = series * square + 2.0 / 7.0
    series = series * square + 2.0 / 5.0
    series = series * square + 2.0 / 3.0
    return exponent * LN_2 + z * (series * square + 2.0)


@kernel
def _apply_row(mask_re, mask_im, re, im):
    """Apply `apply_complex` to a frame.

    mask_re, mask_im  f32[F]  compressed mask
    re, im            f64[F]  spectrum

    Updates: re, im. Not inlined: in a loop over frames, LLVM would check once, for all frames
    together, whether the rows overlap. They do, so the loop over bins would not be vectorised.
    """
    for f in range(mask_re.shape[0]):
        a, b = np.float64(mask_re[f]), np.float64(mask_im[f])
        a = min(max(a if a == a else 0.0, -MASK_LIMIT), MASK_LIMIT)
        b = min(max(b if b == b else 0.0, -MASK_LIMIT), MASK_LIMIT)
        a = -MASK_K * _log((MASK_K - a) / (MASK_K + a))
        b = -MASK_K * _log((MASK_K - b) / (MASK_K + b))
        x, y = re[f], im[f]
        re[f] = x * a - y * b
        im[f] = x * b + y * a


@inlined
def apply_complex(mask, spec):
    """Expand the compressed mask and multiply: spec *= m_re + i m_im.

    m = -10 ln((10 - m) / (10 + m)), m clipped to +-9.9 first; NaN mutes. In float64: in
    float32 a mask of one would be off by 1e-6.

    mask  f32[T, 2, F]
    spec  f64[>= T, 2, F]

    Updates: spec.
    """
    for t in range(mask.shape[0]):
        _apply_row(mask[t, 0], mask[t, 1], spec[t, 0], spec[t, 1])


@inlined
def apply_planes(mask, spec):
    """Multiply real part by real plane, imaginary part by imaginary plane.

    mask  f32[T, 2, F]
    spec  f64[>= T, 2, F]

    Updates: spec.
    """
    for t in range(mask.shape[0]):
        for f in range(mask.shape[2]):
            a, b = mask[t, 0, f], mask[t, 1, f]
            spec[t, 0, f] *= min(max(a if a == a else np.float32(0.0), -GAIN_LIMIT), GAIN_LIMIT)
            spec[t, 1, f] *= min(max(b if b == b else np.float32(0.0), -GAIN_LIMIT), GAIN_LIMIT)
