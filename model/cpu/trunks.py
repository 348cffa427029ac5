"""What the graphs of several models have in common is compiled once.

Graphs begin alike where the same operations read the same weights, as those of towers over one published network do.
That beginning, the trunk, is a graph of its own, with an output for every value that one of the models reads of it.
What a model computes beside it, its end, is a second graph.
"""

from __future__ import annotations

import hashlib
import math
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from model.cpu.graph import Graph, assembled, input_like

# Graphs that have a smaller part of their weights in common are not cut: the seam costs a second call.
_MIN_COMMON = 0.5
# What is compiled at present, and a lock for changing it.
_LIVE: weakref.WeakSet[_Trunk] = weakref.WeakSet()
_CHANGING = threading.Lock()

# An output of an operation: the key of what the operation computes, and the output's place.
_Value = tuple[str, int]


class TrunkGraph:
    """A graph that computes its beginning together with other models. Thread-safe, and called as `Graph` is."""

    def __init__(self, graph: Any, precision: str, threads: int) -> None:
        operations = _Operations(graph)
        with _CHANGING:
            for trunk in list(_LIVE):
                if trunk.settings == (precision, threads) and (path := trunk.join(operations)):
                    self.follow(path)
                    return
            values = operations.results
            trunk = _Trunk(operations, operations.varying, values, (precision, threads))
            self.follow(trunk.path(_Cut(values, None)))

    def follow(self, path: _Path) -> None:
        """Compute by `path` from the next call on."""
        self._path = path
        path.trunk.readers.add(self)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        path = self._path
        values = path.trunk.graph(*inputs)
        taken = [values[place] for place in path.places]
        return taken if path.end is None else path.end(*inputs, *taken)


@dataclass(frozen=True, slots=True)
class _Path:
    """The way of a model through a trunk: the outputs that it takes, and the graph of its end, if it has one."""

    trunk: _Trunk
    places: Sequence[int]
    end: Graph | None


@dataclass(frozen=True, slots=True)
class _Cut:
    """The values that a model reads of a trunk, and the graph from its inputs and these values to its results.

    `end` is None where the values are the results.
    """

    values: Sequence[_Value]
    end: Any | None


class _Trunk:
    """A compiled beginning of one graph or several: of its operations those with `keys`, and `values` as outputs."""

    def __init__(
        self, operations: _Operations, keys: frozenset[str], values: Sequence[_Value], settings: tuple[str, int]
    ) -> None:
        self.settings = settings
        self.readers: weakref.WeakSet[TrunkGraph] = weakref.WeakSet()
        self._operations, self._keys = operations, keys
        # Until another model joins, it is the graph of its only reader, and can be cut.
        self._is_whole = keys == operations.varying
        self._values = list(dict.fromkeys(values))
        self.graph = self._compiled()
        _LIVE.add(self)

    def join(self, guest: _Operations) -> _Path | None:
        """Return the path of one more model, or None where it has too little in common with this trunk.

        A trunk of one reader that goes beyond what both compute gives way to a shorter one.
        """
        keys = self._keys & guest.varying
        weights, own = self._operations.weights(keys), self._operations.weights(self._keys)
        if weights < _MIN_COMMON * min(own, guest.weights(guest.varying)):
            return None
        if weights == own:
            self._is_whole = False
            return self.path(guest.cut(keys))
        if not self._is_whole or not self.readers:
            return None
        (reader,) = self.readers
        _LIVE.discard(self)
        cuts = self._operations.cut(keys), guest.cut(keys)
        trunk = _Trunk(self._operations, keys, [*cuts[0].values, *cuts[1].values], self.settings)
        reader.follow(trunk.path(cuts[0]))
        return trunk.path(cuts[1])

    def path(self, cut: _Cut) -> _Path:
        """Return the path of a model that is cut off here. Compile the graph anew if it lacks one of its values."""
        missing = [value for value in dict.fromkeys(cut.values) if value not in self._values]
        if missing:
            # Only appended, for other threads may be between the outputs and their places.
            self._values += missing
            self.graph = self._compiled()
        end = None if cut.end is None else Graph(cut.end, *self.settings)
        return _Path(self, [self._values.index(value) for value in cut.values], end)

    def _compiled(self) -> Graph:
        return Graph(self._operations.computing(self._values), *self.settings)


class _Operations:
    """The operations of a graph, each with a key that is equal for equal work on equal weights.

    `varying` has the keys of those that depend on an input; the others are weights, and what is made of them.
    """

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._keys: dict[str, str] = {}
        # Kept, for the graph loses those that are cut off.
        self._nodes: dict[str, Any] = {}
        inputs = {node.get_name(): place for place, node in enumerate(graph.get_parameters())}
        varying = set()
        for node in graph.get_ordered_ops():
            if node.get_type_name() == "Result":
                continue
            name, sources = node.get_name(), [self._value(source) for source in _sources(node)]
            key = self._keys[name] = _key(node, inputs.get(name), sources)
            self._nodes.setdefault(key, node)
            if name in inputs or any(source in varying for source, _ in sources):
                varying.add(key)
        self.varying = frozenset(varying)
        self.results = [self._value(source) for result in graph.get_results() for source in _sources(result)]

    def weights(self, keys: frozenset[str]) -> int:
        """Return the number of weights that the operations with these keys read."""
        sources = [source for key in keys for source in _sources(self._nodes[key])]
        return sum(math.prod(source.get_shape()) for source in sources if self._value(source)[0] not in self.varying)

    def computing(self, values: Sequence[_Value]) -> Any:
        """Return a graph from the same inputs to these values."""
        outputs = [self._nodes[key].output(place) for key, place in values]
        return assembled(outputs, self._graph.get_parameters())

    def cut(self, keys: frozenset[str]) -> _Cut:
        """Cut off the operations with these keys, once: the others read their values as inputs from now on."""
        if all(key in keys for key, _ in self.results):
            return _Cut(self.results, None)
        inputs = self._graph.get_parameters()
        read: dict[_Value, Any] = {}
        for node in self._graph.get_ordered_ops():
            if self._keys.get(node.get_name()) in keys:
                continue
            for port in node.inputs():
                source = port.get_source_output()
                value = self._value(source)
                if value[0] in keys and source.get_node().get_type_name() != "Parameter":
                    read.setdefault(value, input_like(source))
                    port.replace_source_output(read[value].output(0))
        results = [source for result in self._graph.get_results() for source in _sources(result)]
        return _Cut(list(read), assembled(results, [*inputs, *read.values()]))

    def _value(self, source: Any) -> _Value:
        return self._keys[source.get_node().get_name()], source.get_index()


def _sources(node: Any) -> list[Any]:
    return [port.get_source_output() for port in node.inputs()]


def _key(node: Any, place: int | None, sources: Sequence[_Value]) -> str:
    """Return what an operation computes of its sources, as a digest. `place` is that of an input among the inputs."""
    if hasattr(node, "get_function"):
        # What its body computes is not among its attributes.
        return str(node.get_name())
    attributes = sorted(node.get_attributes().items())
    digest = hashlib.blake2b(repr((node.get_type_name(), attributes, place, sources)).encode(), digest_size=20)
    if node.get_type_name() == "Constant":
        digest.update(np.ascontiguousarray(node.get_data()).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
