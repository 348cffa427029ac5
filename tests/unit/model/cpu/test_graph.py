"""How calls of a graph divide the threads of the processor."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import torch
from torch import Tensor

from model.cpu import graph

pytestmark = pytest.mark.skipif(not graph.available(), reason="needs openvino")


def test_a_call_alone_has_all_threads_and_calls_side_by_side_have_a_part_each(monkeypatch: pytest.MonkeyPatch) -> None:
    module = torch.nn.Linear(4, 4)
    compiled = graph.Graph(graph.convert(module, [torch.ones(2, 4)], [[-1, 4]]), "float32", 2)
    compute, begun, ends = graph._Compiled.__call__, Event(), Event()
    streams: list[int] = []

    def recorded(variant: graph._Compiled, *inputs: Tensor) -> list[Tensor]:
        streams.append(variant._compiled.get_property("NUM_STREAMS"))
        if not begun.is_set():
            begun.set()
            assert ends.wait(10)
        return compute(variant, *inputs)

    monkeypatch.setattr(graph._Compiled, "__call__", recorded)
    value = torch.randn(3, 4)
    with ThreadPoolExecutor(1) as other:
        first = other.submit(compiled, value)
        assert begun.wait(10)
        beside = compiled(value)
        ends.set()
        alone = first.result()
    with pytest.raises(RuntimeError):
        compiled(torch.ones(3, 5))
    again = compiled(value)
    assert streams == [1, 2, 1, 1]
    for result in (alone, beside, again):
        torch.testing.assert_close(result[0], module(value).detach())


def test_a_single_thread_is_not_divided() -> None:
    assert [graph.calls_side_by_side(threads) for threads in (1, 2, 8, 15, 16, 64)] == [1, 2, 2, 2, 2, 8]
