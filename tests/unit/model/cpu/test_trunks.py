"""Graphs that begin alike are compiled once as far as they are alike, and compute what they computed alone."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.cpu import graph, trunks
from model.cpu.graph import Graph, convert
from model.cpu.trunks import TrunkGraph
from model.retriever import Retriever
from model.types import Input, Limits, Role

pytestmark = pytest.mark.skipif(not graph.available(), reason="needs openvino")

WIDTH = 32
Read = Callable[[list[Tensor], Tensor], Sequence[Tensor]]


class Network(nn.Module):
    """Layers over one input, and what a model reads of their states and of the input."""

    def __init__(self, read: Read, depth: int = 4, seed: int = 1) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth))
        self._read = read

    def forward(self, values: Tensor) -> tuple[Tensor, ...]:
        states = [values]
        for layer in self.layers:
            states.append(torch.relu(layer(states[-1])))
        return tuple(self._read(states, values))


# What a model reads, and how deep its network is.
READERS: dict[str, tuple[Read, int]] = {
    "three states": (lambda states, _: [states[1], states[3], states[4]], 4),
    "their mean": (lambda states, _: [states[4].mean(dim=1, keepdim=True)], 4),
    "a state and the input": (lambda states, values: [states[2], (values * states[4]).tanh()], 4),
    "a shallower network": (lambda states, _: [states[3]], 3),
}


@pytest.fixture(autouse=True)
def live(monkeypatch: pytest.MonkeyPatch) -> weakref.WeakSet[Any]:
    """What this test alone has compiled."""
    compiled: weakref.WeakSet[Any] = weakref.WeakSet()
    monkeypatch.setattr(trunks, "_LIVE", compiled)
    return compiled


def converted(module: nn.Module) -> object:
    return convert(module, (torch.rand(2, 3, WIDTH),), [[-1, -1, WIDTH]])


def network(name: str, seed: int = 1) -> Network:
    read, depth = READERS[name]
    return Network(read, depth, seed)


@pytest.mark.parametrize("second", READERS)
@pytest.mark.parametrize("first", READERS)
def test_two_models_read_one_trunk(first: str, second: str, live: weakref.WeakSet[Any]) -> None:
    values = torch.rand(5, 7, WIDTH)
    modules = [network(name) for name in (first, second)]
    graphs = [TrunkGraph(converted(module), "float32", 1) for module in modules]
    (trunk,) = live
    assert set(trunk.readers) == set(graphs)
    for module, shared in zip(modules, graphs, strict=True):
        torch.testing.assert_close(list(module(values)), shared(values), rtol=1e-5, atol=1e-6)


def test_a_third_model_reads_it_too(live: weakref.WeakSet[Any]) -> None:
    values = torch.rand(5, 7, WIDTH)
    modules = [network(name) for name in ("their mean", "three states", "a state and the input")]
    graphs = [TrunkGraph(converted(module), "float32", 1) for module in modules]
    (trunk,) = live
    assert set(trunk.readers) == set(graphs)
    for module, shared in zip(modules, graphs, strict=True):
        torch.testing.assert_close(list(module(values)), shared(values), rtol=1e-5, atol=1e-6)


def test_what_is_alike_in_little_or_computed_otherwise_is_not_shared(live: weakref.WeakSet[Any]) -> None:
    kept = [TrunkGraph(converted(network("their mean")), "float32", 1)]
    kept.append(TrunkGraph(converted(network("their mean", seed=2)), "float32", 1))
    kept.append(TrunkGraph(converted(network("their mean")), "float32", 2))
    one_layer_alike = network("their mean")
    for layer in list(one_layer_alike.layers)[1:]:
        nn.init.normal_(layer.weight)
    kept.append(TrunkGraph(converted(one_layer_alike), "float32", 1))
    assert [len(trunk.readers) for trunk in live] == [1] * 4


def test_a_trunk_ends_with_its_last_reader(live: weakref.WeakSet[Any]) -> None:
    graphs = [TrunkGraph(converted(network(name)), "float32", 1) for name in ("their mean", "three states")]
    values = torch.rand(1, 2, WIDTH)
    expected = graphs[1](values)
    del graphs[0]
    gc.collect()
    # The trunk is no longer the graph of one model, though it has one reader: a third one must not cut it.
    shallower = TrunkGraph(converted(network("a shallower network")), "float32", 1)
    torch.testing.assert_close(graphs[0](values), expected)
    graphs.clear()
    del shallower
    gc.collect()
    assert not list(live)


def test_a_model_computes_while_others_join() -> None:
    values = torch.rand(3, 4, WIDTH)
    first = TrunkGraph(converted(network("their mean")), "float32", 1)
    (expected,) = first(values)
    ended, wrong = threading.Event(), []

    def call() -> None:
        while not ended.is_set():
            wrong.extend(result for result in first(values) if not torch.allclose(result, expected, atol=1e-6))

    thread = threading.Thread(target=call)
    thread.start()
    joined = [TrunkGraph(converted(network(name)), "float32", 1) for name in ("three states", "a state and the input")]
    ended.set()
    thread.join()
    assert joined
    assert not wrong


def test_the_towers_of_two_models_are_compiled_once(
    tiny_folder: Path, tmp_path: Path, tiny: Retriever, png: Callable[..., bytes], live: weakref.WeakSet[Any]
) -> None:
    models = [Retriever.load(str(tiny_folder)).compiled(cache=tmp_path, shared=True) for _ in range(2)]
    assert sorted(len(trunk.readers) for trunk in live) == [2, 2]
    items = [tiny.prepare(item, Role.QUERY, Limits()) for item in (Input("one"), Input("two", png()))]
    for model in models:
        assert model.stayed == {}
        assert np.abs(model.encode(items) - tiny.encode(items)).max() <= 1e-5


def test_graphs_of_models_that_share_nothing_are_as_before(tiny_folder: Path, tmp_path: Path) -> None:
    model = Retriever.load(str(tiny_folder)).compiled(cache=tmp_path)
    assert isinstance(model.text_tower._graph, Graph)
