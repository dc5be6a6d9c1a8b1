"""Samples to spectra and back: a real FFT, framing, overlap-add. All in float64.

Double precision costs a few microseconds a hop and buys two things: the division by the squared
window at the end of a signal, where the window is 4e-5, amplifies nothing that matters; and samples
of any size up to 1e30 pass without overflow.

The transform of n real samples is one of n/2 complex ones (Stockham's autosort, any factors) and a
last step that separates even and odd samples.
"""

from __future__ import annotations

import numpy as np

from ..jit import inlined, kernel
from .cpu import SMALLEST
from .tables import LOUDEST

#: Larger samples are clipped: their spectrum would leave float32.
MAX_SAMPLE = np.float32(1e30)
#: Samples up to this size are silence: three 16-bit steps, more than dither.
SILENCE = np.float32(1e-4)

ONE, TWO, THREE, FOUR = (np.uint64(n) for n in range(1, 5))


@inlined
def _four(re, im, first, quarter, cos, sin, k, to_re, to_im, to, stride):
    """Compute one radix-4 butterfly with its twiddle factors w_n^p, w_n^2p and w_n^3p.

    re, im          f64[M]  input; the four values are `quarter` apart from `first` on
    first, quarter  u64
    cos, sin        f64[M]  the twiddle (see `fft`)
    k               u64     index of w_n^p in it
    to_re, to_im    f64[M]  output; the four values are `stride` apart from `to` on
    to, stride      u64

    Updates: to_re, to_im.
    """
    i1, i2, i3 = first + quarter, first + TWO * quarter, first + THREE * quarter
    ar, ai = re[first] + re[i2], im[first] + im[i2]
    br, bi = re[first] - re[i2], im[first] - im[i2]
    cr, ci = re[i1] + re[i3], im[i1] + im[i3]
    dr, di = re[i1] - re[i3], im[i1] - im[i3]
    to_re[to], to_im[to] = ar + cr, ai + ci
    c, s = cos[k], sin[k]
    xr, xi = br + di, bi - dr
    to += stride
    to_re[to], to_im[to] = xr * c - xi * s, xr * s + xi * c
    c, s = cos[TWO * k], sin[TWO * k]
    xr, xi = ar - cr, ai - ci
    to += stride
    to_re[to], to_im[to] = xr * c - xi * s, xr * s + xi * c
    c, s = cos[THREE * k], sin[THREE * k]
    xr, xi = br - di, bi + dr
    to += stride
    to_re[to], to_im[to] = xr * c - xi * s, xr * s + xi * c


@kernel
def fft(z, factor, twiddle, work):
    """Complex forward transform in place.

    z        f64[2, M]  real and imaginary parts
    factor   i64[?]     factors of M (`factors`)
    twiddle  f64[2, M]  `twiddles(M)`
    work     f64[2, M]  scratch
    """
    # Unsigned indices: Numba then omits its check for negative (wrap-around) indices, and the loops
    # vectorise.
    size = np.uint64(z.shape[1])
    n, stride = size, ONE
    cos, sin = twiddle[0], twiddle[1]
    re, im, to_re, to_im = z[0], z[1], work[0], work[1]
    for f in factor:
        radix = np.uint64(f)
        m = n // radix
        turn = size // n  # one step of w_n on the twiddle of `size` steps
        if radix == FOUR and stride == ONE:  # fours side by side: a loop over p, which is long
            for p in range(m):
                _four(re, im, p, m, cos, sin, p, to_re, to_im, FOUR * p, ONE)
        elif radix == FOUR:
            for p in range(m):
                for q in range(stride):
                    _four(re, im, stride * p + q, stride * m, cos, sin, p * turn, to_re, to_im,
                          FOUR * stride * p + q, stride)  # fmt: skip
        else:
            root = size // radix
            for p in range(m):
                for q in range(stride):
                    for k in range(radix):
                        xr, xi = 0.0, 0.0
                        for j in range(radix):
                            i = q + stride * (p + j * m)
                            w = (j * k % radix) * root
                            xr += re[i] * cos[w] - im[i] * sin[w]
                            xi += re[i] * sin[w] + im[i] * cos[w]
                        c, s = cos[k * p * turn], sin[k * p * turn]
                        o = q + stride * (radix * p + k)
                        to_re[o], to_im[o] = xr * c - xi * s, xr * s + xi * c
        n = m
        stride *= radix
        re, im, to_re, to_im = to_re, to_im, re, im
    if len(factor) % 2:
        for k in range(size):
            z[0, k], z[1, k] = work[0, k], work[1, k]


