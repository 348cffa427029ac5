"""A model behind the batcher: the only module of the service that imports torch; only `service.wiring` imports it."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Self, TypeVar

import structlog
import torch
from PIL import Image

from model.cpu import graph
from model.cpu.priority import yield_to_others
from model.cpu.quota import usable_cpus
from model.errors import EncodeFailed, InvalidInput
from model.evaluation.calibration import calibration_inputs
from model.passages import Cut, Passages
from model.retriever import Retriever, dtype_of
from model.sharing import share_weights
from model.types import Encoded, Input, Limits, ModelInfo, Prepared, Role
from service.encoder.budget import MAX_BATCH_COST, MIN_BATCH_COST, MIN_SPEEDUP_TO_DOUBLE, Budget
from service.observability.metrics import DeviceState

log = structlog.get_logger(__name__)
T = TypeVar("T")

# A compiled tower is kept if it is at least this much faster.
_MIN_SPEEDUP_TO_COMPILE = 1.05
# The document that measurements use.
_TEXT = " ".join(["word"] * 24)
# The share of the available memory that a measured batch may take: inputs differ, and other work needs some.
_MEMORY_SHARE = 0.7


class ModelDevice:
    """The device of this process, which its models share, and whether it still computes.

    On a CPU `forwards` are the threads that wait for OpenVINO, one for each batch that is computed side by side and one
    more, whose batch waits inside OpenVINO: between two batches no processor waits for Python's lock. Without OpenVINO
    torch computes one batch after the other.
    """

    def __init__(
        self,
        place: torch.device | str,
        precision: str = "float32",
        threads: int | None = None,
        cache: Path | None = None,
    ) -> None:
        """`cache`: the folder of compiled models; unset: the user's."""
        self.place, self.precision, self.cache = torch.device(place), precision, cache
        self.broken = False
        self.threads = threads or torch.get_num_threads()
        # Which has no float16 on most CPUs, and would compute in float32.
        self.on_openvino = self.place.type == "cpu" and graph.available() and precision != "float16"
        self.in_flight = graph.streams(self.threads) + 1 if self.on_openvino else 1 if self.place.type == "cpu" else 2
        self.forwards = (
            ThreadPoolExecutor(self.in_flight, "forward", initializer=yield_to_others) if self.on_openvino else None
        )

    @classmethod
    def open(cls, device: str, precision: str, threads: int | None, cache: Path | None = None) -> Self:
        place = choose_device(device)
        torch.set_num_threads(threads or min(torch.get_num_threads(), usable_cpus()))
        opened = cls(place, choose_precision(precision, place), threads, cache)
        if opened.precision == "int8" and not opened.on_openvino:
            raise InvalidInput("precision int8 needs a CPU with openvino; this is " + place, field="precision")
        if place == "cpu" and not opened.on_openvino:
            log.warning(
                "openvino absent, torch computes", hint="pip install openvino makes a CPU several times as fast"
            )
        return opened

    @property
    def dtype(self) -> torch.dtype:
        """The type of weights in torch. OpenVINO takes them in float32, and computes in the precision."""
        return torch.float32 if self.on_openvino else dtype_of(self.precision)

    def check(self) -> None:
        """Find out whether the device still computes, after a call of it has failed."""
        if not self.broken and not _computes(self.place):
            log.critical("device failed", device=str(self.place))
            self.broken = True


