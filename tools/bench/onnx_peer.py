"""ONNX Runtime, frame by frame, on the graphs of `onnx_graphs`.

The peer must be at its best: one thread, sequential execution, all graph optimisations, and states
that stay in the runtime's own tensors and are swapped between frames, so that they are not copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


class _Part:
    """A session with two sets of state tensors, swapped after every frame."""

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        shapes = {item.name: item.shape for item in self.session.get_inputs()}
        shapes |= {item.name: item.shape for item in self.session.get_outputs()}
        states = [name for name in shapes if f"{name}.next" in shapes]
        self.turns: list[dict[str, Any]] = [{n: _tensor(shapes[n]) for n in states} for _ in "ab"]
        self.bindings = []
        for turn in range(2):
            binding = self.session.io_binding()
            now, after = self.turns[turn], self.turns[1 - turn]
            for item in self.session.get_inputs():
                value = now[item.name] if item.name in now else _known(values, item)
                binding.bind_ortvalue_input(item.name, value)
            for item in self.session.get_outputs():
                name = item.name.removesuffix(".next")
                value = after[name] if name in after else _known(values, item)
                binding.bind_ortvalue_output(item.name, value)
            self.bindings.append(binding)
        self.turn = 0

    def run(self) -> None:
        """Run one frame."""
        self.session.run_with_iobinding(self.bindings[self.turn])
        self.turn = 1 - self.turn


def _tensor(shape: Sequence[int]) -> Any:
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))


def _known(values: dict[str, Any], item: Any) -> Any:
    if item.name not in values:
        values[item.name] = _tensor(item.shape)
    return values[item.name]


class OnnxFullSubNet:
    """A FullSubNet, frame by frame."""

    def __init__(self, paths: dict[str, Path]) -> None:
        self.values: dict[str, Any] = {}
        self.network = _Part(paths["network"], self.values)
        self.mask = self.values["mask"]

    def step(self, mag: np.ndarray) -> None:
        """Take magnitudes float32[1, F]; the mask is in `mask`."""
        self.values["mag"].update_inplace(mag)
        self.network.run()


class OnnxFastFullSubNet:
    """A Fast FullSubNet, frame by frame."""

    def __init__(self, paths: dict[str, Path]) -> None:
        self.values = values = {}  # type: dict[str, Any]
        self.front = _Part(paths["front"], values)
        size = values["units"].shape()
        # A block takes the units of two frames: those of odd frames are kept for the next.
        values["before"], values["now"] = _tensor(size), values["units"]
        self.bottleneck = _Part(paths["bottleneck"], values)
        self.decoder = _Part(paths["decoder"], values)
        self.mask = values["mask"]
        self.frame = 0

    def step(self, mag: np.ndarray) -> None:
        """Take magnitudes float32[1, F]; the mask is in `mask`."""
        values = self.values
        values["mag"].update_inplace(mag)
        self.front.run()
        if self.frame == 0:  # frame 0 is a block by itself
            values["before"].update_inplace(values["units"].numpy())
        if self.frame % 2 == 0:
            self.bottleneck.run()
        else:
            values["before"].update_inplace(values["units"].numpy())
        self.decoder.run()
        self.frame += 1


def onnx_peer(architecture: str, folder: Path) -> OnnxFullSubNet | OnnxFastFullSubNet:
    """Return the network that `onnx_graphs.write_graphs` wrote to a folder, ready to run."""
    paths = {path.stem: path for path in folder.glob("*.onnx")}
    if architecture == "fast_fullsubnet":
        return OnnxFastFullSubNet(paths)
    return OnnxFullSubNet(paths)
