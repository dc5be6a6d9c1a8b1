"""Improved FullSubNet: sub-bands that grow coarser with frequency, 16 to 48 kHz."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import network
from .config import (
    CAUSAL_NORMS,
    BaseConfig,
    Sequence,
    Shapes,
    acoustics,
    check_recipe,
    check_size,
    check_units,
    matrix,
    sequence,
)
from .errors import ModelError, shown
from .kernels.tables import FLOAT32_EPS
from .layers import Recurrent
from .norms import BoundNorm, Norm
from .program import Program
from .state import Fields, State

#: Norm of the sections, as published: over the whole utterance, whatever the full band uses.
PUBLISHED_SECTION_NORM = "offline_laplace_norm"
#: Its causal counterpart: the same mean, of the signal so far.
CAUSAL_SECTION_NORM = "cumulative_section_norm"


@dataclass(frozen=True)
class Config(BaseConfig):
    """Numbers of an Improved FullSubNet.

    Parameters
    ----------
    fdrc : float
        Power the magnitude is raised to.
    freq_cutoffs : tuple of int
        Inner bounds of the sections, bins.
    sb_num_center_freqs, sb_num_neighbor_freqs : tuple of int
        Per section: bins a unit enhances, and noisy bins each side of them.
    fb_num_center_freqs, fb_num_neighbor_freqs : tuple of int
        The same for the full-band output a unit sees.
    fb_model : Sequence
    sb_models : tuple of Sequence
        One per section.
    section_norm : str
        `PUBLISHED_SECTION_NORM`, or `CAUSAL_SECTION_NORM` to stream; `norm_type` is the full
        band's.
    """

    fdrc: float = 0.5
    freq_cutoffs: tuple[int, ...] = (20, 80)
    sb_num_center_freqs: tuple[int, ...] = (1, 4, 8)
    sb_num_neighbor_freqs: tuple[int, ...] = (15, 15, 15)
    fb_num_center_freqs: tuple[int, ...] = (1, 4, 8)
    fb_num_neighbor_freqs: tuple[int, ...] = (15, 15, 15)
    fb_model: Sequence = Sequence("LSTM", 256, 512, 2, 256)
    sb_models: tuple[Sequence, ...] = ()
    section_norm: str = PUBLISHED_SECTION_NORM

    recipe_name = "improved_fullsubnet"
    tensor_prefix = "sb_model.sb_models."
    fields_from_shapes = frozenset(
        {"n_fft", "fb_model", "sb_models", "sb_num_center_freqs", "fb_num_center_freqs"}
    )
    activations = {
        "fb_model": "fb_output_activate_function",
        "sb_models": "sb_output_activate_function",
    }

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        super().__post_init__()
        object.__setattr__(self, "fb_model", sequence(self.fb_model))
        object.__setattr__(self, "sb_models", tuple(sequence(s) for s in self.sb_models))
        per_section = (
            "sb_num_center_freqs",
            "sb_num_neighbor_freqs",
            "fb_num_center_freqs",
            "fb_num_neighbor_freqs",
        )
        for name in ("freq_cutoffs", *per_section):
            value = getattr(self, name)
            if not isinstance(value, (list, tuple)):
                raise ModelError(f"{name} is {shown(value)}: expected a list of whole numbers")
            object.__setattr__(self, name, tuple(value))
        if isinstance(self.fdrc, bool) or not isinstance(self.fdrc, (int, float)):
            raise ModelError(f"fdrc is {shown(self.fdrc)}: expected a number")
        if not 0.0 < self.fdrc <= 4.0:
            raise ModelError(f"fdrc is {shown(self.fdrc)}: expected a power above 0, at most 4")
        if self.section_norm not in (PUBLISHED_SECTION_NORM, CAUSAL_SECTION_NORM):
            raise ModelError(
                f"section_norm is {shown(self.section_norm)}: expected {PUBLISHED_SECTION_NORM} or "
                f"{CAUSAL_SECTION_NORM}"
            )
        for cutoff in self.freq_cutoffs:
            check_size("freq_cutoffs", cutoff, 1, self.n_freq - 2)
        bounds = self.bounds
        n_section = len(bounds) - 1
        found = [len(getattr(self, name)) for name in (*per_section, "sb_models")]
        if any(n != n_section for n in found):
            raise ModelError(
                f"freq_cutoffs = {shown(list(self.freq_cutoffs))} makes {n_section} sections: "
                f"expected as many centres, neighbours and sub-band models, got {shown(found)}"
            )
        if any(low >= high for low, high in zip(bounds, bounds[1:], strict=False)):
            raise ModelError(f"section bounds {shown(list(bounds))}: expected them to rise")
        sizes = (self.fb_model.input_size, self.fb_model.output_size)
        if sizes != (self.n_freq - 1, self.n_freq - 1):
            raise ModelError(
                f"fb_model takes {self.fb_model.input_size} and gives {self.fb_model.width} "
                f"features: expected {self.n_freq - 1} both ways (n_fft = {self.n_fft}, last bin "
                "dropped)"
            )
        shared: list[tuple[int, Sequence]] = []
        for i in range(n_section):
            center, bins = self.sb_num_center_freqs[i], bounds[i + 1] - bounds[i]
            check_size("sb_num_center_freqs", center)
            check_size("sb_num_neighbor_freqs", self.sb_num_neighbor_freqs[i], 0, self.n_freq - 2)
            check_size("fb_num_neighbor_freqs", self.fb_num_neighbor_freqs[i], 0, self.n_freq - 2)
            if bins % center or center != self.fb_num_center_freqs[i]:
                raise ModelError(
                    f"section {i} has {bins} bins: expected a multiple of its "
                    f"{center} centre bins, the same for noisy and full-band input"
                )
            n_in = 2 * (center + self.sb_num_neighbor_freqs[i] + self.fb_num_neighbor_freqs[i])
            model = self.sb_models[i]
            if (model.input_size, model.output_size) != (n_in, 2 * center):
                raise ModelError(
                    f"sb_models.{i} takes {model.input_size} features and gives {model.width}: "
                    f"expected {n_in} and {2 * center}"
                )
            shared.append((bins // center, model))
        check_units(*shared)

    @property
    def bounds(self) -> tuple[int, ...]:
        """Bounds of the sections, bins: the last bin of the spectrum belongs to none."""
        return (0, *self.freq_cutoffs, self.n_freq - 1)

    @property
    def norms(self) -> str:
        """As in `BaseConfig`."""
        return f"{self.norm_type}, sections {self.section_norm}"

    @property
    def obstacle(self) -> str | None:
        """The norm that needs the whole signal, in words: the full band's or that of the sections.

        None if the model streams.
        """
        if self.section_norm == CAUSAL_SECTION_NORM:
            return super().obstacle
        return super().obstacle or f"sections' norm ({self.section_norm}, as published)"

    def norm_fields(self, norm: str) -> dict[str, Any]:
        """As in `BaseConfig`; a causal norm makes the sections causal too."""
        section = CAUSAL_SECTION_NORM if norm in CAUSAL_NORMS else PUBLISHED_SECTION_NORM
        return {"norm_type": norm, "section_norm": section}

    @classmethod
    def smallest(cls, norm: str) -> Config:
        """Return the config of a tiny network that needs every kernel (`warmup`)."""
        return cls(
            norm,
            n_fft=16,
            hop_length=4,
            freq_cutoffs=(4,),
            sb_num_center_freqs=(1, 2),
            sb_num_neighbor_freqs=(1, 1),
            fb_num_center_freqs=(1, 2),
            fb_num_neighbor_freqs=(1, 1),
            fb_model=Sequence("LSTM", 8, 4, 2, 8),
            sb_models=(Sequence("LSTM", 6, 4, 2, 2), Sequence("LSTM", 8, 4, 2, 4)),
        )

    @classmethod
    def from_tensors(cls, shapes: Shapes, args: Mapping[str, Any]) -> Config:
        """Read the sizes from the tensors, the rest from the recipe's `args`."""
        fb_model = Sequence.from_shapes(
            shapes, "fb_model", None, args, "fb_output_activate_function"
        )
        sb = "sb_model.sb_models.0.sequence_model.weight"
        matrix(shapes, f"{sb}_ih_l0")  # the first section, if no other
        sb_models: list[Sequence] = []
        while f"sb_model.sb_models.{len(sb_models)}.sequence_model.weight_ih_l0" in shapes:
            name = f"sb_model.sb_models.{len(sb_models)}"
            sb_models.append(
                Sequence.from_shapes(shapes, name, None, args, "sb_output_activate_function")
            )
        n_fft = 2 * fb_model.input_size
        fb = "fb_model.sequence_model.weight"
        check_recipe(
            args,
            {
                "sequence_model": (fb_model.cell, f"{fb}_hh_l0"),
                "num_freqs": (fb_model.input_size + 1, f"{fb}_ih_l0"),
                "n_fft": (n_fft, f"{fb}_ih_l0"),
                "fb_hidden_size": (fb_model.hidden_size, f"{fb}_hh_l0"),
                "sb_hidden_size": (sb_models[0].hidden_size, f"{sb}_hh_l0"),
            },
        )
        centers = tuple(s.output_size // 2 for s in sb_models)
        # Neighbours are split evenly between noisy and full-band input, as published.
        neighbors = tuple(
            (s.input_size - 2 * center) // 4 for s, center in zip(sb_models, centers, strict=True)
        )
        wide = n_fft > 640  # the published 48 kHz network: 960 / 480, four sections
        return cls(
            **acoustics(
                args,
                n_fft=n_fft,
                hop_length=n_fft // 2 if wide else n_fft // 4,
                sample_rate=48000 if wide else 16000,
            ),
            fdrc=args.get("fdrc", cls.fdrc),
            freq_cutoffs=args.get("freq_cutoffs", (20, 120, 240) if wide else cls.freq_cutoffs),
            sb_num_center_freqs=args.get("sb_num_center_freqs", centers),
            sb_num_neighbor_freqs=args.get("sb_num_neighbor_freqs", neighbors),
            fb_num_center_freqs=args.get("fb_num_center_freqs", centers),
            fb_num_neighbor_freqs=args.get("fb_num_neighbor_freqs", neighbors),
            fb_model=fb_model,
            sb_models=tuple(sb_models),
        )

    @property
    def mask_stacks(self) -> tuple[str, ...]:
        """Prefixes of the stacks whose outputs are the mask."""
        return tuple(f"sb_model.sb_models.{i}" for i in range(len(self.sb_models)))

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor that the network needs."""
        shapes = self.fb_model.tensor_shapes("fb_model")
        for i, model in enumerate(self.sb_models):
            shapes |= model.tensor_shapes(f"sb_model.sb_models.{i}")
        return shapes


class Network(network.Network):
    """Packed weights of an Improved FullSubNet."""

    apply_mask = "apply_planes"
    block_frames = 8

    def __init__(self, config: Config, tensors: Mapping[str, np.ndarray], precision: str) -> None:
        self.config = config
        self.fb_norm = Norm(config.norm_type, "fb_norm", 1, config.n_freq - 1, eps=FLOAT32_EPS)
        self.fb_model = Recurrent(config.fb_model, tensors, "fb_model", precision)
        self.sections = [
            Section(config, i, tensors, precision) for i in range(len(config.sb_models))
        ]

    def fields(self) -> Fields:
        """Entries of a stream's state."""
        fields = self.fb_norm.fields() | self.fb_model.fields()
        for section in self.sections:
            fields |= section.norm.fields() | section.model.fields()
        return fields

    def bind(self, state: State, frames: int) -> Pass:
        """Return the network as a function of blocks of `frames` frames."""
        return Pass(self, state, frames)


class Section:
    """Weights of one section: units of `center` bins that share a sub-band model."""

    def __init__(
        self, config: Config, index: int, tensors: Mapping[str, np.ndarray], precision: str
    ) -> None:
        self.first, last = config.bounds[index : index + 2]
        self.center = config.sb_num_center_freqs[index]
        self.near = config.sb_num_neighbor_freqs[index]
        self.far = config.fb_num_neighbor_freqs[index]
        self.units = (last - self.first) // self.center
        self.size = config.sb_models[index].input_size
        key = f"sb_model.sb_models.{index}"
        self.norm = Norm(config.section_norm, f"{key}.norm", self.units, self.size, eps=FLOAT32_EPS)
        model = config.sb_models[index]
        self.model = Recurrent(model, tensors, key, precision, floats_out=True, units=self.units)

    def write(
        self, program: Program, state: State, mag: np.ndarray, fb_out: np.ndarray, mask: np.ndarray
    ) -> BoundNorm:
        """Add this section's bins of the mask to a program of a stream; return its norm."""
        frames = mask.shape[0]
        norm, model = self.norm.bind(state), self.model.bind(state, frames)
        x = np.zeros((frames, self.units, self.size), np.float32)
        at = 0
        for features, neighbours in ((mag, self.near), (fb_out, self.far)):
            where = neighbours, self.first, self.center
            program.add("unfold", features, *where, x, at, stage="neighbours")
            at += self.center + 2 * neighbours
        call = len(program)
        norm.write(program, x, x)
        out = model.write(program, x.reshape(-1, self.size))
        program.add("gather_mask", out, self.center, self.first, self.units, mask, stage="mask")
        program.end_of_norm(call)  # all sections take moments in one run over the signal
        return norm


class Pass(network.Pass):
    """The network, read top to bottom."""

    def __init__(self, net: Network, state: State, frames: int) -> None:
        config = net.config
        n_freq = config.n_freq
        fb_norm = net.fb_norm.bind(state)
        fb_model = net.fb_model.bind(state, frames)
        self.mag = np.zeros((frames, n_freq), np.float32)
        # Compressed, without the last bin: it belongs to no unit, and its mask stays zero.
        compressed = np.zeros((frames, n_freq - 1), np.float32)
        fb_in = np.zeros((frames, n_freq - 1), np.float32)
        self.mask = np.zeros((frames, 2, n_freq), np.float32)

        program = self.program = Program()
        program.add("power", self.mag, config.fdrc, compressed, stage="compression")
        fb_norm.write(program, compressed, fb_in)
        fb_out = fb_model.write(program, fb_in)
        norms = [section.write(program, state, compressed, fb_out, self.mask)
                 for section in net.sections]  # fmt: skip
        self.norms = [fb_norm, *norms]
