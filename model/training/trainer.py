"""One update after another of cell, adapters and, where settings say so, towers: large batches in chunks, over several
processes.

    step ─► batch ─► embed chunks without graph ─► sum over processes: all embeddings ─► loss, its gradient on each embedding
                       └─► the same chunks again with graph, given that gradient ─► sum over processes ─► update

That is GradCache (Gao et al. 2021, arXiv 2101.06983): the gradient is the whole batch's, the memory a chunk's.
Processes embed different chunks of one batch, so N of them compute what one would; no DistributedDataParallel is
needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.checkpoints.weights import load_strict
from model.errors import InvalidInput
from model.ret2 import FeaturesOnState, Ret2
from model.retriever import Retriever
from model.states import States
from model.towers.towers import with_prefix
from model.training.batch import Batch, Entry
from model.training.checkpoint import tower_network, towers
from model.training.distributed import Ranks
from model.training.objective import (
    BETAS,
    MAX_LOG_SCALE,
    decay_groups,
    embed_by_kind,
    has_fast_bfloat16,
    optimizer_tensors,
    restore_optimizer,
    schedule,
    symmetric_cross_entropy,
)
from model.training.pairs import Row
from model.training.settings import Precision, TrainSettings
from model.training.state_cache import StateCache
from model.types import Float32, Input, Limits, Prepared

Batches = Callable[[int], Batch]  # by the number of the step alone

_LIMITS = Limits()
_PREPARE_THREADS = 8
_IGNORED = -1e4  # a logit that leaves nothing of a softmax


class Chunk(NamedTuple):
    """Entries of a batch that go through the model together; `number` decides their dropout, whichever process embeds
    them."""

    number: int
    places: slice
    entries: list[Entry]
    prepared: list[Future[Prepared | None]]  # empty until submitted


@dataclass(frozen=True, slots=True)
class Step:
    loss: float
    gradient_norm: float
    learning_rate: float
    scale: float


class Trainer:
    """One run's model and optimizer. `step()` makes one update; all it draws depends on the seed and the step's number
    alone.

    Every process of a run makes its own, with the same arguments. For one thread; `close()` ends the ones that decode
    images.
    """

    def __init__(
        self,
        retriever: Retriever,
        batches: Batches,
        images: Mapping[str, bytes],
        settings: TrainSettings,
        ranks: Ranks,
        cache: StateCache | None = None,
    ) -> None:
        self.retriever, self.settings = retriever.to(ranks.device), settings
        self._batches, self._images, self._ranks = batches, images, ranks
        self._cache = cache or StateCache(retriever)
        self._dtype = autocast_dtype(settings.precision, ranks.device)
        self._scaler = torch.amp.GradScaler(ranks.device.type, enabled=settings.precision == "fp16")
        self._pool = ThreadPoolExecutor(_PREPARE_THREADS, "prepare")
        self._ahead: tuple[int, Batch, list[Chunk]] | None = None
        self.trained = trained_parts(retriever, settings)
        if settings.apart:
            _open_gates(retriever)
        for module in self.trained.values():
            module.requires_grad_(True)
            for value in module.state_dict().values():
                ranks.from_first(value)
        # The moving average of the weights is what is validated and kept: the weights themselves go to and fro.
        self._average = [value.detach().clone() for value in self._parameters()] if settings.averaging else []
        self._losses = 2 if settings.apart else 1
        start = torch.full((self._losses,), math.log(1 / settings.temperature), dtype=retriever.dtype)
        self.log_scale = nn.Parameter(start.to(ranks.device))
        self.optimizer = self._optimizer()
        self.done = 0

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def step(self) -> Step:
        rate = schedule(self.done, self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * rate
        self._train(True)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._backward(*self._next())
        parameters = self._parameters()
        self._ranks.add_gradients(parameters)
        self._scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self._add_to_average()
        self.log_scale.data.clamp_(max=MAX_LOG_SCALE)
        self.done += 1
        return Step(loss, float(norm), self.settings.learning_rate * rate, self.log_scale.exp().mean().item())

    def _backward(self, batch: Batch, chunks: Sequence[Chunk]) -> float:
        """Compute the gradients, and return the loss. Each parameter gets this process's scaled part of the gradient,
        the temperature the whole."""
        leaves = self._vectors(len(batch.entries), self._losses)
        alone = len(chunks) == 1  # its graph may stay: there is no other to make room for
        output: Tensor | None = None
        for chunk in chunks:
            with torch.set_grad_enabled(alone):
                output = self._forward(chunk, apart=self.settings.apart)
            leaves[chunk.places] = output.detach()
        self._ranks.add(leaves).requires_grad_()
        loss = self._loss(batch, leaves)
        loss.backward()  # type: ignore[no-untyped-call]
        assert leaves.grad is not None
        assert self.log_scale.grad is not None
        self.log_scale.grad = self._scaler.scale(self.log_scale.grad)
        for chunk in chunks:
            vectors = output if alone and output is not None else self._forward(chunk, apart=self.settings.apart)
            vectors.backward(self._scaler.scale(leaves.grad[chunk.places]))  # type: ignore[no-untyped-call]
        return loss.item()

    def _loss(self, batch: Batch, vectors: Tensor) -> Tensor:
        """Return the sum of the losses of the parts that learn apart, each at a temperature of its own."""
        total = torch.zeros((), dtype=vectors.dtype, device=vectors.device)
        for part, log_scale in zip(vectors.unbind(1), self.log_scale, strict=True):
            queries, documents = part[batch.queries], part[batch.documents]  # (B, E), (M, E)
            logits = queries @ documents.T * log_scale.exp()  # (B, M)
            if batch.ignored is not None:
                logits = logits.masked_fill(batch.ignored.to(logits.device), _IGNORED)
            total += symmetric_cross_entropy(logits, batch.targets.to(logits), batch.document_targets.to(logits))
        return total

    @torch.no_grad()
    def _add_to_average(self) -> None:
        """Add the present weights to the average. It begins as an average of few steps, so that it does not remember
        the initial weights."""
        decay = min(self.settings.averaging, self.done / (self.done + 10))
        for average, weight in zip(self._average, self._parameters() if self._average else (), strict=True):
            average.lerp_(weight, 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the model have its averaged weights, if the run keeps an average: what is validated and saved."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for place, weight in enumerate(self._parameters() if self._average else ()):
            weight.data, self._average[place] = self._average[place], weight.data

    @torch.no_grad()
    def embed(self, entries: Sequence[Entry]) -> Tensor:
        """Embed any entries to (N, E) as the model with its present weights would. The result is the same in every
        process."""
        self._train(False)
        vectors = self._vectors(len(entries), 1)
        ahead: Chunk | None = None
        for following in (*self._chunks(entries), None):
            submitted = None if following is None else self._submitted(following)
            if ahead is not None:
                vectors[ahead.places] = self._forward(ahead)
            ahead = submitted
        return self._ranks.add(vectors)[:, 0]

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that resuming needs."""
        state = {
            f"{name}.{key}": value for name, part in self.trained.items() for key, value in part.state_dict().items()
        }
        state |= {f"average.{place}": value for place, value in enumerate(self._average)}
        state |= optimizer_tensors(self.optimizer)
        scaler = self._scaler.state_dict()
        return state | {
            "log_scale": self.log_scale.data,
            "done": torch.tensor(self.done),
            "scaler.scale": torch.tensor(scaler.get("scale", 1.0), dtype=torch.float64),
            "scaler.growth": torch.tensor(scaler.get("_growth_tracker", 0)),
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        for name, part in self.trained.items():
            load_strict(part, with_prefix(tensors, f"{name}."), f"run: {name}")
        for place, value in enumerate(self._average):
            value.copy_(tensors[f"average.{place}"])
        self.log_scale.data.copy_(tensors["log_scale"])
        restore_optimizer(self.optimizer, tensors)
        self.done = int(tensors["done"])
        if self._scaler.is_enabled():
            scaler_state = {"scale": float(tensors["scaler.scale"]), "_growth_tracker": int(tensors["scaler.growth"])}
            self._scaler.load_state_dict(self._scaler.state_dict() | scaler_state)

    def _optimizer(self) -> torch.optim.AdamW:
        groups = []
        for name, part in self.trained.items():
            own = decay_groups(part.parameters(), self.settings.weight_decay)
            rate = self.settings.learning_rate if name in self.retriever.sides else self.settings.backbone_learning_rate
            groups += [group | {"base": rate} for group in own]
        groups.append({"params": [self.log_scale], "weight_decay": 0.0, "base": self.settings.learning_rate})
        return torch.optim.AdamW(groups, lr=self.settings.learning_rate, betas=BETAS)

    def _parameters(self) -> list[nn.Parameter]:
        return [value for part in self.trained.values() for value in part.parameters()]

    def _train(self, mode: bool) -> None:
        for part in self.trained.values():
            part.train(mode)

    def _vectors(self, count: int, parts: int) -> Tensor:
        size = self.retriever.config.dimensions
        return torch.zeros(count, parts, size, dtype=self.retriever.dtype, device=self._ranks.device)

    def _next(self) -> tuple[Batch, list[Chunk]]:
        """Return this step's batch, while the images of the next one are being decoded."""
        step, batch, chunks = self._ahead or (-1, None, [])
        if step != self.done or batch is None:
            batch, chunks = self._drawn(self.done)
        if self.done + 1 < self.settings.steps:
            self._ahead = (self.done + 1, *self._drawn(self.done + 1))
        return batch, chunks

    def _drawn(self, step: int) -> tuple[Batch, list[Chunk]]:
        batch = self._batches(step)
        return batch, [self._submitted(chunk) for chunk in self._chunks(batch.entries)]

    def _chunks(self, entries: Sequence[Entry]) -> list[Chunk]:
        """Return this process's chunks. All processes have equally many, of equal size to within one entry."""
        world, total = self._ranks.world, len(entries)
        count = min(total, world * math.ceil(total / self.settings.chunk_size / world))
        bounds = [total * number // count for number in range(count + 1)]
        own_rows = range(self._ranks.rank, count, world)
        places = {number: slice(bounds[number], bounds[number + 1]) for number in own_rows}
        return [Chunk(number, place, list(entries[place]), []) for number, place in places.items()]

    def _submitted(self, chunk: Chunk) -> Chunk:
        return chunk._replace(prepared=[self._pool.submit(self._prepare, entry) for entry in chunk.entries])

    def _prepare(self, entry: Entry) -> Prepared | None:
        """Prepare what the towers that run need; None if the cache has everything."""
        text = None if self._cache.has_texts else entry.row[0]
        image = None if self._cache.has_images else entry.row[1]
        if text is None and image is None:
            return None
        content = Input(text, None if image is None else self._images[image])
        return self.retriever.prepare(content, entry.role, _LIMITS)

    def _forward(self, chunk: Chunk, *, apart: bool = False) -> Tensor:
        """Embed a chunk to (n, 1, E) of unit length, or to (n, 2, E) with its parts apart, with the same dropout each
        time within a step."""
        torch.manual_seed(((self.settings.seed * 1_000_003 + self.done) * 100_003 + chunk.number) % 2**63)
        rows = [Ready(entry, future.result()) for entry, future in zip(chunk.entries, chunk.prepared, strict=True)]
        return embed_by_kind(rows, self._kind, lambda alike: self._embed_alike(alike, apart=apart))

    def _kind(self, row: Ready) -> tuple[str, bool, bool]:
        """Return what rows that go through the model together have in common; the role counts only where sides or
        towers differ."""
        role, has_image, has_text = row.entry.kind
        shared = len(self.retriever.sides) == 1 and not self.retriever.document_towers
        return "" if shared else role, has_image, has_text

    def _embed_alike(self, rows: Sequence[Ready], *, apart: bool) -> Tensor:
        side: Any = self.retriever.side(rows[0].entry.role)
        with torch.autocast(self._ranks.device.type, self._dtype, enabled=self._dtype is not None):
            states = self._states(rows)
            vectors: Tensor = side.parts(states) if apart else side(states).mean(dim=1, keepdim=True)
            return vectors.to(self.retriever.dtype)

    def _states(self, rows: Sequence[Ready]) -> States:
        """Return the states of rows of one kind, from the cache if it has them, else by the towers."""
        role, (text, image) = rows[0].entry.role, rows[0].entry.row
        states = States()
        if text is not None and self._cache.has_texts:
            states = self._from_cache([(row.entry.row[0], None) for row in rows])
        elif text is not None:
            states = States(*self.retriever.text_states([row.tokens for row in rows], role))
        if image is not None and self._cache.has_images:
            states = replace(states, vision=self._from_cache([(None, row.entry.row[1]) for row in rows]).vision)
        elif image is not None:
            states = replace(states, vision=self.retriever.vision_states([row.pixels for row in rows], role))
        return states

    def _from_cache(self, rows: Sequence[Row]) -> States:
        device = self._ranks.device
        with torch.autocast(device.type, enabled=False), torch.autocast("cpu", enabled=False):
            states = self._cache.states(rows)  # float16 on the CPU: to bfloat16's autocast an error
        return States(
            states.text and [layer.to(device) for layer in states.text],
            None if states.text_mask is None else states.text_mask.to(device),
            states.vision and [layer.to(device) for layer in states.vision],
        )


class Ready(NamedTuple):
    """An entry and what the towers need of it."""

    entry: Entry
    prepared: Prepared | None

    @property
    def tokens(self) -> NDArray[np.int64]:
        assert self.prepared is not None
        assert self.prepared.tokens is not None
        return self.prepared.tokens

    @property
    def pixels(self) -> Float32:
        assert self.prepared is not None
        assert self.prepared.pixels is not None
        return self.prepared.pixels


@torch.no_grad()
def _open_gates(retriever: Retriever) -> None:
    """Add the global features whole: parts that learn apart give the gate no gradient."""
    for side in retriever.sides.values():
        assert isinstance(side, Ret2)
        assert isinstance(side.features, FeaturesOnState)
        side.features.gate.fill_(1)


def trained_parts(retriever: Retriever, settings: TrainSettings) -> dict[str, nn.Module]:
    """Return the parts that a run changes, by their prefix in a checkpoint: every side, and the towers to be
    trained."""
    parts: dict[str, nn.Module] = dict(retriever.sides.items())
    trained = {"text": settings.train_text, "vision": settings.train_vision}
    return parts | {
        name: tower_network(tower)
        for name, tower in towers(retriever).items()
        if trained[name.removeprefix("document_")]
    }


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    """Return the type of a precision, None for float32. Raises `InvalidInput` if the device does not have it."""
    if precision == "auto":
        precision = best_precision(device)
    if precision == "fp32":
        return None
    if precision == "fp16" and device.type != "cuda":
        raise InvalidInput(f"precision fp16 needs CUDA, this run is on {device.type}; bf16 and fp32 run on both")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise InvalidInput("this GPU has no bfloat16; take precision fp16 or fp32")
    return torch.float16 if precision == "fp16" else torch.bfloat16


def best_precision(device: torch.device) -> Precision:
    return "bf16" if has_fast_bfloat16(device) else "fp32"
