"""What every architecture's `Config` is made of.

A `Config` is frozen numbers and nothing else. Its field names are the recipe's own, so that
`npfsn info` and a train.toml can be read side by side. Sizes come from the tensors; what tensors
do not show (look-ahead, neighbours, norms, acoustics) comes from the recipe.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from .errors import ModelError, NormError, listed, printable, shown

CAUSAL_NORMS = ("cumulative_laplace_norm", "forgetting_norm", "cumulative_layer_norm")
#: Norms that only divide, by a running mean or by the mean of the whole signal.
DIVIDING_NORMS = ("cumulative_laplace_norm", "forgetting_norm", "offline_laplace_norm")
OFFLINE_NORMS = ("offline_laplace_norm", "offline_gaussian_norm")
NORMS = CAUSAL_NORMS + OFFLINE_NORMS
ACTIVATIONS = ("Tanh", "ReLU", "ReLU6", "LeakyReLU", "PReLU")
GATES = {"LSTM": 4, "GRU": 3}  # gates per unit

#: Sample rates in Hz, of models and of the audio they enhance. A header with a false rate could
#: turn one second of audio into hours.
MIN_RATE, MAX_RATE = 1_000, 768_000
# Sizes beyond these belong to no speech enhancer, and could take all memory.
MAX_SIZE = 1 << 16
MAX_LAYERS = 64
MAX_STACKS = 64
# Features of all units in a frame, of which a pass has up to a few dozen, and hidden states of all
# layers. Published: up to 206 thousand.
MAX_FEATURES = 1 << 22
# Frames of which a sample is part, published: 2 and 4; bins of the look-ahead, published: 514.
MAX_OVERLAP = 64
MAX_AHEAD = 1 << 18

Shapes = Mapping[str, tuple[int, ...]]


def check_norm(name: object) -> str:
    """Return `name` if it is one of the five norms, else raise NormError listing them."""
    if name not in NORMS:
        raise NormError(
            f"unknown norm {shown(name)}: expected one of {', '.join(CAUSAL_NORMS)} (these stream) "
            f"or {', '.join(OFFLINE_NORMS)} (these need the whole signal)"
        )
    return str(name)


def check_size(name: str, value: object, low: int = 1, high: int = MAX_SIZE) -> None:
    """Raise ModelError unless `value` is an integer in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ModelError(f"{name} is {shown(value)}: expected a whole number from {low} to {high}")


