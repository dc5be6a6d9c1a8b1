"""A stream that only delays, in the place of the engine: what differs is the plumbing's fault.

`python tests/pure_delay.py ARGUMENTS` is `npfsn ARGUMENTS` with this engine, also in the worker
processes that it starts. Environment variables make it misbehave: NPFSN_TEST_PAUSE is a number of
seconds to wait before each block, NPFSN_TEST_KILL a signal for the process on a block that holds
0.75, NPFSN_TEST_STILLBORN is a folder: each of the files in it costs a worker its life before it
starts.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import types

import numpy as np

if __name__ in ("__main__", "__mp_main__"):
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from npfsn import weights
from npfsn.config import BaseConfig

HOP = 256


class Delay:
    """The contract of `Enhancer` with the identity for a model."""

    sample_rate = 16000
    frame_length = HOP
    latency_samples = 3 * HOP
    n_nonfinite = 0

    def __init__(self, model=None, *, atten_lim_db=None, on_nonfinite="raise", **options):
        assert atten_lim_db is None
        self.on_nonfinite = on_nonfinite
        self.reset()

    def reset(self):
        self._line = [np.zeros(self.latency_samples, np.float32)]
        self._n_in = self._n_out = 0

    def process(self, chunk):
        assert chunk.dtype == np.float32 and chunk.ndim == 1
        assert np.isfinite(chunk).all()
        time.sleep(float(os.environ.get("NPFSN_TEST_PAUSE", "0")))
        if "NPFSN_TEST_KILL" in os.environ and (chunk == 0.75).any():
            os.kill(os.getpid(), int(os.environ["NPFSN_TEST_KILL"]))
        self._n_in += chunk.size
        self._line.append(chunk)
        return self._give(self._n_in // HOP * HOP - self._n_out)

    def step(self, frame, out=None):
        return self.process(frame)

    def flush(self):
        return self._give(self._n_in + self.latency_samples - self._n_out)

    def copy(self):
        return Delay()

    def _give(self, n):
        line = np.concatenate(self._line)
        self._line = [line[n:]]
        self._n_out += n
        return line[:n]


def enhance(x, rate, model=None, *, progress=None, **options):
    """Stand in for `npfsn.enhance`."""
    if progress is not None:
        progress(len(x) / rate, len(x) / rate)
    return x.copy()


def modules():
    """Give the modules that stand in for the engine."""
    stream = types.ModuleType("npfsn.enhancer")
    stream.Enhancer = Delay
    whole = types.ModuleType("npfsn.whole")
    whole.enhance = enhance
    return {"npfsn.enhancer": stream, "npfsn.whole": whole}


_load_model = weights.load_model
# What is asked of the built-in model, apart from its weights.
_BUILT_IN = types.SimpleNamespace(config=BaseConfig("cumulative_laplace_norm"))


def load_model(path=None):
    """Load what is named, but do without the built-in weights."""
    return _BUILT_IN if path in (None, _BUILT_IN) else _load_model(path)


if __name__ in ("__main__", "__mp_main__"):
    sys.modules.update(modules())
    weights.load_model = load_model

if __name__ == "__mp_main__" and "NPFSN_TEST_STILLBORN" in os.environ:
    for entry in os.scandir(os.environ["NPFSN_TEST_STILLBORN"]):
        try:
            os.unlink(entry)
        except FileNotFoundError:  # another one's
            continue
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    from npfsn.cli import main

    sys.exit(main())
