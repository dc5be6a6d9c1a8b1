"""Fast FullSubNet in PyTorch, for training.

Parameter names are those of the published checkpoints, so ``npfsn-convert`` reads checkpoints
trained here like any others.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .pool import SAMPLE_RATE

N_FFT = 512
HOP = 256
MASK_LIMIT = 10.0
MASK_CLIP = 9.9
COMPRESSION = 0.1
EPS = float(torch.finfo(torch.float32).eps)


@dataclass(frozen=True)
class ModelArgs:
    """The ``[model.args]`` of a recipe's TOML; sizes that recipes never change come last."""

    look_ahead: int = 2
    shrink_size: int = 2
    sequence_model: str = "LSTM"
    num_mels: int = 64
    encoder_input_size: int = 257
    bottleneck_hidden_size: int = 128
    bottleneck_num_layers: int = 2
    noisy_input_num_neighbors: int = 5
    encoder_output_num_neighbors: int = 0
    norm_type: str = "cumulative_laplace_norm"
    encoder_hidden_size: int = 384
    decoder_hidden_size: int = 512

    def __post_init__(self) -> None:
        """Refuse values that this code cannot train."""
        if self.sequence_model != "LSTM" or self.norm_type != "cumulative_laplace_norm":
            raise ValueError("only LSTM with cumulative_laplace_norm is trained here")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a file that training saved, to the CPU.

    Raises
    ------
    ValueError
        It is damaged, or no checkpoint that training saved.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception:  # whatever the damage makes of the file
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ValueError(
            f"{path} is damaged, or no checkpoint of tools.train (npfsn-convert reads others)"
        )
    return content


def bottleneck_size(weights: dict[str, Any], path: Path) -> int:
    """Return the bottleneck's hidden size; refuse weights of other architectures."""
    name = "bottleneck.sequence_model.weight_hh_l0"
    recurrent = weights.get(name) if isinstance(weights, dict) else None
    if (
        not isinstance(recurrent, Tensor)
        or recurrent.ndim != 2
        or recurrent.shape[0] != 4 * recurrent.shape[1]
    ):
        raise ValueError(f"{path} holds no Fast FullSubNet with LSTMs")
    return recurrent.shape[1]


class SequenceModel(nn.Module):
    """A recurrent stack with an optional linear layer and ReLU.

    Parameters
    ----------
    input_size, hidden_size, num_layers : int
        Sizes of the LSTM.
    output_size : int
        Outputs of the linear layer; 0 leaves it out.
    relu : bool
        Whether a ReLU follows the linear layer.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        output_size: int = 0,
        relu: bool = False,
    ) -> None:
        super().__init__()
        self.sequence_model = nn.LSTM(input_size, hidden_size, num_layers, batch_first=True)
        self.fc_output_layer = nn.Linear(hidden_size, output_size) if output_size else None
        self.relu = relu
        for name, parameter in self.sequence_model.named_parameters():
            if "weight_hh" in name:
                for gate in parameter.data.chunk(4):
                    nn.init.orthogonal_(gate)
            elif "weight_ih" in name:
                for gate in parameter.data.chunk(4):
                    nn.init.xavier_uniform_(gate)
            else:
                parameter.data.zero_()
                if "bias_ih" in name:
                    # An open forget gate lets gradients reach back in time from the first step on.
                    parameter.data[hidden_size : 2 * hidden_size] = 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Run the stack from a zero state; ``[batch, frames, features]`` in and out."""
        x, _ = self.sequence_model(x)
        if self.fc_output_layer is not None:
            x = self.fc_output_layer(x)
        return torch.relu(x) if self.relu else x


class MelScale(nn.Module):
    """HTK mel bands, 0 to half the sample rate, triangular, peak one, as a buffer ``fb``."""

    fb: Tensor

    def __init__(self, n_freqs: int, n_mels: int, sample_rate: int) -> None:
        super().__init__()
        self.register_buffer("fb", mel_filterbank(n_freqs, n_mels, sample_rate))

    def forward(self, magnitude: Tensor) -> Tensor:
        """Turn magnitudes ``[..., bins]`` into bands ``[..., bands]``."""
        return magnitude @ self.fb


