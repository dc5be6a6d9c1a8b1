"""Processes of their own: `npfsn`, most often with an engine that only delays, and programs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
NPFSN = [sys.executable, "-m", "npfsn"]
WITH_DELAY = [sys.executable, str(TESTS / "pure_delay.py")]


def environment(**more):
    """Return the environment of a process that finds the package and the modules of the tests."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(TESTS)]), **more}


def spawn(*argv, base=WITH_DELAY, **options):
    return subprocess.Popen(
        [*base, *map(str, argv)],
        env=environment(**options.pop("env", {})),
        stdin=options.pop("stdin", subprocess.PIPE),
        stdout=subprocess.PIPE,
        stderr=options.pop("stderr", subprocess.PIPE),
        **options,
    )


def run(*argv, base=WITH_DELAY, data=None, code=0, **options):
    process = spawn(*argv, base=base, **options)
    out, err = process.communicate(data, timeout=120)
    assert process.returncode == code, err.decode()
    assert b"Traceback" not in err
    return out, err.decode().replace(os.linesep, "\n")
