"""`EnhancerGroup`: a hop of each of several streams, in one call and in less time."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np

from . import state as states
from .alone import together
from .enhancer import Enhancer
from .errors import FrameError
from .layers import RecurrentPass
from .packing import aligned
from .program import Program
from .samples import AnySamples, Samples, as_float32, as_out, check_type, copy_finite
from .stream import Stream


class EnhancerGroup:
    """Step several streams of one model together.

    A layer for the whole band reads megabytes of weights for one row of inputs. In a group they are
    read once for all streams: a hop of each takes less time than as many calls of `Enhancer.step`
    (docs/how-to.md has figures), and gives the same bits.

    The enhancers stay what they are. Between two steps of the group each may be used alone: reset
    for the next caller, flushed, moved to another group. A group cannot be changed; making one
    takes some milliseconds.

    Parameters
    ----------
    enhancers : iterable of Enhancer
        Made of the same `load_model(...)`, with the same precision and norm; other options may
        differ. `step` is not called on them, should a subclass replace it.

    Raises
    ------
    TypeError, ValueError
        There are none, these are not enhancers or not of one network, or one is given twice.

    Examples
    --------
    >>> import numpy as np, npfsn
    >>> model = npfsn.load_model()
    >>> group = npfsn.EnhancerGroup([npfsn.Enhancer(model) for _ in range(8)])
    >>> group.step(np.zeros((8, group.frame_length), np.float32)).shape
    (8, 256)
    """

    def __init__(self, enhancers: Iterable[Enhancer]) -> None:
        members = tuple(enhancers)
        for each in members:
            if not isinstance(each, Enhancer):
                raise TypeError(f"an EnhancerGroup takes Enhancers: this is {each!r}")
        if not members:
            raise ValueError("an EnhancerGroup needs an Enhancer at least")
        if len(set(map(id, members))) < len(members):
            raise ValueError("an Enhancer is there twice: give every stream one of its own")
        streams = [each._stream for each in members]
        if any(stream.network is not streams[0].network for stream in streams):
            raise ValueError(
                "the Enhancers of a group must share one network: make them of the same "
                "npfsn.load_model(...), with the same precision and norm"
            )
        self._members = members
        self._shape = len(members), streams[0].hop
        self._together = _Together(streams)

    @property
    def enhancers(self) -> tuple[Enhancer, ...]:
        """The streams, in the order of the rows of `step`."""
        return self._members

    @property
    def frame_length(self) -> int:
        """Samples of a hop."""
        return self._shape[1]

    def __len__(self) -> int:
        """Count the streams."""
        return len(self._members)

    def __repr__(self) -> str:
        """Name the size and the first stream."""
        return f"<npfsn.EnhancerGroup of {len(self)}: {self._members[0]!r}>"

    def step(self, frames: AnySamples, out: Samples | None = None) -> Samples:
        """Enhance one hop of each stream.

        Parameters
        ----------
        frames : float32 array, shape (S, frame_length)
            A row for each stream. float64 is cast. Not modified.
        out : float32 array, shape (S, frame_length), optional
            Where to put the result; may be `frames` itself.

        Returns
        -------
        float32 array, shape (S, frame_length)
            In each row what `Enhancer.step` of that stream would return.

        Raises
        ------
        TypeError, FrameError, StreamEndedError, ConcurrentUseError
            As `Enhancer.step`, if it holds for any of the streams; none is changed.
        """
        return together(self._members, self._step, frames, out)

    def _step(self, frames: AnySamples, out: Samples | None) -> Samples:
        check_type(frames, "frames")
        if frames.shape != self._shape:
            raise FrameError(
                f"frames has shape {list(frames.shape)}: expected {list(self._shape)}, one hop of "
                "each stream"
            )
        out = as_out(out, self._shape)
        for i, frame in enumerate(as_float32(frames)):
            each = self._members[i]
            try:
                copy_finite(frame, each._in, each._bad, each._on_nonfinite)
            except FrameError as error:
                raise FrameError(f"stream {i}: {error}") from None
        self._together.push([each._begin_hop() for each in self._members], out)
        for each in self._members:
            each._end_hop()
        return out

    def __reduce__(self) -> Any:
        """Refuse to be pickled, or copied: its programs belong to these streams."""
        raise TypeError(
            "an EnhancerGroup is neither copied nor pickled: make another, of copies of its "
            "enhancers"
        )


class _Together:
    """Streams whose one-unit stacks run as one stack with a unit for each stream.

    Each stream has programs of its own up to the first of these stacks, between them and after the
    last. They copy its inputs and its state to the common stack, and back: between two hops, all is
    in the stream's own state.

    Parameters
    ----------
    streams : list of Stream
        Of one network.
    """

    def __init__(self, streams: list[Stream]) -> None:
        self._streams = streams
        # Played in turns: a program of each stream, then one of all.
        self._own: list[list[Program]] = [[Program() for _ in streams]]
        self._common: list[Program] = []
        program = streams[0].pushed
        if len(streams) == 1:
            self._own = [[program]]  # a stack of one unit has faster ways of its own
            return
        for kind, group in itertools.groupby(range(len(program)), lambda i: _kind(program, i)):
            calls = list(group)
            first, end = calls[0], calls[-1] + 1
            if kind == "common":
                self._share(first, end)
            elif kind == "own":
                for s, stream in enumerate(streams):
                    self._own[-1][s] = self._own[-1][s].then(stream.pushed.part(first, end))

    def _share(self, first: int, end: int) -> None:
        """Let calls first .. end - 1, all of one-unit stacks, be calls of common stacks."""
        before, common = self._own[-1], Program()
        after = [Program() for _ in self._streams]
        programs = [stream.pushed for stream in self._streams]
        results: dict[int, np.ndarray] = {}  # by what they stand for in the first stream
        owners: list[Any] = [program.owners for program in programs]  # RecurrentPass of each call
        for _, group in itertools.groupby(range(first, end), owners[0].__getitem__):
            calls = list(group)
            weights = owners[0][calls[0]].weights.shared_by(len(programs))
            stack = weights.bind(states.zeros(weights.fields()), 1)
            how: dict[str, Any] = {"stage": weights.key, "owner": stack}
            inputs = [program.arguments[calls[0]][0] for program in programs]
            x = results.get(id(inputs[0]))
            if x is None:
                x = aligned((len(programs), inputs[0].shape[1]), np.float32)
                for s, own in enumerate(inputs):
                    before[s].add("copy_row", own, x[s : s + 1], **how)
            y = stack.write(common, x)
            for s, program in enumerate(programs):
                result, layers = program.arguments[calls[-1]][-1], owners[s][calls[0]].layers
                for i in range(len(layers)):
                    own, shared = layers[i : i + 1], stack.layers[i : i + 1]
                    before[s].add("copy_state", own, 0, shared, s, **how)
                    after[s].add("copy_state", shared, s, own, 0, **how)
                after[s].add("copy_row", y[s : s + 1], result, **how)
                if s == 0:
                    results[id(result)] = y
        self._common.append(common)
        self._own.append(after)

    def push(self, hops: list[Samples], out: Samples) -> None:
        """Take a hop of each stream and write one of each, as `Stream.push` does.

        Parameters
        ----------
        hops : list of float32 array, shape (hop,)
        out : float32 array, shape (S, hop)
        """
        frames = []
        for s, stream in enumerate(self._streams):
            frame = stream.next_frame(hops[s])
            if frame is None:
                stream.push_early(hops[s], out[s])
            else:
                frames.append((s, frame))
        for turn, programs in enumerate(self._own):
            if turn:
                self._common[turn - 1].play(0, 1)
            for s, frame in frames:
                programs[s].play(frame, 1, hops[s], out[s])


def _kind(program: Program, call: int) -> str:
    """Tell whether a call is made for all streams at once, for each one, or not at all."""
    owner, (_, kernel) = program.owners[call], program.stages[call]
    if kernel == "begin_queue":
        return "none"  # what tiles do beside their own work is for stacks that are common here
    shared = isinstance(owner, RecurrentPass) and owner.weights.units == 1 and owner.every == 1
    return "common" if shared else "own"
