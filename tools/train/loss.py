"""The loss: a sum of terms, each of which measures one kind of error of a mask."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from .model import compress_mask, decompress_mask, istft, mel_filterbank, stft
from .pool import SAMPLE_RATE

SEGMENT = 24


def loss(mask: Tensor, noisy: Tensor, target: Tensor, over_suppression: float) -> dict[str, Tensor]:
    """Compute the terms of the loss.

    Parameters
    ----------
    mask : Tensor, shape (batch, 2, bins, frames)
        Output of the network, before decompression.
    noisy, target : Tensor, shape (batch, samples)

    Returns
    -------
    dict of str to Tensor
        ``mask``: squared error of the compressed complex ratio mask. ``magnitude``, ``complex``:
        squared errors of spectra to the power 0.3, scaled by the noisy level, so that noise-only
        items weigh no more than others; in ``magnitude``, what is suppressed too far counts
        ``over_suppression`` times more. ``residual``: energy of the error over that of the noisy
        signal, dB. ``bands``: the same in bands and segments of 0.4 s, each of which counts alike,
        as it does for intelligibility. ``loudness``: difference in perceived loudness, see
        `loudness_difference`. ``envelope``: lack of correlation with the target's envelopes, see
        `envelope_difference`.
    """
    # One scale per item, finite for silence.
    scale = 1.0 / (noisy.square().mean(-1, keepdim=True).sqrt() + 1e-5)
    noisy, target = noisy * scale, target * scale
    y, s = stft(noisy), stft(target)
    power = y.real.square() + y.imag.square() + 1e-3
    ideal = torch.stack(
        [
            (s.real * y.real + s.imag * y.imag) / power,
            (s.imag * y.real - s.real * y.imag) / power,
        ],
        1,
    )
    mask_error = (mask - compress_mask(ideal.clamp(-50, 50))).square().mean()
    planes = decompress_mask(mask)
    e_re = y.real * planes[:, 0] - y.imag * planes[:, 1]
    e_im = y.real * planes[:, 1] + y.imag * planes[:, 0]
    # The floor keeps the power's derivative finite; a window of 512 makes unit power about 14.
    e_mag = (e_re.square() + e_im.square() + 1e-4).sqrt()
    s_mag = (s.real.square() + s.imag.square() + 1e-4).sqrt()
    e_pow, s_pow = e_mag**0.3, s_mag**0.3
    under = torch.relu(s_pow - e_pow).square().mean()
    magnitude = (s_pow - e_pow).square().mean() + over_suppression * under
    e_unit, s_unit = e_pow / e_mag, s_pow / s_mag
    complex_error = (
        (e_re * e_unit - s.real * s_unit).square() + (e_im * e_unit - s.imag * s_unit).square()
    ).mean()
    audio = istft(torch.complex(e_re, e_im), noisy.shape[-1])
    left = (audio - target).square().mean(-1) + 1e-3 * noisy.square().mean(-1) + 1e-6
    residual = (10 * torch.log10(left / (noisy.square().mean(-1) + 1e-6))).mean()
    error = (e_re - s.real).square() + (e_im - s.imag).square()
    wrong, heard = _band_energy(error), _band_energy(y.real.square() + y.imag.square())
    # Energies are of the order of 1e2 where there is sound; below -20 dB there is little to gain.
    bands = (10 * torch.log10((wrong + 1e-2 * heard + 1e-3) / (heard + 1e-3))).mean()
    powers = e_mag.square(), s_mag.square()
    return {
        "mask": mask_error,
        "magnitude": magnitude,
        "complex": complex_error,
        "residual": residual,
        "bands": bands,
        "loudness": loudness_difference(*powers),
        "envelope": envelope_difference(*powers),
    }


def _band_energy(power: Tensor) -> Tensor:
    """Return mean energies ``[batch, 24 bands, segments]`` of ``[batch, 257, frames]``."""
    fb = _mel_bands(power.shape[1], power.device)
    return _segments(fb.T @ power, SEGMENT).mean(-1)


@functools.cache
def _mel_bands(bins: int, device: torch.device) -> Tensor:
    return mel_filterbank(bins, 24, SAMPLE_RATE).to(device)


def _segments(x: Tensor, frames: int) -> Tensor:
    """Cut ``[..., frames]`` into segments that overlap by half: ``[..., segments, frames]``.

    Frames at the end that do not fill a segment are left out.
    """
    length = min(frames, x.shape[-1])
    return x.unfold(-1, length, max(1, length // 2))


@functools.cache
def _ear(bins: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return bands of half a Bark (Traunmueller 1990) and their hearing threshold (Terhardt 1979).

    Returns
    -------
    bands : Tensor, shape (48, bins), float32
        Which bins a band sums; triangles, so that none of the narrow ones is empty.
    threshold : Tensor, shape (48, 1), float32
        Power, 0 dB SPL = 1.
    """
    freqs = torch.linspace(0.0, SAMPLE_RATE / 2, bins, dtype=torch.float64)
    bark = 26.81 * freqs / (1960.0 + freqs) - 0.53
    centres = torch.linspace(0.5, 20.5, 48, dtype=torch.float64)
    bands = (1 - (bark - centres[:, None]).abs() / 0.5).clamp(min=0.0)
    khz = (1.96 * (centres + 0.53) / (26.28 - centres)).clamp(min=0.05)
    quiet = 3.64 * khz**-0.8 - 6.5 * torch.exp(-0.6 * (khz - 3.3) ** 2) + 1e-3 * khz**4
    return bands.float().to(device), (10 ** (quiet / 10)).float()[:, None].to(device)


