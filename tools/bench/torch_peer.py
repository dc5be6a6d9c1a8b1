"""PyTorch: the same networks frame by frame with kept states, and over a whole utterance at once.

Eager mode, as in the published code, which processes whole utterances. Frame by frame, it does what
a loop over that code would do with kept states.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

EPS = torch.finfo(torch.float32).eps


class Stack(nn.Module):
    """Recurrent layers, then perhaps a linear layer, then perhaps a ReLU."""

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str, relu: bool) -> None:
        super().__init__()
        rnn = f"{prefix}.sequence_model."
        weights = {k.removeprefix(rnn): v for k, v in tensors.items() if k.startswith(rnn)}
        n_layer = sum(name.startswith("weight_ih") for name in weights)
        n_hidden, n_in = weights["weight_hh_l0"].shape[1], weights["weight_ih_l0"].shape[1]
        self.lstm = nn.LSTM(n_in, n_hidden, n_layer)  # frames first
        self.lstm.load_state_dict(weights)
        self.linear: nn.Linear | None = None
        if f"{prefix}.fc_output_layer.weight" in tensors:
            weight = tensors[f"{prefix}.fc_output_layer.weight"]
            self.linear = nn.Linear(weight.shape[1], weight.shape[0])
            bias = tensors[f"{prefix}.fc_output_layer.bias"]
            self.linear.load_state_dict({"weight": weight, "bias": bias})
        self.relu = relu

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Run x[T, units, features] from a state; return the result and the next state."""
        x, state = self.lstm(x, state)
        if self.linear is not None:
            x = self.linear(x)
        return (torch.relu(x) if self.relu else x), state


class Norm:
    """cumulative_laplace_norm of x[T, units, size], a mean per unit."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor | float = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise the next frames."""
        n_frame, _, size = x.shape
        total = torch.cumsum(x.sum(2, dtype=torch.float64), 0) + self.total  # [T, units]
        count = torch.arange(self.count + 1, self.count + n_frame + 1)[:, None]
        self.total, self.count = total[-1], self.count + n_frame
        mean = (total / (count * size)).to(torch.float32)
        return x / (mean[:, :, None] + EPS)


class FrameNorm(Norm):
    """The same for one frame at a time, without what only whole utterances need."""

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise one frame."""
        self.count += 1
        self.total = self.total + x.sum(2, keepdim=True)
        return x / (self.total / (self.count * x.shape[2]) + EPS)


def _neighbours(n: int, size: int) -> Tensor:
    """Index [size, 2 n + 1] of each value with its neighbours, reflected at the edges."""
    index = (torch.arange(size)[:, None] + torch.arange(-n, n + 1)).abs()
    return torch.where(index >= size, 2 * (size - 1) - index, index)


class TorchFullSubNet(nn.Module):
    """A FullSubNet."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.fb_model = Stack(tensors, "fb_model", True)
        self.sb_model = Stack(tensors, "sb_model", False)
        n_freq, n_unit = self.fb_model.lstm.input_size, self.sb_model.lstm.input_size
        self.index = _neighbours((n_unit - 2) // 2, n_freq)
        self.fb_state = self.sb_state = None
        self.norms = FrameNorm(), FrameNorm()

    def step(self, mag: Tensor) -> Tensor:
        """Take one frame [1, F]; return its mask [2 F]."""
        mask, self.fb_state, self.sb_state = self._run(
            mag, self.norms, self.fb_state, self.sb_state
        )
        return mask.reshape(-1)

    def whole(self, mag: Tensor) -> Tensor:
        """Take an utterance [T, F]; return its masks [T, 2 F]."""
        return self._run(mag, (Norm(), Norm()), None, None)[0].reshape(mag.shape[0], -1)

    def _run(
        self, mag: Tensor, norms: tuple[Norm, Norm], fb_state: Any, sb_state: Any
    ) -> tuple[Tensor, Any, Any]:
        fb, fb_state = self.fb_model(norms[0](mag[:, None]), fb_state)
        units = torch.cat([mag[:, self.index], fb.transpose(1, 2)], 2)  # [T, F, units]
        mask, sb_state = self.sb_model(norms[1](units), sb_state)
        return mask.transpose(1, 2), fb_state, sb_state


class TorchFastFullSubNet(nn.Module):
    """A Fast FullSubNet that shrinks time by two."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.fb = tensors["mel_scale.fb"]
        self.stacks = nn.ModuleList(
            [
                Stack(tensors, "encoder.0", False),
                Stack(tensors, "encoder.1", True),
                Stack(tensors, "decoder_lstm.0", False),
                Stack(tensors, "decoder_lstm.1", False),
            ]
        )
        self.bottleneck = Stack(tensors, "bottleneck", True)
        self.index = _neighbours((self.bottleneck.lstm.input_size - 2) // 2, self.fb.shape[1])
        self.states: list[Any] = [None] * 5
        self.norms = FrameNorm(), FrameNorm()
        self.frame = 0
        self.before = self.held = torch.zeros(0)

    def step(self, mag: Tensor) -> Tensor:
        """Take one frame [1, F]; return its mask [2 F]."""
        states = self.states
        mel = mag @ self.fb
        enc, states[0] = self.stacks[0](self.norms[0](mel[:, None]), states[0])
        enc, states[1] = self.stacks[1](enc, states[1])  # [1, 1, M]
        units = torch.cat([mel[:, self.index], enc.transpose(1, 2)], 2)  # [1, M, units]
        if self.frame % 2 == 0:
            block = (self.before + units) * 0.5 if self.frame else units
            held, states[2] = self.bottleneck(self.norms[1](block), states[2])
            self.held = held.transpose(1, 2)
        self.before = units
        self.frame += 1
        x, states[3] = self.stacks[2](torch.cat([enc, self.held], 2), states[3])
        x, states[4] = self.stacks[3](x, states[4])
        mask: Tensor = x.reshape(-1)
        return mask

    def whole(self, mag: Tensor) -> Tensor:
        """Take an utterance [T, F], T odd; return its masks [T, 2 F]."""
        mel = mag @ self.fb
        enc = self.stacks[1](self.stacks[0](Norm()(mel[:, None]))[0])[0]  # [T, 1, M]
        units = torch.cat([mel[:, self.index], enc.transpose(1, 2)], 2)  # [T, M, units]
        pairs = units[1:].reshape(-1, 2, *units.shape[1:]).mean(1)
        blocks = torch.cat([units[:1], pairs])
        held = self.bottleneck(Norm()(blocks))[0].transpose(1, 2)  # [T / 2, 1, M]
        held = held.repeat_interleave(2, 0)[: mag.shape[0]]
        x = self.stacks[3](self.stacks[2](torch.cat([enc, held], 2))[0])[0]
        masks: Tensor = x.reshape(mag.shape[0], -1)
        return masks


def torch_peer(
    architecture: str, tensors: Mapping[str, Tensor]
) -> TorchFullSubNet | TorchFastFullSubNet:
    """Return a network, ready to run."""
    if architecture == "fast_fullsubnet":
        return TorchFastFullSubNet(tensors).eval()
    return TorchFullSubNet(tensors).eval()
