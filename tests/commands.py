"""`npfsn` in processes of its own, most of them with an engine that only delays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NPFSN = [sys.executable, "-m", "npfsn"]
WITH_DELAY = [sys.executable, str(Path(__file__).with_name("pure_delay.py"))]


def spawn(*argv, base=WITH_DELAY, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    return subprocess.Popen(
        [*base, *map(str, argv)],
        env=environment,
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
