"""The model behind the batcher, with a tiny real one: memory that runs out, the measured budget, precision."""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from needs import needed
from structlog.testing import capture_logs

torch = needed("torch")

from tiny_model import write_tiny_checkpoint  # noqa: E402

from model.errors import EncodeFailed  # noqa: E402
from model.retriever import Retriever  # noqa: E402
from model.types import Input, Limits, Prepared, Role  # noqa: E402
from service.encoder import runtime as runtime_module  # noqa: E402
from service.encoder.runtime import LocalRuntime, ModelDevice, choose_precision  # noqa: E402


@pytest.fixture(autouse=True)
def compiling_as_ever() -> Iterator[None]:
    yield
    torch.compiler.set_stance("default")


@pytest.fixture
def on_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on CUDA, or where there is no OpenVINO."""
    monkeypatch.setattr(runtime_module.graph, "available", lambda: False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def tiny(folder: Path) -> LocalRuntime:
    return LocalRuntime(Retriever.load(str(folder)), Limits())


def load(folder: Path, **options: Any) -> LocalRuntime:
    device = ModelDevice.open("cpu", options.pop("precision", "float32"), None)
    return LocalRuntime.load(str(folder), device, Limits(), **options)


def prepared(runtime: LocalRuntime, *texts: str) -> list[Prepared]:
    return [runtime.prepare(Input(text), Role.QUERY) for text in texts]


def with_memory_for(runtime: LocalRuntime, cost: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A device that takes `cost` at once; returns the sizes of the batches it was asked for."""
    real, asked = runtime._retriever.launch, []

    def launch(batch: list[Prepared]) -> Callable[[], Any]:
        asked.append(len(batch))
        if sum(item.cost for item in batch) > cost:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")
        return real(batch)

    monkeypatch.setattr(runtime._retriever, "launch", launch)
    return asked


