"""FullSubNet (arXiv 2010.15508): a full-band network feeds a sub-band network per bin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import network
from .config import (
    BaseConfig,
    Sequence,
    Shapes,
    acoustics,
    check_recipe,
    check_size,
    check_units,
    sequence,
)
from .errors import ModelError
from .layers import Recurrent
from .norms import Norm
from .program import Program
from .state import Fields, State


@dataclass(frozen=True)
class Config(BaseConfig):
    """Numbers of a FullSubNet.

    Parameters
    ----------
    fb_num_neighbors, sb_num_neighbors : int
        Bins each side of a unit, of the full-band output and of the noisy magnitude.
    fb_model, sb_model : Sequence
        Full-band layers; sub-band layers, which run for every bin with shared weights.
    """

    look_ahead: int = 2
    fb_num_neighbors: int = 0
    sb_num_neighbors: int = 15
    fb_model: Sequence = Sequence("LSTM", 257, 512, 2, 257, "ReLU")
    sb_model: Sequence = Sequence("LSTM", 32, 384, 2, 2)

    recipe_name = "fullsubnet"
    tensor_prefix = "sb_model.sequence_model."
    fields_from_shapes = frozenset({"n_fft", "fb_model", "sb_model"})
    activations = {
        "fb_model": "fb_output_activate_function",
        "sb_model": "sb_output_activate_function",
    }
    optional_neighbors = "fb_num_neighbors"

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        super().__post_init__()
        object.__setattr__(self, "fb_model", sequence(self.fb_model))
        object.__setattr__(self, "sb_model", sequence(self.sb_model))
        for name in ("fb_num_neighbors", "sb_num_neighbors"):
            check_size(name, getattr(self, name), 0, self.n_freq - 1)
        if (self.fb_model.input_size, self.fb_model.output_size) != (self.n_freq, self.n_freq):
            raise ModelError(
                f"fb_model takes {self.fb_model.input_size} and gives {self.fb_model.width} "
                f"features: expected {self.n_freq} bins both ways (n_fft = {self.n_fft})"
            )
        n_in = 2 * (self.fb_num_neighbors + self.sb_num_neighbors) + 2
        if (self.sb_model.input_size, self.sb_model.output_size) != (n_in, 2):
            raise ModelError(
                f"sb_model takes {self.sb_model.input_size} features and gives "
                f"{self.sb_model.width}: expected {n_in} (sb_num_neighbors = "
                f"{self.sb_num_neighbors}, fb_num_neighbors = {self.fb_num_neighbors}) and 2"
            )
        check_units((self.n_freq, self.sb_model))

    @classmethod
    def smallest(cls, norm: str) -> Config:
        """Return the config of a tiny network that needs every kernel (`warmup`)."""
        return cls(
            norm,
            n_fft=16,
            hop_length=8,
            sb_num_neighbors=1,
            fb_model=Sequence("LSTM", 9, 4, 2, 9, "ReLU"),
            sb_model=Sequence("LSTM", 4, 4, 2, 2),
        )

    @classmethod
    def from_tensors(cls, shapes: Shapes, args: Mapping[str, Any]) -> Config:
        """Read the sizes from the tensors, the rest from the recipe's `args`."""
        fb_model = Sequence.from_shapes(
            shapes, "fb_model", "ReLU", args, "fb_output_activate_function"
        )
        sb_model = Sequence.from_shapes(
            shapes, "sb_model", None, args, "sb_output_activate_function"
        )
        n_freq = fb_model.input_size
        fb, sb = "fb_model.sequence_model.weight", "sb_model.sequence_model.weight"
        check_recipe(
            args,
            {
                "sequence_model": (fb_model.cell, f"{fb}_hh_l0"),
                "num_freqs": (n_freq, f"{fb}_ih_l0"),
                "n_fft": (2 * n_freq - 2, f"{fb}_ih_l0"),
                "fb_model_hidden_size": (fb_model.hidden_size, f"{fb}_hh_l0"),
                "sb_model_hidden_size": (sb_model.hidden_size, f"{sb}_hh_l0"),
            },
        )
        fb_neighbors = args.get("fb_num_neighbors", cls.fb_num_neighbors)
        check_size("fb_num_neighbors", fb_neighbors, 0)
        return cls(
            **acoustics(args, n_fft=2 * n_freq - 2),
            look_ahead=args.get("look_ahead", cls.look_ahead),
            fb_num_neighbors=fb_neighbors,
            sb_num_neighbors=args.get(
                "sb_num_neighbors", (sb_model.input_size - 2) // 2 - fb_neighbors
            ),
            fb_model=fb_model,
            sb_model=sb_model,
        )

    @property
    def mask_stacks(self) -> tuple[str, ...]:
        """Prefixes of the stacks whose outputs are the mask."""
        return ("sb_model",)

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor that the network needs."""
        return self.fb_model.tensor_shapes("fb_model") | self.sb_model.tensor_shapes("sb_model")


class Network(network.Network):
    """Packed weights of a FullSubNet."""

    block_frames = 4  # 257 units per frame fill the products already

    def __init__(self, config: Config, tensors: Mapping[str, np.ndarray], precision: str) -> None:
        self.config = config
        n_freq, size = config.n_freq, config.sb_model.input_size
        self.fb_norm = Norm(config.norm_type, "fb_norm", 1, n_freq)
        self.sb_norm = Norm(config.norm_type, "sb_norm", n_freq, size)
        self.fb_model = Recurrent(config.fb_model, tensors, "fb_model", precision)
        # `floats_in=False` although these are features: for 257 units, floats would make int8 slow.
        self.sb_model = Recurrent(
            config.sb_model,
            tensors,
            "sb_model",
            precision,
            floats_in=False,
            floats_out=True,
            units=n_freq,
        )

    def fields(self) -> Fields:
        """Entries of a stream's state."""
        return (
            self.fb_norm.fields()
            | self.fb_model.fields()
            | self.sb_norm.fields()
            | self.sb_model.fields()
        )

    def bind(self, state: State, frames: int) -> Pass:
        """Return the network as a function of blocks of `frames` frames."""
        return Pass(self, state, frames)


class Pass(network.Pass):
    """The network, read top to bottom."""

    def __init__(self, net: Network, state: State, frames: int) -> None:
        config = net.config
        n_freq, size = config.n_freq, config.sb_model.input_size
        fb_norm, sb_norm = net.fb_norm.bind(state), net.sb_norm.bind(state)
        fb_model = net.fb_model.bind(state, frames)
        sb_model = net.sb_model.bind(state, frames)
        self.norms = [fb_norm, sb_norm]
        self.mag = np.zeros((frames, n_freq), np.float32)
        fb_in = np.zeros((frames, n_freq), np.float32)
        sb_in = np.zeros((frames, n_freq, size), np.float32)
        self.mask = np.zeros((frames, 2, n_freq), np.float32)

        program = self.program = Program()
        fb_norm.write(program, self.mag, fb_in)
        fb_out = fb_model.write(program, fb_in)
        # A unit: a bin of the noisy magnitude with its neighbours, then of the full-band output.
        at = 0
        for x, n in ((self.mag, config.sb_num_neighbors), (fb_out, config.fb_num_neighbors)):
            program.add("unfold", x, n, 0, 1, sb_in, at, stage="neighbours")
            at += 2 * n + 1
        sb_norm.write(program, sb_in, sb_in)
        sb_out = sb_model.write(program, sb_in.reshape(frames * n_freq, size))
        program.add("gather_mask", sb_out, 1, 0, n_freq, self.mask, stage="mask")
