"""A fresh process of a peer: time until its first frame is done, and peak memory.

``python -m tools.bench.start onnx|torch ARCHITECTURE FOLDER STEPS`` prints a line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def start_onnx(architecture: str, folder: Path) -> tuple[float, float, Any]:
    """Import ONNX Runtime and load graphs; return the times of both and a step."""
    import numpy as np

    from .onnx_peer import onnx_peer

    imported = time.perf_counter()
    peer = onnx_peer(architecture, folder)
    loaded = time.perf_counter()
    frame = np.ones((1, 257), np.float32)
    return imported, loaded, lambda: peer.step(frame)


def start_torch(architecture: str, folder: Path) -> tuple[float, float, Any]:
    """Import PyTorch and load a checkpoint; return the times of both and a step."""
    import torch

    from .torch_peer import torch_peer

    torch.set_num_threads(1)
    imported = time.perf_counter()
    peer = torch_peer(architecture, torch.load(folder / "weights.pt", weights_only=True))
    loaded = time.perf_counter()
    torch.set_grad_enabled(False)
    frame = torch.ones((1, 257))
    return imported, loaded, lambda: peer.step(frame)


def main(peer: str, architecture: str, folder: str, steps: str) -> None:
    """Start, run one step, note the time, and run the other steps."""
    start = time.perf_counter()
    run = {"onnx": start_onnx, "torch": start_torch}[peer]
    imported, loaded, step = run(architecture, Path(folder))
    step()
    stepped, ready = time.perf_counter(), time.time()
    for _ in range(int(steps)):
        step()
    from npfsn.bench.start import peak_memory_mb

    result = {
        "import_s": imported - start,
        "load_s": loaded - imported,
        "first_output_s": stepped - loaded,
        "ready": ready,
        "memory_mb": peak_memory_mb(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
