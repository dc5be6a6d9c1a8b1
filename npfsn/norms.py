"""Running norms, and two offline ones, which are fitted to a whole signal before they apply."""

from __future__ import annotations

import math

import numpy as np

from .config import OFFLINE_NORMS
from .kernels.tables import NORM, array_record
from .program import Program
from .state import Fields, State

#: The eps of the offline norms and of the forgetting norm, as published except for Improved
#: FullSubNet.
OFFLINE_EPS = 1e-5
FORGETTING_EPS = 1e-10


class Norm:
    """A norm of one place in a network: what it is, and how to bind it to a stream's state.

    Parameters
    ----------
    name : str
        One of the five norms, or "cumulative_section_norm": `cumulative_laplace_norm` with one mean
        over all units.
    key : str
        Prefix of its entries in the state.
    units, size : int
        Shape [U, S] of a frame's features. The full-band norm has one unit.
    eps : float, optional
        Replaces the published eps of the offline norms and of the forgetting norm.

    Attributes
    ----------
    name, key : str
    units, size : int
        [U, S] for a norm with a statistic per unit, else [1, U S]: the shape that kernels see.
    eps : float
        The one that applies.
    """

    def __init__(
        self, name: str, key: str, units: int, size: int, *, eps: float | None = None
    ) -> None:
        self.name, self.key = name, key
        # These two take a statistic per unit, the others one over all units.
        per_unit = name in ("cumulative_laplace_norm", "cumulative_layer_norm")
        self.units, self.size = (units, size) if per_unit else (1, units * size)
        default = FORGETTING_EPS if name == "forgetting_norm" else OFFLINE_EPS
        self.eps = default if eps is None else eps

    @property
    def offline(self) -> bool:
        """Whether the norm needs the whole signal first."""
        return self.name in OFFLINE_NORMS

    def fields(self) -> Fields:
        """Entries of the state."""
        one = ((1,), np.float64)
        per_unit = ((self.units,), np.float64)
        if self.offline:
            return {f"{self.key}.moments": ((3,), np.float64)}
        if self.name == "forgetting_norm":
            return {f"{self.key}.count": one, f"{self.key}.mu": one}
        fields: Fields = {f"{self.key}.count": one, f"{self.key}.total": per_unit}
        if self.name == "cumulative_layer_norm":
            fields[f"{self.key}.square"] = per_unit
        return fields

    def bind(self, state: State) -> BoundNorm:
        """Return the norm bound to `state`."""
        return BoundNorm(self, state)


_KERNELS = {
    "cumulative_laplace_norm": "cumulative_laplace",
    "cumulative_section_norm": "cumulative_laplace",
    "cumulative_layer_norm": "cumulative_layer",
    "forgetting_norm": "forgetting",
    "offline_laplace_norm": "offline",
    "offline_gaussian_norm": "offline",
}


class BoundNorm:
    """A norm bound to the state of one stream.

    An offline norm takes moments of its input until `fit` is called; from then on it applies them.

    Parameters
    ----------
    norm : Norm
    state : State

    Attributes
    ----------
    norm : Norm
    state : dict of str to float64 array
        Its own entries of the state, without its key: count, total, ...
    table : array of `NORM`, shape (1,)
        How kernels see it.
    """

    def __init__(self, norm: Norm, state: State) -> None:
        self.norm = norm
        self.state = {name.removeprefix(f"{norm.key}."): state[name] for name in norm.fields()}
        self.table = np.zeros(1, NORM)
        self.table["eps"] = norm.eps
        self.set_horizon(math.inf)
        for name, array in self.state.items():
            self.table[name] = array_record(array, np.float64)
        self.unfit()

    def set_horizon(self, frames: float) -> None:
        """Let all that is older than `frames` fade; infinite: as published.

        An offline norm ignores it.
        """
        self.table["horizon"] = max(frames, 1.0)

    @property
    def fitted(self) -> bool:
        """Whether the norm can be applied: a causal one always can."""
        return bool(self.table["fitted"][0])

    @property
    def has_counted(self) -> bool:
        """Whether an offline norm has taken moments of anything."""
        return bool(self.state["moments"][0] > 0)

    def unfit(self) -> None:
        """Make an offline norm take moments again."""
        self.table["fitted"] = not self.norm.offline

    def fit(self) -> None:
        """Compute the shift and the scale of an offline norm from its moments."""
        n, total, square = (float(value) for value in self.state["moments"])
        mean = total / n
        if self.norm.name == "offline_laplace_norm":
            shift, scale = 0.0, mean + self.norm.eps
        else:
            var = max(square - n * mean * mean, 0.0) / max(n - 1.0, 1.0)
            shift, scale = mean, math.sqrt(var) + self.norm.eps
        self.table["shift"], self.table["scale"] = shift, scale
        self.table["fitted"] = True

    def write(self, program: Program, x: np.ndarray, out: np.ndarray, every: int = 1) -> None:
        """Add the norm to a program, for every frame or every block of `every` frames."""
        shape = (-1, self.norm.units, self.norm.size)
        arguments = x.reshape(shape), self.table, out.reshape(shape)
        kernel = _KERNELS[self.norm.name]
        program.add(kernel, *arguments, stage="norms", every=every, owner=self)
