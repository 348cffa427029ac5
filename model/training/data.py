"""What a run learns from: pairs to train on and to validate with, and the batches that are drawn of them."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from model.errors import InvalidInput
from model.training.batch import Order, draw
from model.training.pairs import Example, Fault, Pairs, Report, Row, read_pairs, split
from model.training.settings import EPOCHS, PairsOptions, TrainSettings
from model.training.trainer import Batches

_BATCH = 64


@dataclass(frozen=True)
class Data:
    """Pairs with their images. `digest` names them, `defaults` are the settings that suit them, and `patience` the
    validations without a better one after which a run stops."""

    train: Sequence[Example]
    validation: Sequence[Example]
    images: Mapping[str, bytes]
    labels: Mapping[str, frozenset[str]]  # by document's key, of both parts
    digest: str
    defaults: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    patience: int = field(default=5, kw_only=True)

    def batches(self, settings: TrainSettings) -> Batches:
        """Return batches, epoch after epoch, each in its own order and with hard negatives."""
        order = Order(len(self.train), settings.batch_size, settings.seed)
        return lambda step: draw(
            [self.train[place] for place in order.places(step)],
            self.labels,
            negatives=settings.negatives,
            keep_both=settings.keep_both,
            rng=random.Random(f"{settings.seed}/{step}"),
        )

    def rows(self) -> Iterable[Row]:
        """Yield every text and image that training or validation may embed."""
        for example in (*self.train, *self.validation):
            yield example.query
            yield example.document
            yield from (row for _, row in example.negatives)

    def pool(self, settings: TrainSettings) -> dict[str, Row]:
        """Return the documents that validation searches: its own, their hard negatives, and training documents that
        make it harder."""
        pool: dict[str, Row] = {}
        for example in self.validation:
            pool.setdefault(example.key, example.document)
            for key, row in example.negatives:
                pool.setdefault(key, row)
        distractors = {example.key: example.document for example in self.train if example.key not in pool}
        missing = max(0, min(len(distractors), settings.validation_pool - len(pool)))
        chosen = random.Random(settings.seed).sample(sorted(distractors), missing)
        return pool | {key: distractors[key] for key in chosen}


def read_data(options: PairsOptions, report: Report) -> tuple[Data, list[Fault]]:
    """Read pairs to train on and to validate with, from a file each or from one. Raises `InvalidInput` if a part would
    be empty."""
    assert options.data is not None
    pairs = read_pairs(options.data, image_root=options.images, strict=options.strict, report=report)
    faults = list(pairs.faults)
    if options.validation is None:
        train, validation = split(pairs.examples, options.validation_share)
        if not train or (options.validation_share and not validation):
            raise InvalidInput(
                f"of {len(pairs.examples)} pairs a share of {options.validation_share} leaves {len(train)} to train on "
                f"and {len(validation)} to validate with; give --validation FILE or another --validation-share",
                field="validation_share",
            )
    else:
        validation_pairs = read_pairs(
            options.validation, image_root=options.images, strict=options.strict, images=pairs.images, report=report
        )
        faults += validation_pairs.faults
        train, validation = pairs.examples, validation_pairs.examples
    both = Pairs([*train, *validation], pairs.images)
    digest = hashlib.sha256(f"{Pairs(train, pairs.images).digest()} {both.digest()}".encode()).hexdigest()
    return Data(train, validation, pairs.images, both.labels(), digest), faults


def settings_for(data: Data, chosen: Mapping[str, Any], *, fresh: bool = False, apart: bool = False) -> TrainSettings:
    """Return what was chosen, and where that says nothing what suits the data; `fresh` is a cell that has learnt
    nothing yet, `apart` one with global features beside it that have not either."""
    explicit = {name: value for name, value in chosen.items() if value is not None}
    if unknown := set(explicit) - {part.name for part in fields(TrainSettings)}:
        raise TypeError(f"no settings of training: {', '.join(sorted(unknown))}")
    suited = {name: value for name, value in data.defaults.items() if name != "steps" or "epochs" not in explicit}
    pairs = len(data.train)
    known_settings = suited | explicit
    batch = known_settings.get("batch_size", min(_BATCH, pairs))
    epochs = known_settings.get("epochs", EPOCHS)
    steps = known_settings.get("steps", max(1, math.ceil(epochs * pairs / batch)))
    fitted = {
        "batch_size": batch,
        "steps": steps,
        "warmup_steps": min(100, steps // 10),
        "eval_every": min(100, math.ceil(pairs / batch)),
        "learning_rate": 1e-3 if fresh else 3e-4,
        "apart": apart,
    }
    return TrainSettings(**(fitted | known_settings))
