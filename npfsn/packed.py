"""What models in use keep ready: packed networks, which streams share, and a spare stream."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np

from . import weights
from .machine_code import function
from .models import ARCHITECTURES
from .network import Network
from .options import check_precision
from .stream import Stream
from .weights import Model

# Those in use, and the last few of each model: packing one anew takes some hundredths of a second.
_networks: weakref.WeakKeyDictionary[Model, dict[Any, Network]] = weakref.WeakKeyDictionary()
_NETWORKS_KEPT = 4
_in_use: weakref.WeakKeyDictionary[Model, weakref.WeakValueDictionary[Any, Network]] = (
    weakref.WeakKeyDictionary()
)

# The stream that enhanced the last whole signal of each model.
_spare: weakref.WeakKeyDictionary[Model, Stream] = weakref.WeakKeyDictionary()


def shared_network(model: Model, config: Any, precision: str) -> Network:
    """Return the packed network of a model, made at the first request and ready to run."""
    check_precision(precision)
    with weights.loading:  # through the module: a forked child gets a new lock
        known = _networks.setdefault(model, {})
        key = (config, precision)
        in_use = _in_use.setdefault(model, weakref.WeakValueDictionary())
        network = in_use.get(key)
        known.pop(key, None)
        if network is None:
            module = ARCHITECTURES[model.architecture]
            network = module.Network(config, model.tensors, precision)
            _warm_up(network)
        in_use[key] = known[key] = network  # now the one used last
        if len(known) > _NETWORKS_KEPT:
            del known[next(iter(known))]
        return network


@contextlib.contextmanager
def spare_stream(model: Model, config: Any, precision: str, horizon: float) -> Iterator[Stream]:
    """Lend a stream, for whole signals: making one takes some milliseconds."""
    network = shared_network(model, config, precision)
    with weights.loading:
        stream = _spare.pop(model, None)
    if stream is None or stream.network is not network or stream.horizon != horizon:
        stream = Stream(network, horizon)
    yield stream
    with weights.loading:  # not after an error, which may have come in mid-stream
        _spare[model] = stream


def _warm_up(network: Network) -> None:
    """Compile every kernel of a network, so that nothing compiles in the middle of a stream.

    Programs compile theirs as they are written; here the others run once.
    """
    config = network.config
    if not config.streams:
        return  # it cannot stream
    stream = Stream(network)
    stream.bind_blocks().bind_flow()
    x, out = np.zeros(config.hop_length, np.float32), np.zeros(config.hop_length, np.float32)
    stream.push(x, out)
    function("calls.check_samples")
