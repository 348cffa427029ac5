"""`python -m benchmarks.global_features FOLDER`: ret2-atlas out of its two parts, the cell and the plain sum, and the gate between them.

Both parts are trained by themselves (`ret2 train --variant cell`, `ret2 train --variant sum`; the committed ones lie in
benchmarks/ablations), for a gate that is learnt beside a cell that already knows the training pairs stays small. The gate is the number of
`GATES` with the best recall@1 on the validation pairs, of equal recall the one with the lower loss; the test has no part in that. FOLDER
gets the checkpoint.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoints.weights import read_tensors, save_checkpoint
from model.retriever import Retriever
from model.training.atlas import VARIANTS, AtlasData
from model.training.batch import Entry
from model.training.data import settings_for
from model.training.distributed import Ranks
from model.training.state_cache import StateCache
from model.training.trainer import Trainer
from model.training.validation import hits, validation_loss
from model.types import Role

GATES = (0.25, 0.5, 0.75, 1.0, 1.5)
_ABLATIONS = Path(__file__).with_name("ablations")


def joined(cell: Mapping[str, Tensor], plain_sum: Mapping[str, Tensor], gate: float) -> dict[str, Tensor]:
    """The weights of a cell with global features, out of the checkpoints of both parts."""
    features = {f"shared.features.sum.{key.removeprefix('shared.')}": value for key, value in plain_sum.items()}
    size = cell["shared.projection.weight"].shape[0]
    return {**cell, **features, "shared.features.gate": torch.full((size,), gate)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cell", type=Path, default=_ABLATIONS / "cell")
    parser.add_argument("--sum", type=Path, default=_ABLATIONS / "sum")
    parser.add_argument("--cache", type=Path, default=Path("runs/states"), help="folder of tower states")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    cell, plain_sum = (read_tensors(folder / "model.safetensors") for folder in (arguments.cell, arguments.sum))
    config = replace(VARIANTS["ret2-atlas"], name="ret2-atlas")
    retriever = Retriever.untrained(config)
    cache = _states(retriever, AtlasData.read(), arguments.cache / "atlas-validation.safetensors")
    measured = {}
    for gate in GATES:
        weights = joined(cell, plain_sum, gate)
        state = {key.removeprefix("shared."): value.float() for key, value in weights.items()}
        retriever.sides["shared"].load_state_dict(state)
        measured[gate] = _measure(retriever, AtlasData.read(), cache)
        print(f"gate {gate}: validation recall@1 {measured[gate][0]:.3f}, loss {-measured[gate][1]:.3f}", flush=True)
    best = max(GATES, key=lambda gate: measured[gate])
    save_checkpoint(arguments.folder, config.to_json(), joined(cell, plain_sum, best))
    print(f"gate {best}: {arguments.folder}")


def _states(retriever: Retriever, data: AtlasData, file: Path) -> StateCache:
    if file.exists():
        return StateCache.load(retriever, file)
    cache = StateCache(retriever)
    rows = [row for example in (*data.train, *data.validation) for row in (example.query, example.document)]
    cache.add_texts([text for text, _ in rows if text], lambda _: None)
    images = list(dict.fromkeys(image for _, image in rows if image))
    cache.add_images(data.images, images, lambda _: None, together=8)
    cache.save(file)
    return cache


def _measure(retriever: Retriever, data: AtlasData, cache: StateCache) -> tuple[float, float]:
    """Recall@1 of the validation pairs over all training documents, and minus the loss."""
    settings = settings_for(data, {"precision": "fp32"})
    pool = data.pool(settings)
    with closing(Trainer(retriever, data.batches(settings), data.images, settings, Ranks(), cache)) as trainer:
        queries = trainer.embed([Entry(Role.QUERY, example.query) for example in data.validation])
        documents = trainer.embed([Entry(Role.DOCUMENT, row) for row in pool.values()])
    names = [example.label for example in data.validation]
    answers = [data.labels[key] for key in pool]
    recall, loss = hits(queries, documents, names, answers), validation_loss(queries, documents, names, answers)
    return recall[1], -loss


if __name__ == "__main__":
    main()
