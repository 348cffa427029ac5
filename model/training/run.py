"""A training run and its folder: validation, the best checkpoint, early stop, and going on where it was broken off.

config.json, model.safetensors, tokenizer.json      the best checkpoint so far: what `ret2 serve --model FOLDER` opens
state.safetensors, run.json                         what resuming needs, and what it must be the same run of
logs/                                               for TensorBoard
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from model.checkpoints.dual import is_dual, read_dual
from model.checkpoints.ret2 import build_on_dual
from model.checkpoints.sources import find
from model.checkpoints.weights import read_tensors, save_tensors
from model.config import Ret2Config
from model.errors import InvalidInput
from model.ret2 import build_fusion
from model.retriever import Retriever
from model.training.batch import Entry
from model.training.checkpoint import modalities, save_trained, tokenizer_files, towers
from model.training.data import Data
from model.training.distributed import Ranks
from model.training.fresh_config import config_on_dual
from model.training.pairs import Report
from model.training.run_folder import STATE_FILE, claim
from model.training.settings import RunOptions, TrainSettings
from model.training.state_cache import StateCache
from model.training.tensorboard_log import TrainLog
from model.training.trainer import Trainer
from model.training.validation import KS, hits, validation_loss
from model.types import Role

FEW_QUESTIONS = 50  # below it, one question more or less moves recall by over 2 %
Ending = Literal["finished", "stopped early", "interrupted"]
_FLOAT16_BYTES = 2
_CHARS_PER_TOKEN = 4  # of English in a vocabulary of 30,000; only to foresee the size of the cache
_TOGETHER = 32  # images a pass of the vision tower while the cache is filled


@dataclass(frozen=True, slots=True)
class Outcome:
    steps: int
    ending: Ending
    first: Mapping[int, float]  # recall before the first step; empty without validation
    best: Mapping[int, float]
    best_step: int  # whose checkpoint is in the folder
    folder: Path

    @property
    def learnt(self) -> bool:
        """Whether validation found a later checkpoint better than the model that the run began with."""
        return not self.best or self.best_step > 0


def begin(
    start_from: str,
    config: Ret2Config | None,
    name: str,
    seed: int,
    *,
    global_features: bool = False,
    cell: Mapping[str, Any] | None = None,
) -> tuple[Retriever, Path | None]:
    """Return the model that a run called `name` starts with, and the folder of its checkpoint if it has a cell already.

    It is fresh by `config`, or a model that is served; to a dual encoder a fresh cell is added, whose layers and sizes
    `cell` has. It gives the same embeddings as the model that it starts from.
    """
    torch.manual_seed(seed)
    origin = None
    if config is not None:
        retriever = Retriever.untrained(config)
    elif is_dual(location := find(start_from)):
        base = read_dual(location)
        config = config_on_dual(base, start_from, location, **(cell or {}))
        retriever = Retriever(build_on_dual(config, base, None))
    else:
        retriever, origin = Retriever.load(start_from), location.folder
    if global_features and retriever.ret2_config.global_features is None:
        _add_features(retriever)
    retriever.config = replace(retriever.ret2_config, name=name)
    return retriever.eval(), origin


def _add_features(retriever: Retriever) -> None:
    retriever.config = replace(retriever.ret2_config, global_features="added")
    widths = retriever.text_tower.widths, retriever.vision_tower.widths
    for name, side in retriever.sides.items():
        fusion = build_fusion(retriever.config, *widths).requires_grad_(False).eval()
        fusion.load_state_dict(fusion.state_dict() | side.state_dict())
        retriever.sides[name] = fusion.to(retriever.device, retriever.dtype)


def train(
    retriever: Retriever,
    origin: Path | None,
    data: Data,
    settings: TrainSettings,
    options: RunOptions,
    ranks: Ranks,
    *,
    report: Report,
    say: Callable[[str], None],
    should_stop: Callable[[], bool],
) -> Outcome:
    """Train into the options' folder, or continue the run that is there. Every process calls this with the same
    arguments.

    `origin` is the checkpoint folder that `retriever` was loaded from, if any. Raises `InvalidInput` if the folder
    contains something else.
    """
    assert options.output is not None
    record = {
        "settings": asdict(settings),
        "pairs": data.digest,
        "start": retriever.info.fingerprint,
        "self_contained": options.self_contained,
        "global_features": retriever.ret2_config.global_features,
    }
    _check(settings, data, ranks)
    if settings.apart and (origin is not None or retriever.ret2_config.global_features != "added"):
        raise InvalidInput(
            "--apart is for a fresh cell with global features, such as the bundled model's: a run that starts from a "
            "checkpoint begins with what that gives, and its gate is learnt",
            field="apart",
        )
    if retriever.ret2_config.global_features == "base" and (
        settings.train_backbones != "none" or options.self_contained
    ):
        raise InvalidInput(
            "the towers of a dual encoder that a cell is added to stay as and where they are: leave out "
            "--train-backbones and --self-contained, or begin with --backbone, or with --start-from and a model that "
            "has a cell, such as bundled:atlas",
            field="train_backbones",
        )
    resumed = claim(options.output, record, ranks, fresh=options.fresh)
    retriever = retriever.to(ranks.device)
    cache = _filled_cache(retriever, data, settings, int(options.cache_gib * 2**30), report)
    trainer = Trainer(retriever, data.batches(settings), data.images, settings, ranks, cache)
    with closing(trainer):
        run = _Run(trainer, data, options, options.output, origin, ranks, say)
        if resumed:
            run.restore()
            say(f"goes on at step {trainer.done} of {settings.steps}")
        with closing(TrainLog(options.output / "logs" if ranks.first else None, trainer.done)) as log:
            ending = run.go(log, report, should_stop)
    return Outcome(trainer.done, ending, run.first, run.best, run.best_step, options.output)


class _Run:
    def __init__(
        self,
        trainer: Trainer,
        data: Data,
        options: RunOptions,
        folder: Path,
        origin: Path | None,
        ranks: Ranks,
        say: Callable[[str], None],
    ) -> None:
        self._trainer, self._data, self._options, self._folder = trainer, data, options, folder
        self._origin, self._ranks, self._say = origin, ranks, say
        self.first: dict[int, float] = {}
        self.best: dict[int, float] = {}
        self.best_step = 0
        self._best_loss = math.inf
        self._since_best = 0
        self._pool = data.pool(trainer.settings)

    def go(self, log: TrainLog, report: Report, should_stop: Callable[[], bool]) -> Ending:
        trainer, settings, options = self._trainer, self._trainer.settings, self._options
        patience = self._data.patience if options.patience is None else options.patience
        if trainer.done == 0:
            self._warn_of_few_questions()
            self._validate(log)
            if self.first.get(1) == 1:
                self._say(
                    "validation recall@1 is 1.000 before the first step: these questions cannot show that anything is "
                    "learnt. Give harder ones by --validation FILE"
                )
        while trainer.done < settings.steps:
            if self._data.validation and 0 < patience <= self._since_best:
                return "stopped early"
            step = trainer.step()
            report("train", trainer.done, settings.steps)
            log.add(trainer.done, {f"train/{name}": value for name, value in asdict(step).items()})
            if trainer.done % settings.eval_every == 0 or trainer.done == settings.steps:
                self._validate(log)
            if self._ranks.any(should_stop()) and trainer.done < settings.steps:
                self._save_state()
                return "interrupted"
        return "finished"

    def restore(self) -> None:
        tensors = read_tensors(self._folder / STATE_FILE)
        self._trainer.restore(tensors)
        self.first, self.best = (
            dict(zip(KS, tensors[name].tolist(), strict=False)) for name in ("recall.first", "recall.best")
        )
        self.best_step, self._best_loss = int(tensors["best.step"]), float(tensors["best.loss"])
        self._since_best = int(tensors["since_best"])

    def _validate(self, log: TrainLog) -> None:
        """Keep the model when it is the best so far, and in any case what resuming needs.

        Of equal recall the lower loss is better, and of equal loss the later step.
        """
        done = self._trainer.done
        with self._trainer.averaged():
            recall, loss = self._measure()
            # Recall at 1 counts first, then at 5, then at 10.
            better = (*recall.values(), -loss) >= (*self.best.values(), -self._best_loss)
            if better:
                self._save_checkpoint()
        if better:
            self.best, self.best_step, self._best_loss = recall, done, loss
        self._since_best = 0 if better else self._since_best + 1
        if done == 0:
            self.first = recall
        log.add(done, {f"validation/recall_at_{k}": value for k, value in recall.items()})
        if recall:
            log.add(done, {"validation/loss": loss})
            recalls = ", ".join(f"@{k} {value:.3f}" for k, value in recall.items())
            mark = " (best so far)" if better else ""
            self._say(f"step {done}: validation recall {recalls}, loss {loss:.4f}{mark}")
        self._save_state()

    def _warn_of_few_questions(self) -> None:
        questions = len({example.query for example in self._data.validation})
        if not questions:
            self._say("no pairs to validate with: the last step is kept, whether it is better or not")
        elif questions < FEW_QUESTIONS:
            self._say(
                f"only {questions} different validation questions, so recall moves in steps of {1 / questions:.2f} and "
                f"says little. Give at least {FEW_QUESTIONS}, by --validation FILE or a larger --validation-share"
            )

    def _measure(self) -> tuple[dict[int, float], float]:
        """Return recall and loss over the validation pairs; empty and infinite if there are none."""
        if not self._data.validation:
            return {}, math.inf
        query_vectors = self._trainer.embed([Entry(Role.QUERY, example.query) for example in self._data.validation])
        documents = self._trainer.embed([Entry(Role.DOCUMENT, row) for row in self._pool.values()])
        answers = [self._data.labels.get(key, frozenset()) for key in self._pool]
        labels = [example.label for example in self._data.validation]
        recall = hits(query_vectors, documents, labels, answers)
        loss = validation_loss(query_vectors, documents, labels, answers)
        measured = torch.tensor([*recall.values(), loss], device=self._ranks.device)
        *shares, agreed_loss = self._ranks.from_first(measured).tolist()
        return dict(zip(KS, shares, strict=True)), agreed_loss

    def _save_checkpoint(self) -> None:
        if not self._ranks.first:
            return
        settings, retriever = self._trainer.settings, self._trainer.retriever
        stored = modalities(settings.train_text, settings.train_vision, self._options.self_contained)
        files = tokenizer_files(retriever.ret2_config, self._origin)
        save_trained(self._folder, retriever, stored, files, self._origin)

    def _save_state(self) -> None:
        if self._ranks.first:
            own = {
                "recall.first": torch.tensor(list(self.first.values())),
                "recall.best": torch.tensor(list(self.best.values())),
                "best.step": torch.tensor(self.best_step),
                "best.loss": torch.tensor(self._best_loss, dtype=torch.float64),
                "since_best": torch.tensor(self._since_best),
            }
            save_tensors(self._folder / STATE_FILE, self._trainer.tensors() | own)


def _check(settings: TrainSettings, data: Data, ranks: Ranks) -> None:
    if settings.batch_size < 2 or settings.batch_size > len(data.train):
        raise InvalidInput(
            f"batch_size is {settings.batch_size}; it must be from 2 to the number of training pairs, "
            f"{len(data.train)}",
            field="batch_size",
        )
    if settings.batch_size < ranks.world:
        raise InvalidInput(f"batch_size is {settings.batch_size}, fewer than the {ranks.world} processes")


def _filled_cache(retriever: Retriever, data: Data, settings: TrainSettings, limit: int, report: Report) -> StateCache:
    """Compute the states of frozen towers once, where they fit into `limit` bytes, for texts and for images."""
    cache = StateCache(retriever)
    if retriever.document_towers:  # the cache has one tower of each kind
        return cache
    rows = set(data.rows())
    texts = sorted({text for text, _ in rows if text is not None})
    images = sorted({image for _, image in rows if image is not None})
    text_width, vision_width = (sum(towers(retriever)[name].widths) for name in ("text", "vision"))
    longest = retriever.config.max_text_tokens
    tokens = sum(min(longest, 2 + len(text) // _CHARS_PER_TOKEN) for text in texts)
    text_bytes = tokens * text_width * _FLOAT16_BYTES
    image_bytes = len(images) * retriever.vision_tower.patches * vision_width * _FLOAT16_BYTES
    keep_texts = not settings.train_text and bool(texts) and text_bytes <= limit
    room = limit - (text_bytes if keep_texts else 0)
    if keep_texts:
        cache.add_texts(texts, _counted(report, "text states", len(texts)))
    if not settings.train_vision and bool(images) and image_bytes <= room:
        cache.add_images(data.images, images, _counted(report, "image states", len(images)), together=_TOGETHER)
    return cache


def _counted(report: Report, stage: str, total: int) -> Callable[[int], None]:
    done = 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        report(stage, done, total)

    return add
