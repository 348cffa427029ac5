"""A fine-tuning run and its folder: validation, the best checkpoint, early stop, and going on where it was broken off.

config.json, model.safetensors, tokenizer.json      the best checkpoint so far: what `ret2 serve --model FOLDER` opens
state.safetensors, run.json                         what resuming needs, and what it must be the same run of
logs/                                               for TensorBoard
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from model.checkpoints.sources import locate
from model.checkpoints.weights import read_tensors, save_tensors
from model.config import Ret2Config
from model.errors import InvalidInput
from model.retriever import Retriever
from model.training.atlas_trainer import StateCache
from model.training.checkpoint import modalities, save_finetuned, tokenizer_files, towers
from model.training.distributed import Ranks
from model.training.finetune_batch import Entry
from model.training.finetuner import KS, FineTuner, FineTuneSettings, hits, validation_loss
from model.training.pairs import Example, Fault, Images, Pairs, Report, Row, read_pairs, split
from model.training.run_folder import STATE_FILE, claim
from model.training.tensorboard_log import TrainLog
from model.types import Role

_BATCH = 64
FEW_QUESTIONS = 50  # below it, one question more or less moves recall by over 2 %
Ending = Literal["finished", "stopped early", "interrupted"]
_FLOAT16_BYTES = 2
_CHARS_PER_TOKEN = 4  # of English in a vocabulary of 30,000; only to foresee the size of the cache
_TOGETHER = 32  # images a pass of the vision tower while the cache is filled


@dataclass(frozen=True, slots=True)
class Data:
    """What a run learns from. `digest` names it."""

    train: Sequence[Example]
    validation: Sequence[Example]
    images: Images
    labels: Mapping[str, frozenset[str]]  # by document's key, of both parts
    digest: str


@dataclass(frozen=True, slots=True)
class Options:
    """Of a run, what does not change the updates it makes."""

    folder: Path
    patience: int = 5  # validations without a better one before the run stops; 0: it does not
    fresh: bool = False
    self_contained: bool = False
    cache_bytes: int = 4 * 2**30  # of tower states, for each process


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


def read_data(
    path: Path, validation: Path | None, share: float, *, image_root: Path | None, strict: bool, report: Report
) -> tuple[Data, list[Fault]]:
    """Pairs to train on and to validate with, from a file each or from one. Raises `InvalidInput` where a part would be
    empty."""
    pairs = read_pairs(path, image_root=image_root, strict=strict, report=report)
    faults = list(pairs.faults)
    if validation is None:
        train, validation_examples = split(pairs.examples, share)
        if not train or (share and not validation_examples):
            raise InvalidInput(
                f"of {len(pairs.examples)} pairs a share of {share} leaves {len(train)} to train on "
                f"and {len(validation_examples)} to validate with; give --validation FILE or another "
                "--validation-share",
                field="validation_share",
            )
    else:
        validation_pairs = read_pairs(
            validation, image_root=image_root, strict=strict, images=pairs.images, report=report
        )
        faults += validation_pairs.faults
        train, validation_examples = pairs.examples, validation_pairs.examples
    both = Pairs([*train, *validation_examples], pairs.images)
    digest = hashlib.sha256(f"{Pairs(train, pairs.images).digest()} {both.digest()}".encode()).hexdigest()
    return Data(train, validation_examples, pairs.images, both.labels(), digest), faults


def settings_for(pairs: int, epochs: float, options: Mapping[str, Any], *, fresh: bool) -> FineTuneSettings:
    """What was asked for, and where that is None what suits the number of pairs; `fresh` is a cell that has learnt
    nothing yet."""
    explicit = {key: value for key, value in options.items() if value is not None}
    batch = explicit.get("batch_size", min(_BATCH, pairs))
    an_epoch = math.ceil(pairs / batch)
    steps = explicit.get("steps", max(1, math.ceil(epochs * pairs / batch)))
    defaults = {
        "batch_size": batch,
        "steps": steps,
        "warmup_steps": min(100, steps // 10),
        "eval_every": min(100, an_epoch),
        "learning_rate": 1e-3 if fresh else 3e-4,
    }
    return FineTuneSettings(**(defaults | explicit))


def begin(start_from: str, config: Ret2Config | None, name: str, seed: int) -> tuple[Retriever, Path | None]:
    """The model that a run called `name` starts with: fresh by `config`, or a checkpoint and its folder."""
    torch.manual_seed(seed)
    retriever = Retriever.untrained(config) if config is not None else Retriever.load(start_from)
    retriever.config = replace(retriever.ret2_config, name=name)
    return retriever, None if config is not None else locate(start_from)


def fine_tune(
    retriever: Retriever,
    origin: Path | None,
    data: Data,
    settings: FineTuneSettings,
    options: Options,
    ranks: Ranks,
    *,
    report: Report,
    say: Callable[[str], None],
    should_stop: Callable[[], bool],
) -> Outcome:
    """A run into the options' folder, or the rest of the one that is there. Every process of it calls this with the
    same arguments.

    `origin` is the checkpoint folder that `retriever` was loaded from, if it was. Raises `InvalidInput` when the folder
    has something else.
    """
    record = {
        "settings": asdict(settings),
        "pairs": data.digest,
        "start": retriever.info.fingerprint,
        "self_contained": options.self_contained,
    }
    _check(settings, data, ranks)
    resumed = claim(options.folder, record, ranks, fresh=options.fresh)
    retriever = retriever.to(ranks.device)
    cache, cached = _cached(retriever, data, settings, options.cache_bytes, report)
    tuner = FineTuner(retriever, data.train, data.labels, data.images, settings, ranks, cache=cache, cached=cached)
    with closing(tuner):
        run = _Run(tuner, data, options, origin, ranks, say)
        if resumed:
            run.restore()
            say(f"goes on at step {tuner.done} of {settings.steps}")
        with closing(TrainLog(options.folder / "logs" if ranks.first else None, tuner.done)) as log:
            ending = run.go(log, report, should_stop)
    return Outcome(tuner.done, ending, run.first, run.best, run.best_step, options.folder)


class _Run:
    def __init__(
        self,
        tuner: FineTuner,
        data: Data,
        options: Options,
        origin: Path | None,
        ranks: Ranks,
        say: Callable[[str], None],
    ) -> None:
        self._tuner, self._data, self._options = tuner, data, options
        self._origin, self._ranks, self._say = origin, ranks, say
        self.first: dict[int, float] = {}
        self.best: dict[int, float] = {}
        self.best_step = 0
        self._best_loss = math.inf
        self._since_best = 0
        self._pool = _pool(data, tuner.settings)

    def go(self, log: TrainLog, report: Report, should_stop: Callable[[], bool]) -> Ending:
        tuner, settings, patience = self._tuner, self._tuner.settings, self._options.patience
        if tuner.done == 0:
            self._warn_of_few_questions()
            self._validate(log)
            if self.first.get(1) == 1:
                self._say(
                    "validation recall@1 is 1.000 before the first step: these questions cannot show that anything is "
                    "learnt. Give harder ones by --validation FILE"
                )
        while tuner.done < settings.steps:
            if self._data.validation and 0 < patience <= self._since_best:
                return "stopped early"
            step = tuner.step()
            report("train", tuner.done, settings.steps)
            log.add(tuner.done, {f"train/{name}": value for name, value in asdict(step).items()})
            if tuner.done % settings.eval_every == 0 or tuner.done == settings.steps:
                self._validate(log)
            if self._ranks.any(should_stop()) and tuner.done < settings.steps:
                self._save_state()
                return "interrupted"
        return "finished"

    def restore(self) -> None:
        tensors = read_tensors(self._options.folder / STATE_FILE)
        self._tuner.restore(tensors)
        self.first, self.best = (
            dict(zip(KS, tensors[name].tolist(), strict=False)) for name in ("recall.first", "recall.best")
        )
        self.best_step, self._best_loss = int(tensors["best.step"]), float(tensors["best.loss"])
        self._since_best = int(tensors["since_best"])

    def _validate(self, log: TrainLog) -> None:
        """Keep the model when it is the best so far, and in any case what resuming needs.

        Of equal recall the lower loss is better, and of equal loss the later step.
        """
        done = self._tuner.done
        recall, loss = self._measure()
        if done == 0:
            self.first = recall
        log.add(done, {f"validation/recall_at_{k}": value for k, value in recall.items()})
        # Recall at 1 counts first, then at 5, then at 10.
        better = (*recall.values(), -loss) >= (*self.best.values(), -self._best_loss)
        self._since_best = 0 if better else self._since_best + 1
        if better:
            self.best, self.best_step, self._best_loss = recall, done, loss
            self._save_checkpoint()
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
        """Recall and loss over the validation pairs; empty and infinite where there are none."""
        if not self._data.validation:
            return {}, math.inf
        query_vectors = self._tuner.embed([Entry(Role.QUERY, example.query) for example in self._data.validation])
        documents = self._tuner.embed([Entry(Role.DOCUMENT, row) for row in self._pool.values()])
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
        settings, retriever = self._tuner.settings, self._tuner.retriever
        stored = modalities(settings.train_text, settings.train_vision, self._options.self_contained)
        files = tokenizer_files(retriever.ret2_config, self._origin)
        save_finetuned(self._options.folder, retriever, stored, files, self._origin)

    def _save_state(self) -> None:
        if self._ranks.first:
            own = {
                "recall.first": torch.tensor(list(self.first.values())),
                "recall.best": torch.tensor(list(self.best.values())),
                "best.step": torch.tensor(self.best_step),
                "best.loss": torch.tensor(self._best_loss, dtype=torch.float64),
                "since_best": torch.tensor(self._since_best),
            }
            save_tensors(self._options.folder / STATE_FILE, self._tuner.tensors() | own)


def _pool(data: Data, settings: FineTuneSettings) -> dict[str, Row]:
    """What validation searches: its own documents and hard negatives, and others of the training part to make it
    harder."""
    pool: dict[str, Row] = {}
    for example in data.validation:
        pool.setdefault(example.key, example.document)
        for key, row in example.negatives:
            pool.setdefault(key, row)
    distractors = {example.key: example.document for example in data.train if example.key not in pool}
    missing = max(0, min(len(distractors), settings.validation_pool - len(pool)))
    chosen = random.Random(settings.seed).sample(sorted(distractors), missing)
    return pool | {key: distractors[key] for key in chosen}


def _check(settings: FineTuneSettings, data: Data, ranks: Ranks) -> None:
    if settings.batch_size < 2 or settings.batch_size > len(data.train):
        raise InvalidInput(
            f"batch_size is {settings.batch_size}; it must be from 2 to the number of training pairs, "
            f"{len(data.train)}",
            field="batch_size",
        )
    if settings.batch_size < ranks.world:
        raise InvalidInput(f"batch_size is {settings.batch_size}, fewer than the {ranks.world} processes")


def _cached(
    retriever: Retriever, data: Data, settings: FineTuneSettings, limit: int, report: Report
) -> tuple[StateCache | None, tuple[bool, bool]]:
    """States of frozen towers, computed once where they fit into `limit` bytes; for texts, and for images."""
    if retriever.document_towers:  # the cache has one tower of each kind
        return None, (False, False)
    rows = set(_rows([*data.train, *data.validation]))
    texts = sorted({text for text, _ in rows if text is not None})
    images = sorted({image for _, image in rows if image is not None})
    text_width, vision_width = (sum(towers(retriever)[name].widths) for name in ("text", "vision"))
    longest = retriever.config.max_text_tokens
    tokens = sum(min(longest, 2 + len(text) // _CHARS_PER_TOKEN) for text in texts)
    text_bytes = tokens * text_width * _FLOAT16_BYTES
    image_bytes = len(images) * retriever.vision_tower.patches * vision_width * _FLOAT16_BYTES
    keep_texts = not settings.train_text and bool(texts) and text_bytes <= limit
    room = limit - (text_bytes if keep_texts else 0)
    keep_images = not settings.train_vision and bool(images) and image_bytes <= room
    cache = StateCache(retriever)
    if keep_texts:
        cache.add_texts(texts, _counted(report, "text states", len(texts)))
    if keep_images:
        on_image = _counted(report, "image states", len(images))
        cache.add_images(data.images.only(images), 1, random.Random(settings.seed), on_image, together=_TOGETHER)
    return cache, (keep_texts, keep_images)


def _rows(examples: Iterable[Example]) -> Iterable[Row]:
    for example in examples:
        yield example.query
        yield example.document
        yield from (row for _, row in example.negatives)


def _counted(report: Report, stage: str, total: int) -> Callable[[int], None]:
    done = 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        report(stage, done, total)

    return add
