"""The products' machine code for CPUs that are not at hand (see tools/inspect_targets.py)."""

from __future__ import annotations

import platform

import pytest

from tools import inspect_targets


@pytest.mark.slow
@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="x86 code is made by x86 machines"
)
@pytest.mark.parametrize("target", inspect_targets.TARGETS)
def test_innermost_loops_work_in_vectors_and_registers(target: str) -> None:
    for name, counts in inspect_targets.measure(target).items():
        assert inspect_targets.is_fine(target, name, counts), (target, name, counts)
