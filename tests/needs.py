"""What some tests need of the machine."""

from __future__ import annotations

import os

import pytest

posix = pytest.mark.skipif(os.name != "posix", reason="signals, pipes, links, forks are POSIX's")
full_device = pytest.mark.skipif(
    os.name != "posix" or not os.path.exists("/dev/full"), reason="no /dev/full here"
)
