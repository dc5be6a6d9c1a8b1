"""What is under test, and what all tests share."""

from __future__ import annotations

import platform
import signal
from collections.abc import Callable

import drawn_models
import hypothesis
import llvmlite
import numba
import numpy as np
import pytest

import npfsn
from npfsn.jit import host_features
from npfsn.weights import Model

# The same examples every time: a failure on one machine can be looked at on another. The first
# example may compile a kernel, so there is no deadline.
hypothesis.settings.register_profile("npfsn", deadline=None, derandomize=True, max_examples=30)
hypothesis.settings.load_profile("npfsn")

# The features that kernels are chosen by.
_SHOWN = ("avx2", "fma", "avx512f", "avx512vnni", "amx-int8", "neon", "dotprod", "i8mm")

# Whoever starts the tests in the background ignores SIGINT for them and all their children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> list[str]:
    """Say what is being tested, and on what."""
    features = [name for name in _SHOWN if name in host_features()]
    return [
        f"npfsn {npfsn.__version__} from {npfsn.__path__[0]}",
        f"numba {numba.__version__}, llvmlite {llvmlite.__version__}, numpy {np.__version__}, "
        f"python {platform.python_version()}",
        f"{platform.machine()}, kernels for: {', '.join(features) or 'any machine'}",
    ]


@pytest.fixture(scope="session")
def golden_model() -> Callable[[str], Model]:
    """Model of a golden case, by name."""
    return drawn_models.golden_model
