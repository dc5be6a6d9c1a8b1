"""The full-band baseline of the FullSubNet paper: one stack of layers from magnitude to mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import network
from .config import BaseConfig, Sequence, Shapes, acoustics, check_recipe, sequence
from .errors import ModelError
from .layers import Recurrent
from .norms import Norm
from .program import Program
from .state import Fields, State


@dataclass(frozen=True)
class Config(BaseConfig):
    """Numbers of a full-band baseline.

    Parameters
    ----------
    fullband_model : Sequence
    """

    look_ahead: int = 2
    fullband_model: Sequence = Sequence("LSTM", 257, 512, 3, 514)

    recipe_name = "fullband_baseline"
    tensor_prefix = "fullband_model."
    fields_from_shapes = frozenset({"n_fft", "fullband_model"})
    activations = {"fullband_model": "output_activate_function"}

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        super().__post_init__()
        object.__setattr__(self, "fullband_model", sequence(self.fullband_model))
        sizes = (self.fullband_model.input_size, self.fullband_model.output_size)
        if sizes != (self.n_freq, 2 * self.n_freq):
            raise ModelError(
                f"fullband_model takes {sizes[0]} and gives {sizes[1]} features: expected "
                f"{self.n_freq} bins and {2 * self.n_freq} mask values (n_fft = {self.n_fft})"
            )

    @classmethod
    def smallest(cls, norm: str) -> Config:
        """Return the config of a tiny network that needs every kernel (`warmup`)."""
        return cls(norm, n_fft=16, hop_length=8, fullband_model=Sequence("LSTM", 9, 4, 2, 18))

    @classmethod
    def from_tensors(cls, shapes: Shapes, args: Mapping[str, Any]) -> Config:
        """Read the sizes from the tensors, the rest from the recipe's `args`."""
        fullband_model = Sequence.from_shapes(
            shapes, "fullband_model", None, args, "output_activate_function"
        )
        n_freq = fullband_model.input_size
        weight = "fullband_model.sequence_model.weight"
        check_recipe(
            args,
            {
                "sequence_model": (fullband_model.cell, f"{weight}_hh_l0"),
                "num_freqs": (n_freq, f"{weight}_ih_l0"),
                "n_fft": (2 * n_freq - 2, f"{weight}_ih_l0"),
                "hidden_size": (fullband_model.hidden_size, f"{weight}_hh_l0"),
            },
        )
        return cls(
            **acoustics(args, n_fft=2 * n_freq - 2),
            look_ahead=args.get("look_ahead", cls.look_ahead),
            fullband_model=fullband_model,
        )

    @property
    def mask_stacks(self) -> tuple[str, ...]:
        """Prefixes of the stacks whose outputs are the mask."""
        return ("fullband_model",)

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor that the network needs."""
        return self.fullband_model.tensor_shapes("fullband_model")


class Network(network.Network):
    """Packed weights of a full-band baseline."""

    def __init__(self, config: Config, tensors: Mapping[str, np.ndarray], precision: str) -> None:
        self.config = config
        self.norm = Norm(config.norm_type, "norm", 1, config.n_freq)
        model = config.fullband_model
        self.model = Recurrent(model, tensors, "fullband_model", precision, floats_out=True)

    def fields(self) -> Fields:
        """Entries of a stream's state."""
        return self.norm.fields() | self.model.fields()

    def bind(self, state: State, frames: int) -> Pass:
        """Return the network as a function of blocks of `frames` frames."""
        return Pass(self, state, frames)


class Pass(network.Pass):
    """norm(mag) -> layers -> mask."""

    def __init__(self, net: Network, state: State, frames: int) -> None:
        n_freq = net.config.n_freq
        norm, model = net.norm.bind(state), net.model.bind(state, frames)
        self.norms = [norm]
        self.mag = np.zeros((frames, n_freq), np.float32)
        x = np.zeros((frames, n_freq), np.float32)

        program = self.program = Program()
        norm.write(program, self.mag, x)
        self.mask = model.write(program, x).reshape(frames, 2, n_freq)