@inlined
def analyse(signal, hop, window, factor, twiddle, twiddle_real, z, work, spec, mag):
    """Spectra of T overlapping frames.

    signal  f32[>= (T - 1) hop + N]  samples; frame t is signal[t hop : t hop + N]
    hop     int
    window  f64[N]
    factor, twiddle                  of M = N / 2 (see `fft`)
    twiddle_real  f64[2, N]          `twiddles(N)`
    z, work  f64[2, M]               scratch
    spec    f64[T, 2, M + 1]         real and imaginary parts
    mag     f32[T, M + 1]            magnitudes
    """
    size = window.shape[0]
    m = size // 2
    for t in range(spec.shape[0]):
        at = t * hop
        for k in range(m):
            z[0, k] = signal[at + 2 * k] * window[2 * k]
            z[1, k] = signal[at + 2 * k + 1] * window[2 * k + 1]
        fft(z, factor, twiddle, work)
        spec[t, 0, 0], spec[t, 1, 0] = z[0, 0] + z[1, 0], 0.0
        spec[t, 0, m], spec[t, 1, m] = z[0, 0] - z[1, 0], 0.0
        for k in range(1, m):
            even_r = 0.5 * (z[0, k] + z[0, m - k])
            even_i = 0.5 * (z[1, k] - z[1, m - k])
            odd_r = 0.5 * (z[1, k] + z[1, m - k])
            odd_i = 0.5 * (z[0, m - k] - z[0, k])
            c, s = twiddle_real[0, k], twiddle_real[1, k]
            spec[t, 0, k] = even_r + odd_r * c - odd_i * s
            spec[t, 1, k] = even_i + odd_r * s + odd_i * c
        for k in range(m + 1):
            size_k = np.sqrt(spec[t, 0, k] * spec[t, 0, k] + spec[t, 1, k] * spec[t, 1, k])
            mag[t, k] = np.float32(size_k if size_k >= SMALLEST else 0.0)


@inlined
def synthesise(spec, hop, window, factor, twiddle, twiddle_real, z, work, ola, env, out):
    """Overlap-add of T frames; each frame completes one hop.

    spec    f64[T, 2, M + 1]  real and imaginary parts
    hop, window, factor, twiddle, twiddle_real, z, work  as in `analyse`
    ola     f64[N]     overlap-added windowed frames, from the next output sample on
    env     f64[N]     overlap-added squared windows, likewise
    out     f32[T hop]

    Updates: ola, env. The imaginary parts of the first and the last bin are ignored.
    """
    size = window.shape[0]
    m = size // 2
    scale = 1.0 / m
    for t in range(spec.shape[0]):
        # z = even + i odd, real and imaginary part swapped: that makes `fft` the inverse.
        z[1, 0] = 0.5 * (spec[t, 0, 0] + spec[t, 0, m])
        z[0, 0] = 0.5 * (spec[t, 0, 0] - spec[t, 0, m])
        for k in range(1, m):
            ar, ai = spec[t, 0, k], spec[t, 1, k]
            br, bi = spec[t, 0, m - k], spec[t, 1, m - k]
            even_r, even_i = 0.5 * (ar + br), 0.5 * (ai - bi)
            diff_r, diff_i = 0.5 * (ar - br), 0.5 * (ai + bi)
            c, s = twiddle_real[0, k], -twiddle_real[1, k]
            odd_r = diff_r * c - diff_i * s
            odd_i = diff_r * s + diff_i * c
            z[1, k] = even_r - odd_i
            z[0, k] = even_i + odd_r
        fft(z, factor, twiddle, work)
        for k in range(m):
            ola[2 * k] += z[1, k] * scale * window[2 * k]
            ola[2 * k + 1] += z[0, k] * scale * window[2 * k + 1]
        for n in range(size):
            env[n] += window[n] * window[n]
        for n in range(hop):
            # Only the first sample of the first frame lies under no window at all.
            value = ola[n] / env[n] if env[n] > 0.0 else 0.0
            value = value if abs(value) >= SMALLEST else 0.0
            out[t * hop + n] = np.float32(min(max(value, -LOUDEST), LOUDEST))
        for n in range(size - hop):
            ola[n] = ola[n + hop]
            env[n] = env[n + hop]
        for n in range(size - hop, size):
            ola[n] = 0.0
            env[n] = 0.0


