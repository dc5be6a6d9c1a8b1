"""Fast FullSubNet (arXiv 2212.09019): full-band on mel bands, sub-band at half the rate."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import network
from .beside import Beside
from .config import (
    DIVIDING_NORMS,
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
from .flow import Parts
from .kernels.cpu import HAS_LARGE_L2
from .layers import Recurrent
from .norms import Norm
from .program import Program
from .state import Fields, State


@dataclass(frozen=True)
class Config(BaseConfig):
    """Numbers of a Fast FullSubNet.

    Parameters
    ----------
    shrink_size : int
        Frames that share one result of the bottleneck.
    noisy_input_num_neighbors, encoder_output_num_neighbors : int
        Mel bands each side of a unit, of the noisy mel spectrogram and of the encoder's output.
    num_mels : int
    encoder, decoder : tuple of Sequence
        Full-band layers before and after the bottleneck.
    bottleneck : Sequence
        Runs for every mel band with shared weights.
    quiet_level : float
        Running mean of the mel bands below which the input is quieter than the training data. In a
        unit, the mel bands scale with the input, but the encoder's output does not: on quiet input
        it dominates, and voices are taken for noise. Below this level the encoder's output is
        scaled down in proportion, and the mask no longer depends on the level. 0: as published.
    """

    look_ahead: int = 2
    shrink_size: int = 2
    noisy_input_num_neighbors: int = 5
    encoder_output_num_neighbors: int = 0
    num_mels: int = 64
    encoder: tuple[Sequence, ...] = ()
    bottleneck: Sequence = Sequence("LSTM", 12, 384, 2, 1, "ReLU")
    decoder: tuple[Sequence, ...] = ()
    quiet_level: float = 0.0

    recipe_name = "fast_fullsubnet"
    tensor_prefix = "bottleneck.sequence_model."
    fixed = frozenset({"mel_scale.fb"})
    fields_from_shapes = frozenset({"n_fft", "num_mels", "encoder", "bottleneck", "decoder"})
    activations = {"encoder": None, "bottleneck": None}
    optional_neighbors = "encoder_output_num_neighbors"
    unpublished = {**BaseConfig.unpublished, "quiet_level": 0.0}

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        super().__post_init__()
        for name in ("encoder", "decoder"):
            object.__setattr__(self, name, tuple(sequence(s) for s in getattr(self, name)))
        object.__setattr__(self, "bottleneck", sequence(self.bottleneck))
        check_size("shrink_size", self.shrink_size, 1, 1000)
        check_size("num_mels", self.num_mels)
        for name in ("noisy_input_num_neighbors", "encoder_output_num_neighbors"):
            check_size(name, getattr(self, name), 0, self.num_mels - 1)
        level = self.quiet_level
        if isinstance(level, bool) or not isinstance(level, (int, float)) or not 0 <= level <= 1e6:
            raise ModelError(f"quiet_level is {shown(level)}: expected a number from 0 to 1e6")
        n_in = 2 * (self.noisy_input_num_neighbors + self.encoder_output_num_neighbors) + 2
        widths = [s.width for s in self.encoder]
        inputs = [s.input_size for s in self.encoder[1:]] + [self.num_mels]
        if not (self.encoder and self.decoder and self.encoder[-1].output_size):
            raise ModelError(
                "Fast FullSubNet needs an encoder that ends in a linear layer, and a decoder: "
                "tensors of one of them are missing"
            )
        if self.encoder[0].input_size != self.num_mels or widths != inputs:
            raise ModelError(
                f"the encoder's layers give {shown(widths)} features and expect "
                f"{shown([s.input_size for s in self.encoder])}, with {self.num_mels} mel bands: "
                "they do not fit together"
            )
        if self.bottleneck.input_size != n_in or self.bottleneck.output_size != 1:
            raise ModelError(
                f"the bottleneck takes {self.bottleneck.input_size} features and gives "
                f"{self.bottleneck.width}: expected {n_in} (noisy_input_num_neighbors = "
                f"{self.noisy_input_num_neighbors}, encoder_output_num_neighbors = "
                f"{self.encoder_output_num_neighbors}) and 1"
            )
        check_units((self.num_mels, self.bottleneck))
        widths = [2 * self.num_mels] + [s.width for s in self.decoder[:-1]]
        widths.append(self.decoder[-1].output_size)
        inputs = [s.input_size for s in self.decoder] + [2 * self.n_freq]
        if widths != inputs:
            raise ModelError(
                f"the decoder's layers expect {shown(inputs[:-1])} features and {inputs[-1]} mask "
                f"values, but get {shown(widths)}: they do not fit together"
            )

    @property
    def follows_level(self) -> bool:
        """Whether quiet input scales the encoder's output down: if the norm divides by a mean."""
        return self.quiet_level > 0 and self.norm_type in DIVIDING_NORMS

    @property
    def additions(self) -> dict[str, Any]:
        """As in `BaseConfig`."""
        level = {"quiet_level": self.quiet_level} if self.follows_level else {}
        return super().additions | level

    @classmethod
    def smallest(cls, norm: str) -> Config:
        """Return the config of a tiny network that needs every kernel (`warmup`)."""
        return cls(
            norm,
            n_fft=16,
            hop_length=8,
            start_at_sound=True,
            noisy_input_num_neighbors=1,
            num_mels=4,
            encoder=(Sequence("LSTM", 4, 4, 1), Sequence("LSTM", 4, 4, 1, 4, "ReLU")),
            bottleneck=Sequence("LSTM", 4, 4, 2, 1, "ReLU"),
            decoder=(Sequence("LSTM", 8, 4, 1), Sequence("LSTM", 4, 4, 1, 18)),
            quiet_level=1.0,
        )

    @classmethod
    def from_tensors(cls, shapes: Shapes, args: Mapping[str, Any]) -> Config:
        """Read the sizes from the tensors, the rest from the recipe's `args`."""
        n_freq, num_mels = matrix(shapes, "mel_scale.fb")
        encoder = _stack(shapes, "encoder", "ReLU")
        bottleneck = Sequence.from_shapes(shapes, "bottleneck", "ReLU")
        decoder = _stack(shapes, "decoder_lstm", None)
        weight = "bottleneck.sequence_model.weight_hh_l"
        check_recipe(
            args,
            {
                "num_mels": (num_mels, "mel_scale.fb"),
                "n_fft": (2 * n_freq - 2, "mel_scale.fb"),
                "encoder_input_size": (n_freq, "mel_scale.fb"),
                "sequence_model": (bottleneck.cell, f"{weight}0"),
                "bottleneck_hidden_size": (bottleneck.hidden_size, f"{weight}0"),
                "bottleneck_num_layers": (
                    bottleneck.num_layers,
                    f"{weight}{bottleneck.num_layers - 1}, the last,",
                ),
            },
        )
        encoder_neighbors = args.get(
            "encoder_output_num_neighbors", cls.encoder_output_num_neighbors
        )
        check_size("encoder_output_num_neighbors", encoder_neighbors, 0)
        neighbors = args.get(
            "noisy_input_num_neighbors", (bottleneck.input_size - 2) // 2 - encoder_neighbors
        )
        return cls(
            **acoustics(args, n_fft=2 * n_freq - 2),
            look_ahead=args.get("look_ahead", cls.look_ahead),
            shrink_size=args.get("shrink_size", cls.shrink_size),
            noisy_input_num_neighbors=neighbors,
            encoder_output_num_neighbors=encoder_neighbors,
            num_mels=num_mels,
            encoder=encoder,
            bottleneck=bottleneck,
            decoder=decoder,
            quiet_level=args.get("quiet_level", cls.quiet_level),
        )

    @property
    def mask_stacks(self) -> tuple[str, ...]:
        """Prefixes of the stacks whose outputs are the mask."""
        return (f"decoder_lstm.{len(self.decoder) - 1}",)

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor that the network needs."""
        shapes: dict[str, tuple[int, ...]] = {"mel_scale.fb": (self.n_freq, self.num_mels)}
        for i, layer in enumerate(self.encoder):
            shapes |= layer.tensor_shapes(f"encoder.{i}")
        shapes |= self.bottleneck.tensor_shapes("bottleneck")
        for i, layer in enumerate(self.decoder):
            shapes |= layer.tensor_shapes(f"decoder_lstm.{i}")
        return shapes


def _stack(shapes: Shapes, prefix: str, activate: str | None) -> tuple[Sequence, ...]:
    """Read `prefix.0`, `prefix.1`, ...: only a layer with a linear part is activated."""
    matrix(shapes, f"{prefix}.0.sequence_model.weight_ih_l0")  # or say that it is missing
    stack: list[Sequence] = []
    while f"{prefix}.{len(stack)}.sequence_model.weight_ih_l0" in shapes:
        name = f"{prefix}.{len(stack)}"
        linear = f"{name}.fc_output_layer.weight" in shapes
        published = activate if linear else None
        stack.append(Sequence.from_shapes(shapes, name, published, linear=linear))
    return tuple(stack)


class Network(network.Network):
    """Packed weights of a Fast FullSubNet."""

    def __init__(self, config: Config, tensors: Mapping[str, np.ndarray], precision: str) -> None:
        self.config = config
        size = config.bottleneck.input_size
        self.mel = MelBands(np.asarray(tensors["mel_scale.fb"], np.float32))
        self.fb_norm = Norm(config.norm_type, "fb_norm", 1, config.num_mels)
        self.sb_norm = Norm(config.norm_type, "sb_norm", config.num_mels, size)
        self.encoder = [
            Recurrent(spec, tensors, f"encoder.{i}", precision, floats_in=i == 0)
            for i, spec in enumerate(config.encoder)
        ]
        self.bottleneck = Recurrent(
            config.bottleneck, tensors, "bottleneck", precision, units=config.num_mels
        )
        decoder = {f"decoder_lstm.{i}": spec for i, spec in enumerate(config.decoder)}
        self.decoder = [
            Recurrent(
                spec, tensors, key, precision, floats_in=False, floats_out=key in config.mask_stacks
            )
            for key, spec in decoder.items()
        ]

    def fields(self) -> Fields:
        """Entries of a stream's state."""
        n_mel = self.config.num_mels
        fields = self.fb_norm.fields() | self.sb_norm.fields()
        for stack in (self.bottleneck, *self.encoder, *self.decoder):
            fields |= stack.fields()
        fields["shrink.sum"] = ((2, n_mel), np.float32)
        fields["shrink.held"] = ((n_mel,), np.float32)
        if self.config.follows_level:
            fields["shrink.level"] = ((1,), np.float64)
        return fields

    def bind(self, state: State, frames: int) -> Pass:
        """Return the network as a function of blocks of `frames` frames."""
        return Pass(self, state, frames)