def mel_filterbank(n_freqs: int, n_mels: int, sample_rate: int) -> Tensor:
    """Triangular HTK mel filters without area normalisation.

    Returns
    -------
    Tensor, shape (n_freqs, n_mels), float32
    """
    top = 2595.0 * torch.log10(torch.tensor(1.0 + sample_rate / 2 / 700.0))
    corners = 700.0 * (10.0 ** (torch.linspace(0.0, float(top), n_mels + 2) / 2595.0) - 1.0)
    freqs = torch.linspace(0.0, sample_rate / 2, n_freqs)
    width = corners[1:] - corners[:-1]
    slopes = corners[None, :] - freqs[:, None]
    rising = -slopes[:, :-2] / width[:-1]
    falling = slopes[:, 2:] / width[1:]
    return torch.clamp(torch.minimum(rising, falling), min=0.0)


def neighbours(x: Tensor, count: int) -> Tensor:
    """Return every band with its neighbours, reflected at the edges.

    Parameters
    ----------
    x : Tensor, shape (batch, frames, bands)
    count : int
        Neighbours on each side.

    Returns
    -------
    Tensor, shape (batch, bands, frames, 2 * count + 1)
    """
    if count:
        x = torch.nn.functional.pad(x, (count, count), mode="reflect")
    return x.unfold(2, 2 * count + 1, 1).permute(0, 2, 1, 3)


def cumulative_norm(x: Tensor) -> Tensor:
    """Divide by the mean of all features of the frames so far.

    Parameters
    ----------
    x : Tensor, shape (..., frames, features), float32

    Returns
    -------
    Tensor, same shape
    """
    sums = torch.cumsum(x.sum(-1, dtype=torch.float64), -1)
    counts = torch.arange(1, x.shape[-2] + 1, dtype=torch.float64, device=x.device) * x.shape[-1]
    mean = (sums / counts).to(x.dtype)
    return x / (mean[..., None] + EPS)


def shrink(x: Tensor, size: int) -> Tensor:
    """Average blocks of frames: the first frame alone, then means of ``size`` frames.

    Parameters
    ----------
    x : Tensor, shape (..., frames, features)

    Returns
    -------
    Tensor, shape (..., blocks, features)
    """
    first, rest = x[..., :1, :], x[..., 1:, :]
    blocks = rest.shape[-2] // size
    rest = rest[..., : blocks * size, :].unflatten(-2, (blocks, size)).mean(-2)
    return torch.cat([first, rest], -2)