def test_out_of_memory_halves_the_batch(tiny: LocalRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = prepared(tiny, "one", "two", "red", "blue", "a square")
    whole = tiny.launch(batch)().vectors
    asked = with_memory_for(tiny, 7, monkeypatch)
    assert np.abs(tiny.launch(batch)().vectors - whole).max() <= 1e-5
    assert asked == [5, 2, 3, 1, 2]
    assert tiny.state().oom_recoveries == 2


def test_only_the_input_that_cannot_fit_fails(tiny: LocalRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    (large,) = prepared(tiny, "what is the capital of this country")
    with_memory_for(tiny, 8, monkeypatch)
    with pytest.raises(EncodeFailed, match="this input of 9 positions does not fit into the memory of cpu"):
        tiny.launch([large])()
    with pytest.raises(EncodeFailed):  # the batcher runs each alone after that
        tiny.launch([*prepared(tiny, "one"), large])()
    assert tiny.launch(prepared(tiny, "one"))().vectors.shape == (1, 16)


@pytest.mark.parametrize(("computes", "stage"), [(False, "launch"), (False, "wait"), (True, "wait")])
def test_after_a_failure_the_device_is_asked(
    tiny: LocalRuntime, monkeypatch: pytest.MonkeyPatch, computes: bool, stage: str
) -> None:
    """A kernel's failed assertion shows at any later call, and is the end of CUDA in this process."""
    batch = prepared(tiny, "one")

    def fail() -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(runtime_module, "_computes", lambda _device: computes)
    monkeypatch.setattr(tiny._retriever, "launch", lambda _batch: fail() if stage == "launch" else fail)
    with pytest.raises(RuntimeError, match="assert"):
        tiny.launch(batch)()
    assert tiny.broken is not computes


def test_whether_a_device_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runtime_module._computes(torch.device("cpu"))

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch, "ones", fail)
    assert not runtime_module._computes(torch.device("cuda"))


def test_the_budget_counts_on_free_memory_alone(tiny: LocalRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    gib = 2**30
    monkeypatch.setattr(type(tiny._retriever), "device", property(lambda _: torch.device("cuda")))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (10 * gib, 80 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 2 * gib)
    for reserved, room in ((4, True), (5, False)):  # twice that has to be under 0.7 of 12
        monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _device, held=reserved: held * gib)
        assert tiny._has_room() is room


def test_the_budget_is_the_smallest_that_is_about_as_fast(tiny: LocalRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_module, "MIN_BATCH_COST", 1)
    rates = {1: 10.0, 2: 18.0, 4: 30.0, 8: 31.0, 16: 40.0}
    monkeypatch.setattr(tiny, "_throughput", lambda _item, count: rates[count])
    assert tiny.best_batch_cost(within_s=60) == 4 * tiny._document.cost
    assert tiny.best_batch_cost(within_s=0) == tiny._document.cost


def test_the_budget_ends_where_memory_does(tiny: LocalRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_module, "MIN_BATCH_COST", 1)
    with_memory_for(tiny, 5 * tiny._document.cost, monkeypatch)
    measured = tiny._throughput
    monkeypatch.setattr(tiny, "_throughput", lambda item, count: count * float(measured(item, count) > 0))
    assert tiny.best_batch_cost(within_s=60) == 4 * tiny._document.cost


def test_half_precision_is_near_and_of_unit_length(folder: Path, make_image: Callable[..., bytes]) -> None:
    exact, half = load(folder, precision="float32"), load(folder, precision="bfloat16")
    assert (exact.info.precision, half.info.precision) == ("float32", "bfloat16")
    items = [Input("a red square"), Input(image=make_image("red")), Input("what is this", make_image("blue"))]
    batches = [[one.prepare(item, Role.QUERY) for item in items] for one in (exact, half)]
    near, far = exact.launch(batches[0])().vectors, half.launch(batches[1])().vectors
    assert far.dtype == np.float32
    assert np.allclose(np.linalg.norm(far, axis=1), 1, atol=1e-3)
    assert ((near * far).sum(axis=1) > 0.995).all()


@pytest.mark.parametrize(("computes", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_bfloat16_is_computed_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, computes: bool, precision: str
) -> None:
    monkeypatch.setattr(runtime_module.graph, "available", lambda: True)
    monkeypatch.setattr(runtime_module.graph, "computes_bfloat16", lambda: computes)
    assert choose_precision("bfloat16", "cpu") == precision
    assert choose_precision("auto", "cpu") == precision
    monkeypatch.setattr(runtime_module.graph, "available", lambda: False)
    assert choose_precision("auto", "cpu") == "float32"


@pytest.mark.usefixtures("on_torch")
def test_without_openvino_torch_computes_and_the_log_says_so(folder: Path) -> None:
    with capture_logs() as events:
        runtime = load(folder, precision="float32")
    assert any(event["event"] == "openvino absent, torch computes" for event in events)
    assert list(runtime._retriever.text_tower.parameters())
    assert runtime.in_flight == 1
    assert runtime.launch(prepared(runtime, "one"))().vectors.shape == (1, 16)


def test_weights_leave_torch_once_they_are_compiled(folder: Path) -> None:
    runtime = load(folder, precision="float32")
    assert not list(runtime._retriever.parameters())
    assert runtime.info.precision == "float32"


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.usefixtures("on_torch")
def test_serving_compiles_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """Whatever the number of images in a batch, and the threads that they are spread over."""
    monkeypatch.setattr(runtime_module, "_MIN_SPEEDUP_TO_COMPILE", 0.0)  # keep it, however fast it is
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        runtime = LocalRuntime(Retriever.load(str(folder)), Limits())
        compiled: list[object] = []

        def backend(graph: Any, _inputs: object) -> Any:
            compiled.append(graph)
            return graph.forward

        tower = runtime._retriever.vision_tower
        monkeypatch.setattr(tower, "compile", partial(tower.compile, backend=backend))
        torch._dynamo.reset()
        assert runtime.compile_if_faster()
        met = len(compiled)
        assert met >= 2
        text = runtime.prepare(Input("one"), Role.QUERY)
        with ThreadPoolExecutor(1) as model:
            for pictures, texts in ((1, 0), (2, 0), (3, 0), (1, 1), (1, 9), (7, 2), (16, 0)):
                batch = [runtime._picture] * pictures + [text] * texts
                model.submit(runtime.launch, batch).result()()
        assert len(compiled) == met
    finally:
        torch.set_num_threads(before)
        torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.usefixtures("on_torch")
def test_compiling_changes_nothing_but_speed(
    folder: Path, make_image: Callable[..., bytes], need: Callable[[bool, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    need(shutil.which("g++") is not None or shutil.which("clang++") is not None, "a C++ compiler")
    monkeypatch.setattr(runtime_module, "_MIN_SPEEDUP_TO_COMPILE", 0.0)  # keep it, however fast it is
    plain, compiled = load(folder), load(folder, compiled=True)
    assert compiled._retriever.vision_tower._compiled_call_impl is not None
    item = plain.prepare(Input("what is this", make_image("blue")), Role.QUERY)
    assert np.abs(plain.launch([item])().vectors - compiled.launch([item])().vectors).max() <= 1e-5


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.usefixtures("on_torch")
def test_what_does_not_compile_runs_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = load(folder)

    def measure(_item: Prepared, _count: int) -> float:
        if runtime._retriever.vision_tower._compiled_call_impl is not None:
            raise RuntimeError("no compiler")
        return 10.0

    monkeypatch.setattr(runtime, "_throughput", measure)
    assert runtime.compile_if_faster() is False
    assert runtime._retriever.vision_tower._compiled_call_impl is None


def test_what_it_counts_of_itself(tiny: LocalRuntime) -> None:
    """Text positions with and without a token; of a CPU no memory."""
    before = tiny.state()
    batch = prepared(tiny, "red", "red square of the capital")
    tiny.launch(batch)()
    after = tiny.state()
    lengths = [len(item.tokens) for item in batch if item.tokens is not None]
    assert after.tokens - before.tokens == sum(lengths)
    assert after.padding - before.padding == 2 * max(lengths) - sum(lengths)
    assert (after.oom_recoveries, after.memory_bytes) == (before.oom_recoveries, {})