class LocalRuntime:
    """A `Runtime` over a `Retriever`. Only one thread calls `launch`; everything else may be called from any thread."""

    def __init__(
        self, retriever: Retriever, limits: Limits, device: ModelDevice | None = None, *, name: str | None = None
    ) -> None:
        """`name`: what it is served by; unset: its own name."""
        self._retriever = retriever
        self._name = name or retriever.info.name
        self._limits = limits
        self._oom_recoveries = 0
        self._device = device or ModelDevice(retriever.device)
        self._picture = self.prepare(Input(image=_one_pixel_png()), Role.DOCUMENT)
        self._document = self.prepare(Input(_TEXT, _one_pixel_png()), Role.DOCUMENT)

    @classmethod
    def load(
        cls,
        source: str,
        device: ModelDevice,
        limits: Limits,
        *,
        name: str | None = None,
        compiled: bool = False,
        shared: bool = False,
    ) -> Self:
        """Load, compile and warm up a model. `shared`: weights that are another model's too are in memory once."""
        if device.on_openvino:
            retriever = Retriever.load_compiled(
                source,
                device.precision,
                threads=device.threads,
                cache=device.cache,
                calibration=calibration_inputs(device.precision),
                shared=shared,
            )
        else:
            retriever = Retriever.load(source, device=str(device.place), dtype=device.dtype)
            if shared:
                share_weights(retriever)
        info = retriever.info
        name = name or info.name
        log.info(
            "model loaded",
            model=name,
            source=source,
            commit=info.commit,
            fingerprint=info.fingerprint,
            precision=info.precision,
            computed_by="openvino" if device.on_openvino else "torch",
        )
        for part, reason in retriever.stayed.items():
            log.warning("model part not compiled, torch computes it", model=name, part=part, reason=reason)
        runtime = cls(retriever, limits, device, name=name)
        runtime.warm_up()
        if compiled and not device.on_openvino:
            runtime.compile_if_faster()
        return runtime

    @property
    def info(self) -> ModelInfo:
        return replace(self._retriever.info, name=self._name)

    @property
    def in_flight(self) -> int:
        return self._device.in_flight

    @property
    def broken(self) -> bool:
        """Whether CUDA fails every call of this process, as it does after an assertion failed inside a kernel."""
        return self._device.broken

    def state(self) -> DeviceState:
        """Return the state of the device; callable from any thread."""
        retriever = self._retriever
        return DeviceState(retriever.tokens, retriever.padding, self._oom_recoveries, _memory_bytes(retriever.device))

    def estimate(self, item: Input) -> int:
        """Return an upper bound: a tokenizer makes at most a token for each byte, and special ones at the ends."""
        text_cost = 0
        if item.text:
            most = min(len(item.text.encode("utf-8", "replace")) + 2, self.info.max_text_tokens)
            text_cost = self._retriever.preprocessor.text_positions or most
        return max(1, text_cost + (self._picture.cost if item.image is not None else 0))

    def prepare(self, item: Input, role: Role) -> Prepared:
        return self._retriever.prepare(item, role, self._limits)

    def passages(self, text: str, cut: Cut) -> Passages:
        return self._retriever.passages(text, cut, self._limits)

    def launch(self, batch: Sequence[Prepared]) -> Callable[[], Encoded]:
        """Start a batch, halved until it fits into memory. Raises `EncodeFailed` for an input that does not fit."""
        if self._device.forwards:
            return self._device.forwards.submit(lambda: self._checking_device(lambda: self._launch(batch)())).result
        wait = self._checking_device(lambda: self._launch(batch))
        return lambda: self._checking_device(wait)

    def _checking_device(self, work: Callable[[], T]) -> T:
        """Return the result of `work`. If it raises, check whether the device still computes."""
        try:
            return work()
        except RuntimeError:
            self._device.check()
            raise

    def _launch(self, batch: Sequence[Prepared]) -> Callable[[], Encoded]:
        try:
            return self._retriever.launch(batch)
        except torch.OutOfMemoryError as error:
            reason = str(error).partition("\n")[0]
        # Outside the handler, whose traceback holds the tensors of the failed forward.
        torch.cuda.empty_cache()
        if len(batch) == 1:
            raise EncodeFailed(
                f"this input of {batch[0].cost} positions does not fit into the memory of {self._retriever.device}"
            )
        self._oom_recoveries += 1
        log.warning("batch halved, out of memory", inputs=len(batch), reason=reason)
        middle = len(batch) // 2
        halves = [self._launch(part)() for part in (batch[:middle], batch[middle:])]
        return lambda: Encoded.joined(halves)

    def warm_up(self) -> None:
        """Run a forward of every kind, so that the first caller does not wait for lazy initialisation."""
        items = [Input("warm up"), Input(image=_one_pixel_png()), Input("warm up", _one_pixel_png())]
        for role in Role:
            batch = [self.prepare(item, role) for item in items]
            # What is made at the first forward is made by one thread.
            self.launch(batch)()
            for wait in [self.launch(batch) for _ in range(self.in_flight)]:
                wait()

    def budget(self, cost: int | None = None) -> Budget:
        """Return the budget of this model's batches: `cost`, or one that is measured now and corrected later."""
        return Budget(cost or self.best_batch_cost(), fixed=cost is not None, name=self._name)

    def best_batch_cost(self, within_s: float = 0.5) -> int:
        """Return the smallest batch budget that is about as fast as any, for larger batches only delay searches.

        Batches of text and image are doubled while that is faster, fits into memory and `within_s` is not over.
        """
        until = time.monotonic() + within_s
        count, best_rate = 1, 0.0
        while (rate := self._throughput(self._document, count)) > best_rate * MIN_SPEEDUP_TO_DOUBLE:
            best, best_rate = count, rate
            count *= 2
            if time.monotonic() > until or count * self._document.cost > MAX_BATCH_COST or not self._has_room():
                break
        cost = max(MIN_BATCH_COST, best * self._document.cost)
        log.info("batch budget measured", cost=cost, documents=best, documents_per_s=round(best_rate, 1))
        return cost

    def compile_if_faster(self) -> bool:
        """Compile the vision tower by torch, and keep it so if that is faster. Takes a minute or more.

        A single picture and several pictures have separate code. Nothing is compiled after the start, for compiling
        would hold up every batch and look like a stuck forward; shapes that the warm-up did not bring are computed
        without compilation.
        """
        tower = self._retriever.vision_tower
        count = max(1, MIN_BATCH_COST // self._picture.cost)
        torch.compiler.set_stance("default")
        try:
            tower.compile(dynamic=True)
            self._throughput(self._picture, 1)
            compiled = self._throughput(self._picture, count)
        except Exception as error:  # noqa: BLE001  whatever a compiler raises, the plain tower serves
            log.warning("compilation failed", reason=f"{type(error).__name__}: {error}"[:300])
            compiled = 0.0
        call, tower._compiled_call_impl = tower._compiled_call_impl, None
        plain = self._throughput(self._picture, count)
        faster = compiled > plain * _MIN_SPEEDUP_TO_COMPILE
        if faster:
            tower._compiled_call_impl = call
            # Of the process: its models are compiled in turn, before any of them serves.
            torch.compiler.set_stance("eager_on_recompile")
        log.info(
            "compilation measured", kept=faster, images_per_s=round(compiled, 1), plain_images_per_s=round(plain, 1)
        )
        return faster

    def _throughput(self, item: Prepared, count: int) -> float:
        """Return inputs per second, the best of three runs, or 0 when they do not fit into memory."""
        seconds = []
        with contextlib.suppress(torch.OutOfMemoryError):
            for _ in range(3):
                began = time.perf_counter()
                self._retriever.launch([item] * count)()
                seconds.append(time.perf_counter() - began)
            return count / min(seconds)
        # Memory taken before the failure would be missing elsewhere, and end the next measurement too soon.
        torch.cuda.empty_cache()
        return 0.0

    def _has_room(self) -> bool:
        if self._retriever.device.type != "cuda":
            return True
        device = self._retriever.device
        # Other processes may use some of the total.
        free, _ = torch.cuda.mem_get_info(device)
        available = torch.cuda.memory_reserved(device) + free
        return torch.cuda.max_memory_reserved(device) * 2 < available * _MEMORY_SHARE


def _computes(device: torch.device) -> bool:
    """Return whether CUDA still computes; any other device recovers from a failed call."""
    if device.type != "cuda":
        return True
    try:
        torch.ones(1, device=device).add_(1)
        torch.cuda.synchronize(device)
    except torch.OutOfMemoryError:
        return True
    except RuntimeError:
        return False
    return True


def _memory_bytes(device: torch.device) -> dict[str, int]:
    """Return the bytes `used` by tensors, `reserved` by torch and `total` of a device with its own memory."""
    if device.type != "cuda":
        return {}
    return {
        "used": torch.cuda.memory_allocated(device),
        "reserved": torch.cuda.memory_reserved(device),
        "total": torch.cuda.get_device_properties(device).total_memory,
    }


def choose_device(device: str) -> str:
    """Return the device; `auto` is the first of CUDA, MPS and CPU that this machine has."""
    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def choose_precision(precision: str, device: str) -> str:
    """Return the precision; `auto` is bfloat16 where the device computes in it, else float16 on CUDA and float32 on a
    CPU. What it costs is in docs/models.md."""
    if device == "cpu" and precision in ("auto", "bfloat16") and graph.available():
        if graph.computes_bfloat16():
            return "bfloat16"
        if precision == "bfloat16":
            log.warning("no bfloat16 on this processor, float32 computes")
        return "float32"
    if precision != "auto":
        return precision
    if not device.startswith("cuda"):
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"


def _one_pixel_png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (1, 1), "white").save(file, "PNG")
    return file.getvalue()
