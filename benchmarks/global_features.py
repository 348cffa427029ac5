"""The two parts of ret2-atlas, the cell and its global features: joined, and compared.

`python -m benchmarks.global_features join FOLDER` made the bundled checkpoint, out of parts that were trained in runs of their own (`ret2
train --variant cell`, `--variant sum`; they lie in benchmarks/ablations). The gate is the number of `GATES` with the best recall@1 on the
validation pairs, of equal recall the one with the lower loss; the test has no part in that. FOLDER gets the checkpoint.

`python -m benchmarks.global_features compare RUN:LAST_LAYER ...` measures runs that have both parts (`ret2 train`), each beside a run over
the last layer (`ret2 train --variant last-layer`) of the same seed, or alone: recall@1 of text+image → text+image on the test of atlas. The
parts of a checkpoint are also its ablations: the state alone is the model without global features, the features alone are the plain sum.

States of the towers are kept in --cache FOLDER.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from model.checkpoints.weights import read_tensors, save_checkpoint
from model.evaluation.atlas import Atlas
from model.evaluation.recall import KS, Carries, Item, Question, corpus, questions, recall
from model.ret2 import Ret2
from model.retriever import Retriever
from model.states import States
from model.training.atlas import VARIANTS, AtlasData
from model.training.batch import Entry
from model.training.data import settings_for
from model.training.distributed import Ranks
from model.training.pairs import Row
from model.training.state_cache import StateCache
from model.training.trainer import Trainer
from model.training.validation import hits, validation_loss
from model.types import Role

GATES = (0.25, 0.5, 0.75, 1.0, 1.5)
_ABLATIONS = Path(__file__).with_name("ablations")
_ROWS = 256  # that go through a cell together

# The state, and the features where there are any, (N, E) each: of the questions, and of the documents.
Parts = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]


def joined(cell: Mapping[str, Tensor], plain_sum: Mapping[str, Tensor], gate: float) -> dict[str, Tensor]:
    """The weights of a cell with global features, out of the checkpoints of both parts."""
    features = {f"shared.features.sum.{key.removeprefix('shared.')}": value for key, value in plain_sum.items()}
    size = cell["shared.projection.weight"].shape[0]
    return {**cell, **features, "shared.features.gate": torch.full((size,), gate)}


def join(folder: Path, cell_folder: Path, sum_folder: Path, cache_folder: Path) -> None:
    cell, plain_sum = (read_tensors(part / "model.safetensors") for part in (cell_folder, sum_folder))
    config = VARIANTS["ret2-atlas"]
    retriever = Retriever.untrained(config)
    data = AtlasData.read()
    rows = [row for example in (*data.train, *data.validation) for row in (example.query, example.document)]
    cache = _states(retriever, rows, data.images, cache_folder / "atlas-validation.safetensors")
    measured = {}
    for gate in GATES:
        weights = joined(cell, plain_sum, gate)
        state = {key.removeprefix("shared."): value.float() for key, value in weights.items()}
        retriever.sides["shared"].load_state_dict(state)
        measured[gate] = _measure(retriever, data, cache)
        print(f"gate {gate}: validation recall@1 {measured[gate][0]:.3f}, loss {-measured[gate][1]:.3f}", flush=True)
    best = max(GATES, key=lambda gate: measured[gate])
    save_checkpoint(folder, config.to_json(), joined(cell, plain_sum, best))
    print(f"gate {best}: {folder}")


@dataclass(frozen=True)
class Test:
    """The held-out questions of atlas and all documents, text and image of each, and the states of both."""

    questions: Sequence[Question]
    items: Sequence[Item]
    query_rows: Sequence[Row]
    document_rows: Sequence[Row]
    cache: StateCache

    @classmethod
    def read(cls, cache_folder: Path) -> Test:
        atlas = Atlas.read()
        query_rows = [(row.question, row.heldout_image_id) for row in atlas.queries if row.split == "heldout"]
        document_rows = [(document.text, document.image_id) for document in atlas.documents]
        retriever = Retriever.untrained(VARIANTS["ret2-atlas"])
        file = cache_folder / "atlas-test.safetensors"
        cache = _states(retriever, [*query_rows, *document_rows], atlas.images, file)
        asked = questions(atlas, Carries.BOTH, Carries.BOTH)
        return cls(asked, corpus(atlas, Carries.BOTH), query_rows, document_rows, cache)

    def parts(self, folder: Path) -> Parts:
        """Return the state of a checkpoint's cell, and its global features if it has any, of every row."""
        retriever = Retriever.load(str(folder))
        side, config = retriever.sides["shared"], retriever.ret2_config
        assert isinstance(side, Ret2)
        parts = []
        with torch.inference_mode():
            for rows in (self.query_rows, self.document_rows):
                chunks = [rows[start : start + _ROWS] for start in range(0, len(rows), _ROWS)]
                states = (_last_layers(self.cache.states(chunk), config.steps) for chunk in chunks)
                parts.append(
                    torch.cat([side(state) if side.features is None else side.parts(state) for state in states])
                )
        queries, documents = parts
        return queries.unbind(1), documents.unbind(1)

    def recalls(self, queries: Tensor, documents: Tensor) -> str:
        """Return recall@1 of flags and of emoji."""
        best = (F.normalize(queries, dim=-1) @ F.normalize(documents, dim=-1).T).topk(max(KS), dim=1).indices.tolist()
        rankings = [[self.items[place].id for place in places] for places in best]
        found = recall(self.questions, self.items, lambda _: rankings)
        return " / ".join(f"{found[part].recalls[0]:.3f}" for part in found)


