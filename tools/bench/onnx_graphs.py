"""The same networks as ONNX graphs of one frame, with states: magnitude in, mask out.

Fast FullSubNet is cut where its rate changes: `front` and `decoder` run for every frame,
`bottleneck` for every second one; one graph of all three would copy what it holds, two would hold
the weights twice. Recurrent layers are written with the LSTM operator or with matrix products and
gates; `tools.bench` times both and keeps the faster for each precision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from npfsn.weights import Model

EPS = np.float32(np.finfo(np.float32).eps)
OPSET = 17
CELLS = ("LSTM", "MatMul")


class Graph:
    """An ONNX graph under construction, with states as inputs `NAME` and outputs `NAME.next`."""

    def __init__(self, name: str, cells: str) -> None:
        self.name, self.cells = name, cells
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.inputs: dict[str, tuple[int, ...]] = {}
        self.outputs: dict[str, tuple[int, ...]] = {}
        self.states: list[str] = []

    def constant(self, name: str, value: np.ndarray) -> str:
        """Add an initializer."""
        self.constants[name] = np.ascontiguousarray(value)
        return name

    def number(self, value: float) -> str:
        """Add a float32 scalar."""
        return self.constant(f"number_{value!r}", np.float32(value))

    def ints(self, *values: int) -> str:
        """Add a vector of int64."""
        return self.constant("ints_" + "_".join(map(str, values)), np.array(values, np.int64))

    def node(
        self, op: str, inputs: Sequence[str], outputs: int | Sequence[str] = 1, **attributes: Any
    ) -> Any:
        """Add a node; return the name of its output, or the names of its outputs."""
        if isinstance(outputs, int):
            names = [f"{op}_{len(self.nodes)}_{i}" for i in range(outputs)]
        else:
            names = list(outputs)
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names[0] if len(names) == 1 else names

    def input(self, name: str, shape: tuple[int, ...]) -> str:
        """Declare an input."""
        self.inputs[name] = shape
        return name

    def output(self, value: str, name: str, shape: tuple[int, ...]) -> None:
        """Declare an output."""
        self.outputs[name] = shape
        self.node("Identity", [value], [name])

    def state(self, name: str, shape: tuple[int, ...]) -> str:
        """Declare a state; its new value is written to the output `NAME.next`."""
        self.states.append(name)
        self.inputs[name] = self.outputs[f"{name}.next"] = shape
        return name

    def norm(self, x: str, units: int, size: int, key: str) -> str:
        """Add cumulative_laplace_norm of x[units, size], a mean per unit."""
        count = self.state(f"{key}.count", (1, 1))
        total = self.state(f"{key}.total", (units, 1))
        frames = self.node("Add", [count, self.number(1.0)], [f"{count}.next"])
        sums = self.node("ReduceSum", [x, self.ints(1)], keepdims=1)
        new = self.node("Add", [total, sums], [f"{total}.next"])
        mean = self.node("Div", [new, self.node("Mul", [frames, self.number(float(size))])])
        return str(self.node("Div", [x, self.node("Add", [mean, self.number(float(EPS))])]))

    def lstm(self, x: str, tensors: Any, prefix: str, layer: int, units: int) -> str:
        """Add an LSTM layer: x[units, inputs] -> [units, hidden]."""
        key = f"{prefix}.{layer}"
        w_ih, w_hh, b_ih, b_hh = (
            np.asarray(tensors[f"{prefix}.sequence_model.{part}_l{layer}"], np.float32)
            for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        n = w_hh.shape[1]
        if self.cells == "LSTM":
            # ONNX orders the gates i o f c, PyTorch i f g o.
            order = np.r_[0:n, 3 * n : 4 * n, n : 2 * n, 2 * n : 3 * n]
            w = self.constant(f"{key}.w", w_ih[order][None])
            r = self.constant(f"{key}.r", w_hh[order][None])
            b = self.constant(f"{key}.b", np.concatenate([b_ih[order], b_hh[order]])[None])
            h, c = (self.state(f"{key}.{s}", (1, units, n)) for s in "hc")
            x3 = self.node("Reshape", [x, self.ints(1, units, w_ih.shape[1])])
            self.node(
                "LSTM", [x3, w, r, b, "", h, c], ["", f"{h}.next", f"{c}.next"], hidden_size=n
            )
            return str(self.node("Reshape", [f"{h}.next", self.ints(units, n)]))
        h, c = (self.state(f"{key}.{s}", (units, n)) for s in "hc")
        # One product for inputs and hidden states; the gates i f o side by side share a sigmoid.
        order = np.r_[0 : 2 * n, 3 * n : 4 * n, 2 * n : 3 * n]
        w = self.constant(f"{key}.w", np.concatenate([w_ih, w_hh], axis=1)[order].T)
        b = self.constant(f"{key}.b", (b_ih + b_hh)[order])
        joined = self.node("Concat", [x, h], axis=1)
        z = self.node("Add", [self.node("MatMul", [joined, w]), b])
        ifo, g = self.node("Split", [z, self.ints(3 * n, n)], 2, axis=1)
        i, f, o = self.node("Split", [self.node("Sigmoid", [ifo]), self.ints(n, n, n)], 3, axis=1)
        kept = self.node("Mul", [f, c])
        new_c = self.node(
            "Add", [kept, self.node("Mul", [i, self.node("Tanh", [g])])], [f"{c}.next"]
        )
        return str(self.node("Mul", [o, self.node("Tanh", [new_c])], [f"{h}.next"]))

    def linear(self, x: str, tensors: Any, prefix: str, relu: bool) -> str:
        """Add the linear layer of a stack."""
        weight = np.asarray(tensors[f"{prefix}.fc_output_layer.weight"], np.float32)
        bias = np.asarray(tensors[f"{prefix}.fc_output_layer.bias"], np.float32)
        w = self.constant(f"{prefix}.fc.w", weight.T)
        z = self.node("Add", [self.node("MatMul", [x, w]), self.constant(f"{prefix}.fc.b", bias)])
        return str(self.node("Relu", [z])) if relu else str(z)

    def model(self) -> Any:
        """Return the finished, checked model."""

        def described(items: dict[str, tuple[int, ...]]) -> list[Any]:
            return [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                for name, shape in items.items()
            ]

        graph = helper.make_graph(
            self.nodes,
            self.name,
            described(self.inputs),
            described(self.outputs),
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = 8
        onnx.checker.check_model(model)
        return model


def _neighbours(graph: Graph, row: str, n: int, size: int) -> str:
    """[1, size] -> [size, 2 n + 1]: each value with its neighbours, reflected at the edges."""
    index = np.abs(np.arange(size)[:, None] + np.arange(-n, n + 1))
    index = np.where(index >= size, 2 * (size - 1) - index, index)
    flat = graph.node("Reshape", [row, graph.ints(size)])
    return str(graph.node("Gather", [flat, graph.constant("neighbours", index)], axis=0))


def fast_graphs(model: Model, cells: str) -> dict[str, Graph]:
    """Return the three graphs of a Fast FullSubNet that shrinks time by two."""
    config, tensors = model.config, model.tensors
    n_freq, n_mel = config.n_freq, config.num_mels
    near, size = config.noisy_input_num_neighbors, config.bottleneck.input_size
    front = Graph("front", cells)
    mag = front.input("mag", (1, n_freq))
    mel = front.node("MatMul", [mag, front.constant("fb", np.asarray(tensors["mel_scale.fb"]))])
    x = front.norm(mel, 1, n_mel, "fb_norm")
    for i, spec in enumerate(config.encoder):
        x = front.lstm(x, tensors, f"encoder.{i}", 0, 1)
        if spec.output_size:
            x = front.linear(x, tensors, f"encoder.{i}", spec.activation == "ReLU")
    front.output(x, "enc", (1, n_mel))
    column = front.node("Reshape", [x, front.ints(n_mel, 1)])
    units = front.node("Concat", [_neighbours(front, mel, near, n_mel), column], axis=1)
    front.output(units, "units", (n_mel, size))

    middle = Graph("bottleneck", cells)
    before, now = (middle.input(name, (n_mel, size)) for name in ("before", "now"))
    mean = middle.node("Mul", [middle.node("Add", [before, now]), middle.number(0.5)])
    x = middle.norm(mean, n_mel, size, "sb_norm")
    for layer in range(config.bottleneck.num_layers):
        x = middle.lstm(x, tensors, "bottleneck", layer, n_mel)
    x = middle.linear(x, tensors, "bottleneck", True)
    middle.output(middle.node("Reshape", [x, middle.ints(1, n_mel)]), "held", (1, n_mel))

    decoder = Graph("decoder", cells)
    enc, held = (decoder.input(name, (1, n_mel)) for name in ("enc", "held"))
    x = decoder.node("Concat", [enc, held], axis=1)
    for i, spec in enumerate(config.decoder):
        x = decoder.lstm(x, tensors, f"decoder_lstm.{i}", 0, 1)
        if spec.output_size:
            x = decoder.linear(x, tensors, f"decoder_lstm.{i}", spec.activation == "ReLU")
    decoder.output(x, "mask", (1, 2 * n_freq))
    return {"front": front, "bottleneck": middle, "decoder": decoder}


def full_graphs(model: Model, cells: str) -> dict[str, Graph]:
    """Return the graph of a FullSubNet."""
    config, tensors = model.config, model.tensors
    n_freq = config.n_freq
    graph = Graph("network", cells)
    mag = graph.input("mag", (1, n_freq))
    x = graph.norm(mag, 1, n_freq, "fb_norm")
    for layer in range(config.fb_model.num_layers):
        x = graph.lstm(x, tensors, "fb_model", layer, 1)
    x = graph.linear(x, tensors, "fb_model", config.fb_model.activation == "ReLU")
    column = graph.node("Reshape", [x, graph.ints(n_freq, 1)])
    noisy = _neighbours(graph, mag, config.sb_num_neighbors, n_freq)
    units = graph.node("Concat", [noisy, column], axis=1)
    x = graph.norm(units, n_freq, config.sb_model.input_size, "sb_norm")
    for layer in range(config.sb_model.num_layers):
        x = graph.lstm(x, tensors, "sb_model", layer, n_freq)
    x = graph.linear(x, tensors, "sb_model", False)
    graph.output(graph.node("Transpose", [x], perm=[1, 0]), "mask", (2, n_freq))
    return {"network": graph}


def write_graphs(model: Model, cells: str, int8: bool, folder: Path) -> None:
    """Write the graphs of a model to `folder`, quantised dynamically if asked."""
    build: Callable[[Model, str], dict[str, Graph]] = (
        fast_graphs if model.architecture == "fast_fullsubnet" else full_graphs
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name, graph in build(model, cells).items():
        path = folder / f"{name}.onnx"
        onnx.save(graph.model(), path)
        if int8:
            _quantise(path)


def _quantise(path: Path) -> None:
    import logging

    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)  # it recommends pre-processing that changes nothing
    quantize_dynamic(path, path, op_types_to_quantize=["MatMul", "LSTM"],
                     weight_type=QuantType.QInt8)  # fmt: skip