def loudness_difference(estimate: Tensor, target: Tensor) -> Tensor:
    """Return the disturbance as defined by the perceptual model of ITU-T P.862.

    Loudness is Zwicker's, with the noisy signal at 79 dB SPL. Masked differences, up to a
    quarter of the lower loudness, do not count. What was added counts more than what is missing, by
    the ratio of powers. The most disturbed moments count most: means are of sixth powers within a
    third of a second, then of squares. The standard's gain compensation and time alignment are left
    out.

    Parameters
    ----------
    estimate, target : Tensor, shape (batch, bins, frames)
        Power spectra of a signal whose noisy form has unit power.

    Returns
    -------
    Tensor
        Roughly the loss against the standard's best score of 4.5.
    """
    bands, threshold = _ear(estimate.shape[1], estimate.device)
    # A Hann window of 512 turns unit power into 512 * 192 / 2 over all bins.
    scale = 10**7.9 / 49_152
    e, s = bands @ (estimate * scale), bands @ (target * scale)
    e_loud, s_loud = _loudness(e, threshold), _loudness(s, threshold)
    apart = torch.relu((e_loud - s_loud).abs() - 0.25 * torch.minimum(e_loud, s_loud))
    ratio = ((e + 50) / (s + 50)) ** 1.2
    added = torch.where(ratio < 3, 0.0, ratio.clamp(max=12.0)).detach()
    heard = ((s.sum(1) + 1e5) / 1e7) ** 0.04
    # 21 Bark in all; the root is kept away from zero, where it has no derivative.
    symmetric = _over_time(21 * (apart.square().mean(1) + 1e-4).sqrt() / heard)
    asymmetric = _over_time(21 * (apart * added).mean(1) / heard)
    both = 0.1 * symmetric + 0.0309 * asymmetric
    # The standard caps both terms; a soft cap keeps a derivative where there is most to gain.
    return (both / (1 + both / 6)).mean()


def _over_time(disturbance: Tensor) -> Tensor:
    """Average over frames ``[batch, frames]`` as in P.862: sixth powers, then squares."""
    loudest = (_segments(disturbance, 20).pow(6).mean(-1) + 1e-9).pow(1 / 6)
    return loudest.square().mean(-1).sqrt()


def _loudness(power: Tensor, threshold: Tensor) -> Tensor:
    """Return Zwicker's loudness per band, sone per Bark; zero below the threshold."""
    scaled = 0.187 * (threshold / 0.5) ** 0.23
    return torch.relu(scaled * ((0.5 + 0.5 * power / threshold) ** 0.23 - 1.0))


@functools.cache
def _third_octaves(bins: int, device: torch.device) -> Tensor:
    """Return which bins each of 15 bands from 150 Hz on sums, float32 ``[15, bins]``."""
    freqs = torch.linspace(0.0, SAMPLE_RATE / 2, bins, dtype=torch.float64)
    centres = 150.0 * 2.0 ** (torch.arange(15, dtype=torch.float64) / 3)
    low, high = centres[:, None] * 2 ** (-1 / 6), centres[:, None] * 2 ** (1 / 6)
    return ((freqs >= low) & (freqs < high)).float().to(device)


def envelope_difference(estimate: Tensor, target: Tensor) -> Tensor:
    """Return one minus the correlation of envelopes, as defined by STOI (Taal et al. 2011).

    In third-octave bands and segments of 0.4 s; the estimate's envelope is scaled to the energy of
    the target's, and clipped where its error would exceed 15 dB. Segments with hardly any speech
    (40 dB below the loudest) do not count.

    Parameters
    ----------
    estimate, target : Tensor, shape (batch, bins, frames)
        Power spectra.
    """
    bands = _third_octaves(estimate.shape[1], estimate.device)
    # [batch, bands, segments, frames]
    y, x = (_segments((bands @ power + 1e-4).sqrt(), SEGMENT) for power in (estimate, target))
    energy = x.square().sum((1, 3))
    said = (energy > 1e-4 * energy.amax(-1, keepdim=True)) & (energy > 1.0)
    y = y * (x.square().sum(-1, keepdim=True) / y.square().sum(-1, keepdim=True)).sqrt()
    y = torch.minimum(y, x * (1 + 10 ** (15 / 20)))
    x, y = x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
    scale = (x.square().sum(-1) * y.square().sum(-1) + 1e-6).sqrt()
    follows = ((x * y).sum(-1) / scale).mean(1)
    return ((1 - follows) * said).sum() / said.sum().clamp(min=1)


WEIGHTS = {
    "mask": 1.0,
    "magnitude": 0.7,
    "complex": 0.5,
    "residual": 0.02,
    "bands": 0.02,
    "loudness": 0.5,
    "envelope": 2.0,
}


def total(terms: dict[str, Tensor]) -> Tensor:
    """Weigh the terms of the loss."""
    return sum(WEIGHTS[name] * value for name, value in terms.items())