def compare(runs: Sequence[str], cache_folder: Path) -> None:
    test = Test.read(cache_folder)
    print("| run | with global features | without | features alone | last layer, with them | without |")
    print("|---|---|---|---|---|---|")
    for run in runs:
        folder, _, last_layer = run.partition(":")
        (query_state, query_features), (state, features) = test.parts(Path(folder))
        columns = [
            test.recalls(query_state + query_features, state + features),
            test.recalls(query_state, state),
            test.recalls(query_features, features),
        ]
        if last_layer:
            (query_state,), (state,) = test.parts(Path(last_layer))
            columns += [
                test.recalls(query_state + query_features, state + features),
                test.recalls(query_state, state),
            ]
        print(f"| {folder} | {' | '.join(columns)} |", flush=True)


def _last_layers(states: States, count: int) -> States:
    """Return what a model that taps the last `count` layers reads."""
    assert states.text is not None
    assert states.vision is not None
    return replace(states, text=states.text[-count:], vision=states.vision[-count:])


def _states(retriever: Retriever, rows: Sequence[Row], images: Mapping[str, bytes], file: Path) -> StateCache:
    if file.exists():
        return StateCache.load(retriever, file)
    cache = StateCache(retriever)
    cache.add_texts([text for text, _ in rows if text], lambda _: None)
    cache.add_images(images, list(dict.fromkeys(image for _, image in rows if image)), lambda _: None, together=8)
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
    found, loss = hits(queries, documents, names, answers), validation_loss(queries, documents, names, answers)
    return found[1], -loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("runs/states"), help="folder of tower states")
    commands = parser.add_subparsers(dest="command", required=True)
    joining = commands.add_parser("join")
    joining.add_argument("folder", type=Path)
    joining.add_argument("--cell", type=Path, default=_ABLATIONS / "cell")
    joining.add_argument("--sum", type=Path, default=_ABLATIONS / "sum")
    commands.add_parser("compare").add_argument("runs", nargs="+", metavar="RUN:LAST_LAYER")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    if arguments.command == "join":
        join(arguments.folder, arguments.cell, arguments.sum, arguments.cache)
    else:
        compare(arguments.runs, arguments.cache)


if __name__ == "__main__":
    main()