@inlined
def check_samples(x, out, bad):
    """Copy samples. NaN and infinity become zero and are counted.

    Samples below `SMALLEST` become zero, those beyond `MAX_SAMPLE` are clipped: neither is counted.

    x    f32[N]
    out  f32[N]
    bad  i64[1]  samples that were NaN or infinite

    Updates: bad (set, not added to).
    """
    bad[0] = 0
    for n in range(x.shape[0]):
        value = x[n]
        if not np.isfinite(value):
            bad[0] += 1
        if not (np.isfinite(value) and abs(value) >= SMALLEST):
            value = np.float32(0.0)
        out[n] = min(max(value, -MAX_SAMPLE), MAX_SAMPLE)


@inlined
def find_start(x, hop, patience, silent, hops):
    """Find the first hop with sound, a sample larger than SILENCE, that ends a long silence.

    The last eighth of a hop does not count: it lies under the foot of the window of the frame that
    ends with the hop, and a first frame of next to nothing would count as much as any other.

    x         f32[H hop]
    hop       int
    patience  int     hops after which a silence is long
    silent    i64[1]  silent hops so far, counted up to patience
    hops      i64[1]  the hops before the one found; H if there is none

    Updates: silent, up to the hop found or to the end; hops.
    """
    hops[0] = x.shape[0] // hop
    for h in range(hops[0]):
        sound = False
        for n in range(h * hop, (h + 1) * hop - hop // 8):
            sound = sound or abs(x[n]) > SILENCE
        if not sound:
            silent[0] = min(silent[0] + 1, patience)
        elif silent[0] < patience:
            silent[0] = 0
        else:
            hops[0] = h
            return


@inlined
def push_hop(signal, x):
    """Shift the newest samples in.

    signal  f32[S]    oldest first
    x       f32[hop]

    Updates: signal.
    """
    keep = signal.shape[0] - x.shape[0]
    for n in range(keep):
        signal[n] = signal[n + x.shape[0]]
    for n in range(x.shape[0]):
        signal[keep + n] = x[n]


@inlined
def count_hop(clock):
    """Count one more hop and one more frame.

    clock  i64[2]  hops, frames

    Updates: clock.
    """
    clock[0] += 1
    clock[1] += 1


@inlined
def wait_for_mask(new, held, ready):
    """Delay spectra by the look-ahead: the mask of a frame comes L frames later.

    new    f64[T, 2, F]  spectra of this block
    held   f64[L, 2, F]  the last L before it
    ready  f64[T, 2, F]  held and then new, the first T of them

    Updates: held, ready.
    """
    n, n_held = new.shape[0], held.shape[0]
    for t in range(n):
        source, at = (held, t) if t < n_held else (new, t - n_held)
        for part in range(2):
            for f in range(new.shape[2]):
                ready[t, part, f] = source[at, part, f]
    for t in range(n_held):
        source, at = (held, t + n) if t + n < n_held else (new, t + n - n_held)
        for part in range(2):
            for f in range(new.shape[2]):
                held[t, part, f] = source[at, part, f]


@inlined
def mix_dry(x, share, line, hop, energy, out):
    """Mix the delayed input back in: out = share dry + (1 - share) out.

    x       f32[N]  input
    share   f32     of the input; 0: only the delay line advances
    line    f32[D]  delay line, oldest first
    hop     int     at most N
    energy  f64[3]  of the last hop, before that: of the enhanced signal, of the delayed input, of
                    their difference
    out     f32[N]  enhanced signal, D samples behind the input

    Updates: line, energy, out.
    """
    n_delay, n = line.shape[0], x.shape[0]
    of_out = of_dry = of_rest = 0.0
    for i in range(n - hop, n):
        dry, kept = np.float64(line[i] if i < n_delay else x[i - n_delay]), np.float64(out[i])
        of_out += kept * kept
        of_dry += dry * dry
        of_rest += (dry - kept) * (dry - kept)
    energy[0], energy[1], energy[2] = of_out, of_dry, of_rest
    wet = np.float32(1.0) - share
    if share > 0.0:
        for i in range(n):
            dry = line[i] if i < n_delay else x[i - n_delay]
            out[i] = share * dry + wet * out[i]
    for i in range(n_delay):
        line[i] = line[i + n] if i + n < n_delay else x[i + n - n_delay]