def check_units(*stacks: tuple[int, Sequence]) -> None:
    """Raise ModelError if all units have too many features and hidden states together.

    Weights are shared, but each unit has states of its own: a file of kilobytes could state sizes
    for which a stream takes gigabytes.

    Parameters
    ----------
    *stacks : (int, Sequence)
        How many units share each stack.
    """
    total = 0
    for n_unit, stack in stacks:
        # In whole panels; `packing.padded` says so, too, but comes with LLVM.
        states = stack.num_layers * (-(-stack.hidden_size // 16) * 16)
        each = stack.input_size + states
        total += n_unit * each
        if total > MAX_FEATURES:
            raise ModelError(
                f"{n_unit} units with {each} hidden states and features each are too many: all "
                f"units have {total} or more, expected at most {MAX_FEATURES}"
            )


def check_recipe(args: Mapping[str, Any], found: Mapping[str, tuple[object, str]]) -> None:
    """Raise ModelError if a recipe contradicts `found`: name -> (value, tensor that says it)."""
    for name, (value, tensor) in found.items():
        said = args.get(name)
        if said is not None and said != value:
            raise ModelError(
                f"the recipe says {name} = {shown(said)}, but tensor {tensor} says {shown(value)}: "
                "this is not the recipe of this checkpoint"
            )


def activation(value: object) -> str | None:
    """Return the name of an output activation as upstream's recipes spell it (false: none)."""
    if value is None or value is False or value == "":
        return None
    if value not in ACTIVATIONS:
        raise ModelError(
            f"unknown output activation {shown(value)}: expected {', '.join(ACTIVATIONS)} or false"
        )
    return str(value)


@dataclass(frozen=True)
class Sequence:
    """A stack of recurrent layers, then perhaps a linear layer, then perhaps its activation.

    Parameters
    ----------
    cell : {"LSTM", "GRU"}
    input_size, hidden_size, num_layers : int
    output_size : int
        0: no linear layer; the output is the hidden state of the last layer.
    activation : str or None
        Of the linear layer: None if there is none.
    """

    cell: str
    input_size: int
    hidden_size: int
    num_layers: int
    output_size: int = 0
    activation: str | None = None

    def __post_init__(self) -> None:
        """Refuse sizes that no network has."""
        if self.cell not in GATES:
            raise ModelError(f"unknown recurrent cell {shown(self.cell)}: expected LSTM or GRU")
        check_size("input_size", self.input_size)
        check_size("hidden_size", self.hidden_size)
        check_size("num_layers", self.num_layers, 1, MAX_LAYERS)
        check_size("output_size", self.output_size, 0)
        object.__setattr__(self, "activation", activation(self.activation))
        if self.activation is not None and not self.output_size:
            raise ModelError(
                f"a stack ends in {self.activation} without a linear layer before it: here "
                "activations follow linear layers, as the published ones do"
            )

    @property
    def width(self) -> int:
        """Output features per unit."""
        return self.output_size or self.hidden_size

    @classmethod
    def from_shapes(
        cls,
        shapes: Shapes,
        prefix: str,
        published: str | None,
        args: Mapping[str, Any] = {},
        recipe_key: str = "",
        linear: bool = True,
    ) -> Sequence:
        """Read cell, sizes and layer count from the tensors under `prefix`.

        Parameters
        ----------
        shapes : mapping of str to tuple of int
        prefix : str
        published : str or None
            The output activation if neither the recipe nor a tensor says what it is.
        args : mapping, optional
            The recipe's arguments.
        recipe_key : str
            What the recipe calls the output activation.
        linear : bool
            Whether it has a linear layer.
        """
        rnn = f"{prefix}.sequence_model."
        num_layers = 0
        while f"{rnn}weight_ih_l{num_layers}" in shapes:
            num_layers += 1
        n_in = matrix(shapes, rnn + "weight_ih_l0")[1]
        rows, hidden = matrix(shapes, rnn + "weight_hh_l0")
        cell = next((cell for cell, gates in GATES.items() if rows == gates * hidden > 0), None)
        if cell is None:
            raise ModelError(
                f"tensor {rnn}weight_hh_l0 has shape {[rows, hidden]}: expected [4 H, H] (LSTM) or "
                "[3 H, H] (GRU)"
            )
        output_size = matrix(shapes, f"{prefix}.fc_output_layer.weight")[0] if linear else 0
        said = activation(args.get(recipe_key))
        kind = said if recipe_key in args else published
        slope = f"{prefix}.activate_function.weight"
        if slope in shapes:
            if args.get(recipe_key) is not None:  # false counts, too: no activation
                check_recipe({recipe_key: said or False}, {recipe_key: ("PReLU", slope)})
            kind = "PReLU"
        return cls(cell, n_in, hidden, num_layers, output_size, kind)

    def tensor_shapes(self, prefix: str) -> dict[str, tuple[int, ...]]:
        """Every tensor of this stack under the checkpoint's own names."""
        rows = GATES[self.cell] * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in range(self.num_layers):
            n_in = self.input_size if layer == 0 else self.hidden_size
            rnn = f"{prefix}.sequence_model."
            shapes[f"{rnn}weight_ih_l{layer}"] = (rows, n_in)
            shapes[f"{rnn}weight_hh_l{layer}"] = (rows, self.hidden_size)
            shapes[f"{rnn}bias_ih_l{layer}"] = (rows,)
            shapes[f"{rnn}bias_hh_l{layer}"] = (rows,)
        if self.output_size:
            shapes[f"{prefix}.fc_output_layer.weight"] = (self.output_size, self.hidden_size)
            shapes[f"{prefix}.fc_output_layer.bias"] = (self.output_size,)
        if self.activation == "PReLU":
            shapes[f"{prefix}.activate_function.weight"] = (1,)
        return shapes


#: The name of a stack's tensor: its prefix and, for a recurrent layer, the number of the layer.
_OF_A_STACK = re.compile(
    r"(.+)\.(?:sequence_model\.(?:weight|bias)_(?:ih|hh)_l(\d{1,3})|fc_output_layer\.(?:weight|bias))"
)
#: Tensors of layers that are not supported, what these layers are, and what to do about them.
_OTHER_LAYERS = (
    (
        r"parametrizations\..+|\w+_(?:g|v|u|orig|mask)",
        "a layer whose weights are computed from it, as with weight norm or pruning: make them "
        "plain before saving (torch.nn.utils.remove_weight_norm, prune.remove, or "
        "parametrize.remove_parametrizations)",
    ),
    (
        r"(?:weight|bias)_\w+_l\d+_reverse",
        "a layer that runs both ways through time: layers here run forward, as the published ones "
        "do",
    ),
    (
        r"weight_hr_l\d+",
        "a layer that projects its states (proj_size): layers here do not, as the published ones "
        "do not",
    ),
)


def check_stacks(shapes: Shapes) -> None:
    """Raise ModelError for stacks with unsupported, missing or misshapen tensors.

    Call it before sizes are read from the tensors.
    """
    for tensors, what in _OTHER_LAYERS:
        other = re.compile(rf".+\.(?:sequence_model|fc_output_layer)\.(?:{tensors})")
        for name in filter(other.fullmatch, shapes):
            raise ModelError(f"its tensor {printable(name)} is of {what}")
    layers: dict[str, int] = {}
    linear: dict[str, None] = {}
    for name in shapes:
        found = _OF_A_STACK.fullmatch(name)
        if found is None:
            continue
        prefix, layer = found.groups()
        number = int(layer or 0)
        if number >= MAX_LAYERS:
            raise ModelError(
                f"its tensor {printable(name)} is of layer {number}: expected at most {MAX_LAYERS} "
                "layers, the first of which is 0"
            )
        layers[prefix] = max(layers.get(prefix, 0), number)
        if layer is None:
            linear[prefix] = None
    if len(layers) > MAX_STACKS:
        raise ModelError(f"it has {len(layers)} stacks of layers: expected at most {MAX_STACKS}")
    needed = [
        f"{prefix}.sequence_model.{part}_l{layer}"
        for prefix, last in layers.items()
        for layer in range(last + 1)
        for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ]
    for prefix in linear:
        needed += [f"{prefix}.fc_output_layer.weight", f"{prefix}.fc_output_layer.bias"]
    missing = [name for name in needed if name not in shapes]
    if missing:
        names = listed([printable(name) for name in missing], 4)
        without = all(".bias" in name for name in missing)
        remedy = "; a layer that has no biases needs zeros in their place" if without else ""
        raise ModelError(f"its layers are incomplete: {len(missing)} missing ({names}){remedy}")
    for prefix, last in layers.items():
        _check_layers(shapes, prefix, last, prefix in linear)


def _check_layers(shapes: Shapes, prefix: str, last: int, linear: bool) -> None:
    """Raise ModelError naming a tensor of a stack that does not fit the first recurrent one."""
    of = f"{prefix}.sequence_model."
    rows, hidden = matrix(shapes, f"{of}weight_hh_l0")
    expected: dict[str, tuple[int | None, ...]] = {}
    for layer in range(last + 1):
        expected[f"{of}weight_ih_l{layer}"] = (rows, hidden if layer else None)
        expected[f"{of}weight_hh_l{layer}"] = (rows, hidden)
        expected[f"{of}bias_ih_l{layer}"] = expected[f"{of}bias_hh_l{layer}"] = (rows,)
    if linear:
        n_out = matrix(shapes, f"{prefix}.fc_output_layer.weight")[0]
        expected[f"{prefix}.fc_output_layer.weight"] = (n_out, hidden)
    for name, want in expected.items():
        shape = tuple(shapes[name])
        fits = len(shape) == len(want) and all(
            size is None or size == found for size, found in zip(want, shape, strict=True)
        )
        if not fits:
            sizes = ", ".join("any" if size is None else str(size) for size in want)
            raise ModelError(
                f"tensor {printable(name)} has shape {list(shape)}: expected [{sizes}], beside "
                f"{printable(of)}weight_hh_l0 of {[rows, hidden]}"
            )


def sequence(value: Sequence | Mapping[str, Any]) -> Sequence:
    """Restore a `Sequence` from its JSON form."""
    return value if isinstance(value, Sequence) else Sequence(**value)


def matrix(shapes: Shapes, name: str) -> tuple[int, int]:
    """Return the two sizes of matrix `name`; raise ModelError if it is missing or no matrix."""
    if name not in shapes:
        there = list(dict.fromkeys(printable(each.split(".")[0]) for each in shapes))
        raise ModelError(
            f"tensor {name} is missing: this is not a whole checkpoint of this model, or its parts "
            f"have other names; it has {listed(there)}"
        )
    shape = tuple(shapes[name])
    if len(shape) != 2:
        raise ModelError(f"tensor {name} has shape {list(shape)}: expected a matrix")
    return shape[0], shape[1]


@dataclass(frozen=True)
class BaseConfig:
    """Acoustics and norm, which all architectures have.

    Parameters
    ----------
    norm_type : str
        One of `CAUSAL_NORMS` or `OFFLINE_NORMS`.
    sample_rate : int
        Hz.
    n_fft, hop_length : int
        Samples. The window is as long as the transform.
    look_ahead : int
        Frames.
    start_at_sound : bool
        Reset the network's state at the first sound, and again at the first sound after five
        seconds of silence or more. Otherwise a running norm takes silence for a very quiet room and
        the sound after it for very loud, for many seconds, if the network was trained on recordings
        that begin with sound. Not part of the published arithmetic.
    """

    norm_type: str
    sample_rate: int = 16000
    n_fft: int = 512
    hop_length: int = 256
    look_ahead: int = 0
    start_at_sound: bool = False

    #: The part of a recipe's `[model] path` that identifies this architecture.
    recipe_name: ClassVar[str]
    #: What names of its tensors, and of no other architecture's, begin with.
    tensor_prefix: ClassVar[str]
    #: Tensors that are part of a checkpoint, but not trained and never quantised.
    fixed: ClassVar[frozenset[str]] = frozenset()
    #: Fields read from tensors, whatever a recipe says; of activations, only PReLU has a tensor.
    fields_from_shapes: ClassVar[frozenset[str]]
    #: Stacks that end in an activation, and its name in recipes; None if recipes do not name it.
    activations: ClassVar[Mapping[str, str | None]]
    #: Tensors only show the sum of both kinds of neighbours. This kind is 0 unless a recipe sets
    #: it.
    optional_neighbors: ClassVar[str | None] = None
    #: Fields that the published code does not have, with the values that change nothing.
    unpublished: ClassVar[Mapping[str, Any]] = {"start_at_sound": False}

    def __post_init__(self) -> None:
        """Refuse acoustics that the overlap-add cannot invert."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float):  # NumPy's have a repr of their own, and states a digest
                object.__setattr__(self, field.name, float(value))
        if not isinstance(self.start_at_sound, bool):
            raise ModelError(
                f"start_at_sound is {shown(self.start_at_sound)}: expected true or false"
            )
        check_norm(self.norm_type)
        check_size("sample_rate", self.sample_rate, MIN_RATE, MAX_RATE)
        check_size("n_fft", self.n_fft, 4, 1 << 14)
        check_size("hop_length", self.hop_length, 1, self.n_fft // 2)
        check_size("look_ahead", self.look_ahead, 0, 1000)
        if self.n_fft % 2 or (self.n_fft // 2) % self.hop_length:
            raise ModelError(
                f"n_fft = {self.n_fft} with hop_length = {self.hop_length}: expected an even n_fft "
                "whose half is a multiple of the hop"
            )
        # A sample costs a transform per hop, a frame of look-ahead the memory of a spectrum.
        if self.n_fft > MAX_OVERLAP * self.hop_length:
            raise ModelError(
                f"hop_length is {self.hop_length} with n_fft = {self.n_fft}: expected "
                f"{-(-self.n_fft // MAX_OVERLAP)} or more"
            )
        if self.look_ahead * self.n_freq > MAX_AHEAD:
            raise ModelError(
                f"look_ahead is {self.look_ahead} frames of {self.n_freq} bins: expected at most "
                f"{MAX_AHEAD} bins in all"
            )

    @property
    def n_freq(self) -> int:
        """Bins of the one-sided spectrum."""
        return self.n_fft // 2 + 1

    @property
    def norms(self) -> str:
        """The norms that it runs with, in words."""
        return self.norm_type

    @property
    def obstacle(self) -> str | None:
        """The norm that needs the whole signal, in words; None if the model streams."""
        return None if self.norm_type in CAUSAL_NORMS else f"norm ({self.norm_type})"

    @property
    def streams(self) -> bool:
        """Whether the model needs nothing from the future."""
        return self.obstacle is None

    @property
    def restarts_at_sound(self) -> bool:
        """Whether a stream resets the network at a sound: not if a norm needs the whole signal."""
        return self.start_at_sound and self.streams

    @property
    def additions(self) -> dict[str, Any]:
        """Those of `unpublished` that change what it computes, with the norm that it has."""
        return {"start_at_sound": True} if self.restarts_at_sound else {}

    @property
    def latency_samples(self) -> int:
        """Samples by which a stream's output lags its input (the hop itself not counted)."""
        return self.n_fft - self.hop_length + self.look_ahead * self.hop_length

    @property
    def latency_ms(self) -> float:
        """The same in milliseconds."""
        return 1000.0 * self.latency_samples / self.sample_rate

    @property
    def mask_stacks(self) -> tuple[str, ...]:
        """Prefixes of the stacks whose outputs are the mask."""
        raise NotImplementedError

    @classmethod
    def from_tensors(cls, shapes: Shapes, args: Mapping[str, Any]) -> BaseConfig:
        """Read the sizes from the tensors, the rest from the recipe's `args`."""
        raise NotImplementedError

    @classmethod
    def smallest(cls, norm: str) -> BaseConfig:
        """Return the config of a tiny network that needs every kernel (`warmup`)."""
        raise NotImplementedError

    def with_norm(self, norm: str | None) -> BaseConfig:
        """Return a copy that runs with another norm; None: the norm stays."""
        if norm is None:
            return self
        return dataclasses.replace(self, **self.norm_fields(check_norm(norm)))

    def norm_fields(self, norm: str) -> dict[str, Any]:
        """Return the fields that a norm decides."""
        return {"norm_type": norm}

    def as_published(self) -> BaseConfig:
        """Return a copy that runs the published arithmetic and nothing else."""
        return dataclasses.replace(self, **self.unpublished)

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor that the network needs, under the checkpoint's own names."""
        raise NotImplementedError


def acoustics(args: Mapping[str, Any], **defaults: Any) -> dict[str, Any]:
    """Pick acoustics and norm out of a recipe's arguments."""
    names = ("norm_type", "sample_rate", "n_fft", "hop_length", "start_at_sound")
    found = {**defaults, **{name: args[name] for name in names if args.get(name) is not None}}
    if "hop_length" not in found and found["n_fft"] < 512:
        raise ModelError(
            f"the hop is not known: 256, as published, is more than half of n_fft = "
            f"{shown(found['n_fft'])}; give the recipe (-C), whose [acoustics] have hop_length"
        )
    win_length, n_fft = args.get("win_length"), found["n_fft"]
    if win_length is not None and win_length != n_fft:
        raise ModelError(
            f"win_length = {shown(win_length)} differs from n_fft = {shown(n_fft)}: "
            "only windows as long as the transform are supported"
        )
    return found