class MelBands:
    """The sparse mel matrix fb, float32[F, M]: each band has only a few bins that are not zero."""

    def __init__(self, fb: np.ndarray) -> None:
        used = [np.flatnonzero(fb[:, band]) for band in range(fb.shape[1])]
        spans = [(int(bins[0]), int(bins[-1]) + 1) if bins.size else (0, 0) for bins in used]
        self.first = np.array([low for low, _ in spans], np.int64)
        self.start = np.cumsum([0] + [high - low for low, high in spans], dtype=np.int64)
        self.weight = np.concatenate([fb[low:high, band] for band, (low, high) in enumerate(spans)])
        for array in (self.first, self.start, self.weight):  # shared by all streams
            array.setflags(write=False)

    def write(self, program: Program, mag: np.ndarray, out: np.ndarray) -> None:
        """Add pooling to a program: mag float32[T, F] -> out float32[T, M]."""
        program.add("pool_mel", mag, self.first, self.start, self.weight, out, stage="mel")


class Pass(network.Pass):
    """The network, read top to bottom."""

    def __init__(self, net: Network, state: State, frames: int) -> None:
        config = net.config
        n_mel, size, shrink = config.num_mels, config.bottleneck.input_size, config.shrink_size
        self.shrink = shrink
        self.neighbors = config.noisy_input_num_neighbors, config.encoder_output_num_neighbors
        self.fb_norm, self.sb_norm = net.fb_norm.bind(state), net.sb_norm.bind(state)
        # Neighbouring layers read their weights in turns, so that all frames take the same time; or
        # all of the encoder in frames that do not end a block, where those that do take longer.
        uneven = shrink == 2 and net.bottleneck.layers[0].recurrent.own_work >= 1.0
        encoder = [
            stack.bind(state, frames, 1 if uneven else i) for i, stack in enumerate(net.encoder)
        ]
        n_block = -(-frames // shrink)  # at most this many blocks end within `frames`
        self.bottleneck = net.bottleneck.bind(state, n_block)
        decoder = [stack.bind(state, frames, i) for i, stack in enumerate(net.decoder)]
        self.norms = [self.fb_norm, self.sb_norm]
        self.sum = state["shrink.sum"]
        self.mag = np.zeros((frames, config.n_freq), np.float32)
        mel = np.zeros((frames, n_mel), np.float32)
        fb_in = np.zeros((frames, n_mel), np.float32)
        self.units = np.zeros((n_block, n_mel, size), np.float32)
        joined = np.zeros((frames, 2 * n_mel), np.float32)

        # Six parts in sequence, in which several blocks of frames can be in flight (`Parts`).
        parts = head, encode, gather, core, join, decode = tuple(Program() for _ in range(6))
        net.mel.write(head, self.mag, mel)
        self.fb_norm.write(head, mel, fb_in)
        enc = fb_in
        for stack in encoder[:-1]:
            enc = stack.write(encode, enc)
        encoder[-1].write_layers(encode, enc)
        enc = encoder[-1].write_linear(gather)

        # A unit: a mel band with its neighbours, then the encoder's output, at 1 / s of the rate.
        stage, units, seen = "neighbours", self.units, enc
        if config.follows_level:
            seen, level = np.zeros_like(enc), (config.quiet_level, state["shrink.level"])
            gather.add("follow_level", mel, fb_in, *level, enc, seen, stage=stage)
        how = *self.neighbors, shrink, self.sum
        gather.add("shrink_units", mel, seen, *how, units, stage=stage)
        self.sb_norm.write(gather, units, units, every=shrink)
        if frames == 1 and Beside.possible(self.bottleneck):
            # Live stream: weights fall out of cache between frames, so prefetch them.
            beside = Beside(self.bottleneck)
            beside.ahead(decoder)
            beside.write(core)
        result = self.bottleneck.write(core, units.reshape(-1, size), every=shrink)
        if frames == 1:  # live stream: so that no single step is slow
            self.bottleneck.spread(core)

        held, result = state["shrink.held"], result.reshape(n_block, n_mel)
        join.add("join_held", enc, result, shrink, held, joined, stage=stage)
        x = joined
        for stack in decoder:
            x = stack.write(decode, x)
        self.mask = x.reshape(frames, 2, config.n_freq)
        self.program = functools.reduce(Program.then, parts)
        self._parts = head, encode, core, join, gather
        self._layers = (encoder, fb_in), (decoder, joined)

    def parts(self) -> Parts | None:
        """As in `network.Pass`: one-unit layers run beside the bottleneck."""
        head, encode, core, join, gather = self._parts
        (encoder, fb_in), (decoder, joined) = self._layers
        if not Beside.possible(self.bottleneck, *encoder, *decoder):
            return None
        beside, x = Beside(self.bottleneck), joined
        for stack in decoder:
            x = beside.block(stack, x)
        beside.divide()
        if HAS_LARGE_L2:
            # Most of the encoder's weights stay there from frame to frame if nothing else is read
            # between; and memory, not the tiles' time, limits what these do beside their own work.
            return Parts(head.then(encode), beside, core, join, gather)
        x = fb_in
        for stack in encoder:  # the last linear layer is a part of `gather`
            x = beside.block(stack, x, linear=stack is not encoder[-1])
        return Parts(head, beside, core, join, gather)

    def set_horizon(self, frames: float) -> None:
        """As in `network.Pass`, but the units' norm runs once in s frames."""
        self.fb_norm.set_horizon(frames)
        self.sb_norm.set_horizon(frames / self.shrink)

    def finish(self, frame: int) -> None:
        """Count the short last block for an offline norm, though no mask depends on it."""
        rest = (frame - 1) % self.shrink
        if rest and not self.sb_norm.fitted and self.fb_norm.fitted:
            mel, enc = self.sum[:1] / np.float32(rest), self.sum[1:] / np.float32(rest)
            unit, no_sum = self.units[:1], np.zeros_like(self.sum)
            program = Program()
            program.add("shrink_units", mel, enc, *self.neighbors, 1, no_sum, unit, stage="")
            self.sb_norm.write(program, unit, unit)
            program.play(0, 1)
