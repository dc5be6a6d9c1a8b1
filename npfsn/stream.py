"""The engine of one stream: hops in, hops out, nothing checked."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import numpy as np

from . import state as states
from .errors import StateError
from .flow import Flow
from .kernels.cpu import SMALLEST
from .kernels.tables import LOUDEST
from .machine_code import function, place
from .network import Network
from .program import Program
from .state import Fields, State
from .stft import Stft

# Where a single window covers a sample and is smaller than this, dividing by it amplifies what the
# mask left at the frame's edge more than a hundredfold, rounding included. The published float32
# code is not accurate to 1e-5 there either. Only the last samples of a signal can lie there.
_THIN_WINDOW = 1 / 128

# After a silence this long, what was heard before helps the norm less than the silence harms it
# (`tools.evaluate starts`, weights/README.md).
_LONG_SILENCE_SECONDS = 5.0

# From this many hops at once, it pays to have several blocks in flight (`npfsn.flow`).
_LONG = 64


class _BoundPass:
    """A pass over blocks of up to `frames` frames, with its spectra and its programs."""

    def __init__(
        self, network: Network, horizon: float, state: State, stft: Stft, frames: int
    ) -> None:
        config = network.config
        shape = (frames, 2, config.n_freq)
        self.network_pass = network.bind(state, frames)
        self.network_pass.set_horizon(horizon)
        self.mag, self.new = self.network_pass.mag, np.zeros(shape, np.float64)
        ready = np.zeros(shape, np.float64)  # the spectra that the mask belongs to
        self.signal = np.zeros(config.n_fft + (frames - 1) * config.hop_length, np.float32)
        self.out = np.zeros(frames * config.hop_length, np.float32)

        self.stft = stft
        self._analysis, wait, complete = Program(), Program(), Program()
        stft.write_analysis(self._analysis, self.signal, self.new, self.mag)
        wait.add("wait_for_mask", self.new, state["stft.spec"], ready, stage="mask")
        complete.add(network.apply_mask, self.network_pass.mask, ready, stage="mask")
        stft.write_synthesis(complete, ready)
        # In the first `look_ahead` frames, masks belong to frames before the first.
        self.without_output = self.network_pass.program.then(wait)
        self.program = self.without_output.then(complete)
        self._complete = wait.then(complete)
        self.flow: Flow | None = None

    def bind_flow(self) -> Flow | None:
        """Return the flow of blocks, made when first needed; None if the network has no parts."""
        if self.flow is None and (parts := self.network_pass.parts()):
            self.flow = Flow(parts, self.new, self._complete)
        return self.flow

    def analyse(self, signal: np.ndarray, n: int) -> None:
        """Transform `n` frames of `signal`, one per hop."""
        size = self.stft.n_fft + (n - 1) * self.stft.hop
        self.signal[:size] = signal[:size]
        self._analysis.play(0, n)


class Stream:
    """One stream: its state, and passes of the network bound to it.

    Parameters
    ----------
    network : Network
    horizon : float
        Frames after which running norms forget; infinite as published.
    more : Fields, optional
        Further entries to keep, save and reset with its state.
    """

    def __init__(
        self, network: Network, horizon: float = math.inf, more: Fields | None = None
    ) -> None:
        config = network.config
        self.network, self.config, self.horizon = network, config, horizon
        self.hop = config.hop_length
        self.half_hops = config.n_fft // 2 // self.hop  # P: hops in half a window
        self.latency_hops = config.latency_samples // self.hop
        self.state = states.zeros(
            {
                "clock": ((2,), np.int64),
                "began": ((1,), np.int64),
                "silent": ((1,), np.int64),
                **Stft.fields(config),
                **network.fields(),
                **(more or {}),
            }
        )
        self._remembered = [self.state[name] for name in network.fields()]  # by the network
        # Hops received, frames transformed.
        self.clock = self.state["clock"]
        self.signal = self.state["stft.signal"]
        # `began`: 0 until the network first starts at a sound, then 1 + frame of its last start.
        # `silent`: hops of silence since the last sound.
        self.began, self.silent = self.state["began"], self.state["silent"]
        self._restarts = config.restarts_at_sound
        self._patience = math.ceil(_LONG_SILENCE_SECONDS * config.sample_rate / self.hop)
        self._hops_before = np.zeros(1, np.int64)
        self._find_start = function("calls.find_start")
        self._where = self.hop, self._patience, place(self.silent), place(self._hops_before)
        self.stft = Stft(config, self.state)
        self._one = _BoundPass(network, horizon, self.state, self.stft, 1)
        self._many: _BoundPass | None = None
        # From this frame on, every hop completes one frame, and that one hop of output. Before, a
        # hop may complete no frame, or two, or no output.
        self._steady = config.look_ahead + self.half_hops
        self._take, analyse = Program(), Program()
        self._take.add("push_hop", self.signal, stage="samples in")
        analyse.add("count_hop", self.clock, stage="samples in")
        self.stft.write_analysis(analyse, self.signal[self.hop :], self._one.new, self._one.mag)
        self._hop_program = self._take.then(analyse).then(self._one.program)
        self._after, self.pushed = Program(), self._hop_program
        self.fitted = self._one.network_pass.fitted
        self._one.network_pass.begin()

    def check(self, state: State, ended: bool) -> None:
        """Refuse entries of a state that no stream can have left, ended or not.

        Raises
        ------
        StateError
        """
        hops, frames = (int(value) for value in state["clock"])
        half = self.half_hops
        fits = ended or frames == (hops - half + 1 if hops > half else 0)
        fits = fits and all(0 <= count <= states.LARGEST_COUNT for count in (hops, frames))
        last, patience = (frames + 1, self._patience) if self._restarts else (0, 0)
        fits = fits and 0 <= int(state["began"][0]) <= last
        if not (fits and 0 <= int(state["silent"][0]) <= patience):
            raise StateError("the state's counters contradict each other: it is damaged")
        if not np.allclose(state["stft.env"], self._window_sums(frames), 1e-6, 1e-9):
            raise StateError("the state's window sums are not those of its frames: it is damaged")

    def _window_sums(self, frames: int) -> np.ndarray:
        """Return what `stft.env` holds after `frames` frames: it follows from their number."""
        n_fft, square = self.config.n_fft, self.stft.window**2
        sums = np.zeros(n_fft)
        for _ in range(min(max(frames - self.config.look_ahead, 0), n_fft // self.hop)):
            sums += square
            sums[: n_fft - self.hop] = sums[self.hop :]
            sums[n_fft - self.hop :] = 0.0
        return sums

    def fit_norms(self) -> None:
        """Fit the offline norms that have counted any values."""
        for bound in (self._one, self.bind_blocks()):
            for norm in bound.network_pass.norms:
                if not norm.fitted and norm.has_counted:
                    norm.fit()
        self.fitted = self._one.network_pass.fitted

    @property
    def n_unfitted(self) -> int:
        """How many norms are not fitted yet."""
        return sum(not norm.fitted for norm in self._one.network_pass.norms)

    def unfit_norms(self) -> None:
        """Make offline norms count again, for another signal."""
        for bound in (self._one, self._many):
            for norm in bound.network_pass.norms if bound else ():
                norm.unfit()
        self.fitted = self._one.network_pass.fitted

    def reset(self) -> None:
        """Forget everything heard."""
        for array in self.state.values():
            array.fill(0)
        self._begin_network()

    def _begin_network(self) -> None:
        """Prepare the network's first frame; its state is all zeros."""
        self.forget()
        self._one.network_pass.begin()

    def forget(self) -> None:
        """Drop what passes computed ahead of time: the state has been replaced."""
        self._one.network_pass.forget()
        if self._many is not None:
            self._many.network_pass.forget()
            if self._many.flow:
                self._many.flow.forget()

    def push(self, x: np.ndarray, out: np.ndarray) -> None:
        """Take one hop and write one to `out`, `latency_hops` behind; zeros before the first.

        Parameters
        ----------
        x, out : float32 array, shape (hop,)
        """
        frame = self.next_frame(x)
        if frame is not None:
            self.pushed.play(frame, 1, x, out)
        else:
            self.push_early(x, out)

    def next_frame(self, x: np.ndarray) -> int | None:
        """Return the network's frame that a hop completes, if it completes one of output, too.

        It is to be taken next: by playing `pushed`, or by `push_early` where this returns None.
        """
        if self._restarts:
            self._listen(x)
        return self._steady_frame()

    def _steady_frame(self) -> int | None:
        """Return what `next_frame` does, after `_listen`."""
        frame = int(self.clock[1])
        return self._network_frame(frame) if frame >= self._steady and self.fitted else None

    def push_early(self, x: np.ndarray, out: np.ndarray) -> None:
        """Take a hop as `push` does, after `next_frame`: one of the first."""
        self._push(x, out)
        self._after.play(0, 1, x, out)

    def follow(self, program: Program) -> None:
        """Let every push end with the calls of a program that takes its samples and its output."""
        self._after, self.pushed = program, self._hop_program.then(program)

    def _push(self, x: np.ndarray, out: np.ndarray) -> None:
        """Take one hop, after `_listen`."""
        frame = self._steady_frame()
        if frame is not None:
            self._hop_program.play(frame, 1, x, out)
            return
        self._take.play(0, 1, x)
        hops = int(self.clock[0]) + 1
        self.clock[0] = hops
        if hops <= self.half_hops:  # not even frame 0 is complete
            out.fill(0)
            return
        if hops == self.half_hops + 1:
            # The signal starts within the buffer: reflect its first samples to the left of it.
            start = self.config.n_fft // 2
            self.signal[:start] = self.signal[start + 1 : 2 * start + 1][::-1]
            self._run(self._one, self.signal, 1)
            if self._restarts:
                self._listen(x)
        self._run(self._one, self.signal[self.hop :], 1)
        if hops > self.latency_hops:
            out[:] = self._one.out
        else:
            out.fill(0)

    def push_many(self, x: np.ndarray, out: np.ndarray) -> None:
        """Take any number of hops and write as many; the same bits as `push`, faster.

        Parameters
        ----------
        x, out : float32 array, shape (hops * hop,)
        """
        size, hop = x.shape[0], self.hop
        at = self._begin(x, out) if self.clock[0] == 0 else 0
        flow = None
        if size // hop >= _LONG and self.fitted:
            flow = self.bind_blocks().bind_flow()
        while at < size:
            left = (size - at) // hop
            steady = self.clock[1] >= self._steady
            if not steady:
                n = 1
            elif flow:
                n = flow.size(left)
            else:
                n = min(left, self.network.block_frames)
            if self._restarts:
                n = self._listen(x[at : at + n * hop])
            hops = slice(at, at + n * hop)
            if flow and steady:
                self._take_block(x[hops], out[hops], flow)
            elif n > 1:
                self._push_block(x[hops], out[hops])
            else:
                self._push(x[hops], out[hops])
            at += n * hop
        if flow:
            flow.end()
            self.bind_blocks().network_pass.forget()  # a bottleneck of one band works ahead
        self._after.play(0, 1, x, out)

    def _begin(self, x: np.ndarray, out: np.ndarray) -> int:
        """Take the first `latency_hops` hops at once, if there are enough; none completes output.

        Returns
        -------
        int
            Samples taken.
        """
        n_hop, most = self.latency_hops, self.network.block_frames
        end, early = n_hop * self.hop, self.config.look_ahead
        if not (self.half_hops < n_hop <= min(x.shape[0] // self.hop, most)) or (
            self._restarts and self._listen(x[:end]) < n_hop
        ):
            return 0
        signal = np.pad(x[:end], (self.config.n_fft // 2, 0), "reflect")
        self.clock[0] = n_hop
        self.signal[:] = signal[-self.signal.shape[0] :]
        with self._in_blocks() as bound:
            for first, n in ((0, early), (early, self.half_hops)):  # two programs: see `_run`
                if n:
                    self._run(bound, signal[first * self.hop :], n)
        out[:end] = 0
        return end

    def _listen(self, x: np.ndarray) -> int:
        """Reset the network if `x` begins with the first sound, or with sound after long silence.

        Returns
        -------
        int
            How many hops of `x` to take before the next call.
        """
        if self.clock[0] == self.half_hops and not self.clock[1]:
            # Frame 0 ends before this hop: callers ask again when it is done.
            return 1
        if not self.began[0]:
            self.silent[0] = self._patience
        self._find_start(place(x), x.shape[0], *self._where)
        if self._hops_before[0] == 0:
            if self._many is not None and self._many.flow:
                self._many.flow.end()
            for array in self._remembered:
                array.fill(0)
            self._begin_network()
            self.began[0], self.silent[0] = 1 + self.clock[1], 0
            self._find_start(place(x), x.shape[0], *self._where)
        return int(self._hops_before[0])

    def _network_frame(self, frame: int) -> int:
        """Count a frame from where the network last began: blocks of frames start there."""
        return frame - max(int(self.began[0]) - 1, 0)

    def _push_block(self, x: np.ndarray, out: np.ndarray) -> None:
        """Take a few hops at once, in the steady state of one frame per hop."""
        with self._in_blocks() as bound:
            self._run(bound, self._take_samples(x), x.shape[0] // self.hop)
            out[:] = bound.out[: x.shape[0]]

    def _take_block(self, x: np.ndarray, out: np.ndarray, flow: Flow) -> None:
        """Begin a block, in the steady state; `out` is filled when `Flow.end` has been called."""
        bound, frame, n = self.bind_blocks(), int(self.clock[1]), x.shape[0] // self.hop
        bound.analyse(self._take_samples(x), n)
        self.clock[1] += n
        self._one.network_pass.forget()
        flow.take(self._network_frame(frame), n, out)

    def _take_samples(self, x: np.ndarray) -> np.ndarray:
        """Count the hops of `x`; return the samples of the frames that they complete."""
        signal = np.concatenate([self.signal, x])
        self.clock[0] += x.shape[0] // self.hop
        self.signal[:] = signal[-self.signal.shape[0] :]
        return signal[2 * self.hop :]

    def bind_blocks(self) -> _BoundPass:
        """Return the pass over many frames, made when first needed: `push` needs none."""
        if self._many is None:
            frames = self.network.block_frames
            self._many = _BoundPass(self.network, self.horizon, self.state, self.stft, frames)
        return self._many

    @contextlib.contextmanager
    def _in_blocks(self) -> Iterator[_BoundPass]:
        """Use the pass over many frames for a while.

        Both passes share the state, so what one has computed ahead of time is void as soon as the
        other moves the state on.
        """
        bound = self.bind_blocks()
        self._one.network_pass.forget()
        yield bound
        bound.network_pass.forget()

    def _run(self, bound: _BoundPass, signal: np.ndarray | None, n: int) -> None:
        """Run a block of `n` frames; hops that it completes are in its `out`.

        `signal` are their samples; None for frames of look-ahead.
        """
        frame = int(self.clock[1])
        if signal is None:
            bound.mag.fill(0)
            bound.new.fill(0)
        else:
            bound.analyse(signal, n)
        self.clock[1] = frame + n
        if not bound.network_pass.fitted:
            program = bound.network_pass.program
        elif frame < self.config.look_ahead:
            program = bound.without_output
        else:
            program = bound.program
        program.play(self._network_frame(frame), n, out=bound.out)

    def finish(self, tail: np.ndarray) -> np.ndarray:
        """End the stream.

        Parameters
        ----------
        tail : float32 array, shape (R,)
            Samples after the last whole hop, R < hop.

        Returns
        -------
        float32 array, shape (latency + R,)
            After what `push` wrote: in all, `latency` zeros and then the enhanced signal.
        """
        n_fft, hop, half = self.config.n_fft, self.hop, self.config.n_fft // 2
        hops = int(self.clock[0])
        zeros = max(self.latency_hops - hops, 0)
        # Before the first frame the samples received; after it, their reflection on the left too.
        start = 0 if self.clock[1] else self.signal.shape[0] - hops * hop
        signal = np.concatenate([self.signal[start:], tail])
        given = [np.zeros(zeros * hop, np.float32)]
        if signal.shape[0] == 0:
            return given[0]
        loudest = np.abs(signal[-n_fft:]).max()
        last = np.pad(tail, (0, hop - tail.shape[0]))
        if self._restarts:
            self._listen(last)

        # Frames whose second half reaches beyond the end, then those of look-ahead.
        if int(self.clock[1]) == 0:
            beyond = hops + 1
            signal = np.pad(signal, half, mode="reflect")
        else:
            beyond = self.half_hops
            mirrored = half - tail.shape[0]
            signal = np.concatenate([signal, signal[-2 : -2 - mirrored : -1]])[2 * hop :]
        # A stream that was fed hop by hop has no pass over many frames, and needs none here.
        bound, most = self._one, 1
        if self._many is not None and self.clock[1] >= self._steady:
            bound, most = self._many, self.network.block_frames
        for samples, n_frame in ((signal, beyond), (None, self.config.look_ahead)):
            for done in range(0, n_frame, most):
                n = min(n_frame - done, most)
                self._run(bound, None if samples is None else samples[done * hop :], n)
                if self._restarts and hops == self.half_hops and self.clock[1] == 1:
                    self._listen(last)
                if self.clock[1] > self._steady:
                    given.append(bound.out[: n * hop].copy())

        self._one.network_pass.finish(int(self.clock[1]))

        # No further frame covers the rest. With fewer frames than there are hops in half a window,
        # it begins before the signal does.
        early = max(self._steady - int(self.clock[1]), 0) * hop
        ola, env = (self.state[name][early : n_fft - hop] for name in ("stft.ola", "stft.env"))
        rest = np.divide(ola, env, out=np.zeros_like(ola), where=env > 0)
        thin = env < _THIN_WINDOW**2
        rest[thin] = np.clip(rest[thin], -loudest, loudest)
        rest[np.abs(rest) < SMALLEST] = 0.0  # as `spectrum.synthesise` does
        np.clip(rest, -LOUDEST, LOUDEST, out=rest)
        given.append(rest.astype(np.float32))
        return np.concatenate(given)[: self.latency_hops * hop + tail.shape[0]]