class FastFullSubNet(nn.Module):
    """The network: noisy magnitudes in, compressed complex ratio mask out."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.args = args
        bands, bins = args.num_mels, args.encoder_input_size
        self.encoder = nn.Sequential(
            SequenceModel(bands, args.encoder_hidden_size),
            SequenceModel(args.encoder_hidden_size, bins, output_size=bands, relu=True),
        )
        self.mel_scale = MelScale(bins, bands, SAMPLE_RATE)
        units = 2 * (args.noisy_input_num_neighbors + args.encoder_output_num_neighbors) + 2
        self.bottleneck = SequenceModel(
            units, args.bottleneck_hidden_size, args.bottleneck_num_layers, 1, relu=True
        )
        self.decoder_lstm = nn.Sequential(
            SequenceModel(2 * bands, args.decoder_hidden_size),
            SequenceModel(args.decoder_hidden_size, args.decoder_hidden_size, 1, 2 * bins),
        )
        # Start at a mask of one: from the default, training first learns to silence everything.
        head = self.decoder_lstm[1].fc_output_layer
        head.weight.data.mul_(0.1)
        head.bias.data[:bins] = compress_mask(torch.ones(()))
        head.bias.data[bins:] = 0.0

    def forward(self, magnitude: Tensor) -> Tensor:
        """Run the network over whole signals from a zero state.

        Parameters
        ----------
        magnitude : Tensor, shape (batch, bins, frames), float32
            Magnitudes of the noisy spectrum.

        Returns
        -------
        Tensor, shape (batch, 2, bins, frames), float32
            Real and imaginary plane of the mask before decompression.
        """
        args = self.args
        batch, bins, frames = magnitude.shape
        # Accelerators multiply float32 as TF32, and are bound by the latency of steps anyway.
        bfloat16 = self.training and magnitude.device.type == "cpu" and cpu_runs_in_bfloat16()
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=bfloat16)
        x = torch.nn.functional.pad(magnitude, (0, args.look_ahead)).transpose(1, 2)
        total = frames + args.look_ahead
        mel = self.mel_scale(x)
        normed = cumulative_norm(mel)
        with autocast:
            encoded = self.encoder(normed).float()
        noisy = neighbours(mel, args.noisy_input_num_neighbors)
        near = neighbours(encoded, args.encoder_output_num_neighbors)
        sub = cumulative_norm(shrink(torch.cat([noisy, near], -1), args.shrink_size))
        with autocast:
            sub = self.bottleneck(sub.flatten(0, 1)).float()
        sub = sub.reshape(batch, args.num_mels, -1).transpose(1, 2)
        # A block's output is used from its last frame on; frame 0 is a block of its own.
        index = torch.arange(total, device=x.device) // args.shrink_size
        sub = sub[:, index]
        with autocast:
            mask = self.decoder_lstm(torch.cat([encoded, sub], -1)).float()
        mask = mask[:, args.look_ahead :].reshape(batch, frames, 2, bins)
        return mask.permute(0, 2, 3, 1)


@functools.cache
def cpu_runs_in_bfloat16() -> bool:
    """Whether recurrent layers run in bfloat16: on CPUs without AVX-512 they do not."""
    with torch.random.fork_rng(devices=[]):  # leaves the state of the generator unchanged
        layer = torch.nn.LSTM(1, 1)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            layer(torch.zeros(1, 1, 1))
    except RuntimeError:
        return False
    return True


def compress_mask(mask: Tensor) -> Tensor:
    """Compress mask planes into (-10, 10)."""
    mask = mask.clamp(min=-100.0)
    small = torch.exp(-COMPRESSION * mask)
    return MASK_LIMIT * (1.0 - small) / (1.0 + small)


def decompress_mask(mask: Tensor) -> Tensor:
    """Undo `compress_mask`, clipped as the engine clips it."""
    mask = mask.clamp(-MASK_CLIP, MASK_CLIP)
    return -torch.log((MASK_LIMIT - mask) / (MASK_LIMIT + mask)) / COMPRESSION


def stft(audio: Tensor) -> Tensor:
    """Short-time spectrum ``[batch, 257, 1 + samples // 256]`` of ``[batch, samples]``."""
    return torch.stft(audio, N_FFT, HOP, window=_window(audio), return_complex=True)


def istft(spectrum: Tensor, samples: int) -> Tensor:
    """Undo `stft`, cut or filled to ``samples``."""
    return torch.istft(spectrum, N_FFT, HOP, window=_window(spectrum.real), length=samples)


def _window(like: Tensor) -> Tensor:
    return torch.hann_window(N_FFT, device=like.device, dtype=torch.float32)


@torch.no_grad()
def enhance(model: FastFullSubNet, audio: Tensor) -> Tensor:
    """Enhance whole signals in float32.

    Parameters
    ----------
    audio : Tensor, shape (batch, samples), float32
        At 16 kHz.

    Returns
    -------
    Tensor, same shape
    """
    spectrum = stft(audio)
    planes = decompress_mask(model(spectrum.abs()))
    return istft(spectrum * torch.complex(planes[:, 0], planes[:, 1]), audio.shape[-1])
