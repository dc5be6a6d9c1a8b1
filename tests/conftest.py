"""What is under test, and what all tests share."""

from __future__ import annotations

import os
import platform
import signal
import sys

import drawn_models
import hypothesis
import llvmlite
import numba
import numpy as np
import pytest
from pure_delay import load_model, modules

import npfsn
from npfsn import cli, weights
from npfsn.bench.machine import SIMD
from npfsn.kernels.cpu import FEATURES

# The same examples every time: a failure on one machine can be looked at on another. The first
# example may compile a kernel, so there is no deadline.
hypothesis.settings.register_profile("npfsn", deadline=None, derandomize=True, max_examples=30)
hypothesis.settings.load_profile("npfsn")

# A shell with one of these, as of some containers, would not show what others have to cope with:
# output that waits in Python's buffers, and a terminal's own width.
for name in ("PYTHONUNBUFFERED", "COLUMNS"):
    os.environ.pop(name, None)

# Whoever starts the tests in the background ignores SIGINT for them and all their children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> list[str]:
    """Say what is being tested, and on what."""
    features = [name for name in SIMD if name in FEATURES]
    return [
        f"npfsn {npfsn.__version__} from {npfsn.__path__[0]}",
        f"numba {numba.__version__}, llvmlite {llvmlite.__version__}, numpy {np.__version__}, "
        f"python {platform.python_version()}",
        f"{platform.machine()}, kernels for: {', '.join(features) or 'any machine'}",
    ]


@pytest.fixture
def delay(monkeypatch):
    """Put `Delay` in the place of the engine, and the identity where a whole signal is needed."""
    for name, module in modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(weights, "load_model", load_model)


@pytest.fixture(name="npfsn")
def _npfsn(delay, monkeypatch, capsys, tmp_path):
    """Run the command line in this process, in an empty folder, with an engine that delays."""
    monkeypatch.chdir(tmp_path)

    def run(*argv, code=0):
        found = cli.main([str(word) for word in argv])
        out, err = capsys.readouterr()
        assert found == code, err
        assert "Traceback" not in err
        return out.replace(os.sep, "/"), err.replace(os.sep, "/")  # paths as the tests spell them

    return run


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Write models of the golden cases, and one whose mask is one, to files."""
    folder = tmp_path_factory.mktemp("models")
    names = {
        "fast": drawn_models.golden_model("fast_lstm_cum"),
        "full": drawn_models.golden_model("full_gru_cum"),
        "offline": drawn_models.golden_model("base_gru_offline"),
        "wide": drawn_models.golden_model("improved_48k"),
        "identity": drawn_models.identity_model("fullband"),
    }
    for name, model in names.items():
        weights.save_model(model, folder / f"{name}.npz")
    return {name: folder / f"{name}.npz" for name in names}


@pytest.fixture
def engine(monkeypatch, capsys, tmp_path):
    """Run the command line in this process, in an empty folder, with the real engine."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        code = cli.main([str(word) for word in argv])
        out, err = capsys.readouterr()
        assert code == 0, err
        return out, err

    return run
