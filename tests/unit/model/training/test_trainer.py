"""One step of training: its gradient is the whole batch's however it is cut, its batch follows the labels, and it repeats exactly."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_model import CONFIG, write_tiny_checkpoint

from model.errors import InvalidInput
from model.retriever import Retriever
from model.training.batch import Batch, Entry
from model.training.data import Data
from model.training.distributed import Ranks
from model.training.pairs import Example, Images, Pairs
from model.training.settings import TrainSettings
from model.training.state_cache import StateCache
from model.training.trainer import Ready, Trainer
from model.types import Role

SETTINGS = TrainSettings(
    precision="fp32",
    steps=8,
    batch_size=6,
    chunk_size=64,
    learning_rate=3e-3,
    train_backbones="both",
    backbone_learning_rate=1e-3,
)
COLOURS = ("red", "green", "blue")
PLAIN = replace(CONFIG, dropout=0.0, attention_dropout=0.0)


def pairs(png: Callable[..., bytes]) -> Pairs:
    """Twelve pairs of every mixture of modalities; two documents of each colour and thing, one with hard negatives."""
    images = Images()
    pictures = {colour: images.add_bytes(png(colour, size=(20, 16))) for colour in COLOURS}
    others = {colour: images.add_bytes(png(colour, size=(16, 20))) for colour in COLOURS}
    examples = []
    for colour, thing in itertools.product(COLOURS, ("flag", "square")):
        document = (f"{thing} of {colour}", None)
        negative = (f"{thing} of one", None)
        examples += [
            Example((f"what is the {thing}", pictures[colour]), document, f"{thing} {colour}", colour),
            Example(
                (f"{thing} {colour}", None),
                ("the " + thing, others[colour]),
                f"{thing} {colour} picture",
                f"{thing} {colour}",
                ((f"{thing} one", negative), (f"{thing} two", (f"{thing} of two", None))),
            ),
        ]
    return Pairs(examples, images)


def load(tmp_path: Path, *, dropout: bool = False) -> Retriever:
    folder = tmp_path / f"tiny {dropout}"
    return Retriever.load(
        str(folder if folder.exists() else write_tiny_checkpoint(folder, CONFIG if dropout else PLAIN))
    )


@contextmanager
def tuner(
    retriever: Retriever,
    pairs: Pairs,
    settings: TrainSettings = SETTINGS,
    ranks: Ranks | None = None,
    cache: StateCache | None = None,
) -> Iterator[Trainer]:
    data = Data(pairs.examples, [], pairs.images, pairs.labels(), "digest")
    made = Trainer(retriever, data.batches(settings), data.images, settings, ranks or Ranks(), cache)
    try:
        yield made
    finally:
        made.close()


def gradients(run: Trainer) -> dict[str, torch.Tensor]:
    run._train(True)
    run._backward(*run._drawn(0))
    found = {
        f"{name}.{key}": value.grad
        for name, part in run.trained.items()
        for key, value in part.named_parameters()
        if value.grad is not None
    }
    assert run.log_scale.grad is not None
    return found | {"log_scale": run.log_scale.grad}


@pytest.mark.parametrize("chunk_size", [1, 4, 7])
def test_gradients_in_chunks_are_those_of_the_whole_batch(
    chunk_size: int, tmp_path: Path, png: Callable[..., bytes]
) -> None:
    data, settings = pairs(png), replace(SETTINGS, batch_size=12, negatives=2)
    with tuner(load(tmp_path).double(), data, settings) as whole:
        expected = gradients(whole)
    with tuner(load(tmp_path).double(), data, replace(settings, chunk_size=chunk_size)) as run:
        found = gradients(run)
    assert found.keys() == expected.keys()
    assert any(key.startswith("text.") for key in found)
    assert any(key.startswith("vision.") for key in found)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=1e-12, rtol=1e-9, msg=key)


def test_gradients_are_those_of_autograd_over_all(tmp_path: Path, png: Callable[..., bytes]) -> None:
    """The loss written down anew, over embeddings with their graphs, no cache, no chunks."""
    data = pairs(png)
    settings = replace(SETTINGS, batch_size=12, negatives=1, chunk_size=5)
    with tuner(load(tmp_path), data, settings) as run:
        found = gradients(run)
    with tuner(load(tmp_path), data, settings) as other:
        other._train(True)
        batch, _ = other._drawn(0)
        vectors = torch.cat(
            [other._embed_alike([ready], apart=False)[:, 0] for ready in other_rows(other, batch.entries)]
        )
        vectors = torch.nn.functional.normalize(vectors, dim=-1)
        logits = vectors[batch.queries] @ vectors[batch.documents].T * other.log_scale.exp()
        forward = -(batch.targets * logits.log_softmax(1)).sum(1).mean()
        backward = -(batch.document_targets * logits[:, :12].T.log_softmax(1)).sum(1).mean()
        ((forward + backward) / 2).backward()  # type: ignore[no-untyped-call]
        expected = {
            f"{name}.{key}": value.grad
            for name, part in other.trained.items()
            for key, value in part.named_parameters()
        }
    for key, value in found.items():
        if key != "log_scale":
            torch.testing.assert_close(value, expected[key], atol=1e-6, rtol=1e-4, msg=key)


def other_rows(run: Trainer, entries: list[Entry]) -> list[object]:
    return [Ready(entry, run._prepare(entry)) for entry in entries]


def test_dropout_is_the_same_in_both_passes(tmp_path: Path, png: Callable[..., bytes]) -> None:
    """A chunk embedded twice is given a gradient that belongs to what it was the first time."""
    data = pairs(png)
    with tuner(load(tmp_path, dropout=True), data, replace(SETTINGS, chunk_size=4)) as run:
        run._train(True)
        _, (chunk, *_) = run._drawn(0)
        first, second = run._forward(chunk), run._forward(chunk)
        run.done = 1
        assert torch.equal(first, second)
        assert not torch.allclose(first, run._forward(chunk))


def test_each_process_embeds_its_own_chunks_and_all_of_them_together_the_batch(
    tmp_path: Path, png: Callable[..., bytes]
) -> None:
    data = pairs(png)
    with tuner(load(tmp_path), data, replace(SETTINGS, chunk_size=4)) as run:
        entries = [Entry(Role.QUERY, (f"a {number}", None)) for number in range(21)]
        for world in (1, 2, 3):
            taken = []
            for rank in range(world):
                run._ranks = Ranks(rank, world)
                chunks = run._chunks(entries)
                assert len({len(run._chunks(entries)) for _ in range(2)}) == 1
                assert max(len(chunk.entries) for chunk in chunks) <= 4
                taken += [(chunk.places.start, entry) for chunk in chunks for entry in chunk.entries]
            assert sorted(entry.row[0] for _, entry in taken) == sorted(entry.row[0] for entry in entries)
        run._ranks = Ranks()


def test_training_lowers_the_loss_and_moves_what_it_should(tmp_path: Path, png: Callable[..., bytes]) -> None:
    data = pairs(png)
    retriever = load(tmp_path)
    before = {name: value.clone() for name, value in retriever.named_parameters()}
    with tuner(retriever, data, replace(SETTINGS, steps=30, train_backbones="text")) as run:
        losses = [run.step().loss for _ in range(30)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    moved = {name.split(".")[0] for name, value in retriever.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"sides", "text_tower"}


def test_states_from_the_cache_give_the_same_step(tmp_path: Path, png: Callable[..., bytes]) -> None:
    data = pairs(png)
    frozen = replace(SETTINGS, train_backbones="none")
    with tuner(load(tmp_path), data, frozen) as run:
        expected = run.step()
    retriever = load(tmp_path)
    cache = StateCache(retriever)
    rows = [row for one in data.examples for row in (one.query, one.document, *(row for _, row in one.negatives))]
    cache.add_texts([text for text, _ in rows if text], lambda _: None)
    cache.add_images(data.images, list(data.images), lambda _: None, together=4)
    with tuner(retriever, data, frozen, cache=cache) as run:
        assert run._prepare(Entry(Role.QUERY, data.examples[0].query)) is None
        found = run.step()
    assert found.loss == pytest.approx(expected.loss, rel=2e-3)  # states are kept as float16
    assert found.gradient_norm == pytest.approx(expected.gradient_norm, rel=2e-2)
    with tuner(retriever, data, replace(frozen, precision="bf16"), cache=cache) as run:
        run.step()  # autocast must leave the float16 of the cache alone


def test_embeddings_are_those_of_the_finished_model(tmp_path: Path, png: Callable[..., bytes]) -> None:
    from model.types import Input, Limits

    data = pairs(png)
    retriever = load(tmp_path, dropout=True)
    entries = [Entry(Role.QUERY, one.query) for one in data.examples]
    with tuner(retriever, data, replace(SETTINGS, chunk_size=5)) as run:
        run.step()  # which leaves dropout on
        found = run.embed(entries)
        retriever.eval()
        prepared = [
            retriever.prepare(Input(text, data.images[image] if image else None), Role.QUERY, Limits())
            for text, image in (entry.row for entry in entries)
        ]
    torch.testing.assert_close(found, torch.from_numpy(retriever.encode(prepared)), atol=1e-5, rtol=0)


def test_bfloat16_trains_on_a_cpu_and_fp16_is_refused_there(tmp_path: Path, png: Callable[..., bytes]) -> None:
    data = pairs(png)
    with tuner(load(tmp_path), data) as run:
        expected = run.step().loss
    with tuner(load(tmp_path), data, replace(SETTINGS, precision="bf16")) as run:
        assert run.step().loss == pytest.approx(expected, rel=0.05)
    with (
        pytest.raises(InvalidInput, match="fp16 needs CUDA"),
        tuner(load(tmp_path), data, replace(SETTINGS, precision="fp16")),
    ):
        pass


def test_a_restored_tuner_goes_on_as_if_it_never_stopped(tmp_path: Path, png: Callable[..., bytes]) -> None:
    data = pairs(png)
    with tuner(load(tmp_path, dropout=True), data, replace(SETTINGS, chunk_size=4)) as whole:
        losses = [whole.step().loss for _ in range(5)]
        expected = whole.tensors()
    with tuner(load(tmp_path, dropout=True), data, replace(SETTINGS, chunk_size=4)) as first:
        again = [first.step().loss for _ in range(2)]
        kept = {key: value.clone() for key, value in first.tensors().items()}
    with tuner(load(tmp_path, dropout=True), data, replace(SETTINGS, chunk_size=4)) as second:
        second.restore(kept)
        again += [second.step().loss for _ in range(3)]
        found = second.tensors()
    assert again == losses
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_queries_and_documents_go_through_a_shared_side_together(tmp_path: Path, png: Callable[..., bytes]) -> None:
    """Fewer products, each of more rows; sides of their own cannot."""
    calls: list[int] = []
    for shared, expected in ((True, 1), (False, 2)):
        config = replace(PLAIN, shared_sides=shared)
        retriever = Retriever.load(str(write_tiny_checkpoint(tmp_path / str(shared), config)))
        with tuner(retriever, pairs(png)) as run:
            entries = [Entry(role, (f"a {role}", None)) for role in Role]
            embed_alike = run._embed_alike
            run._embed_alike = lambda rows, *, apart, inner=embed_alike: (  # type: ignore[method-assign]
                calls.append(len(rows)) or inner(rows, apart=apart)
            )
            run.embed(entries)
        assert calls == [2] if expected == 1 else [1, 1]
        calls.clear()


def test_ignored_pairs_take_no_part_in_the_loss(tmp_path: Path, png: Callable[..., bytes]) -> None:
    """Whatever the similarity of an ignored pair is, the loss is the same."""
    with tuner(load(tmp_path), pairs(png)) as run:
        right = torch.eye(2)
        vectors = torch.nn.functional.normalize(torch.tensor([[1.0, 0.2], [0.1, 1.0], [1.0, 0.0], [0.5, 1.0]]), dim=-1)
        places = torch.tensor([0, 1]), torch.tensor([2, 3])
        both = Batch([], *places, right, right)
        logits = vectors[:2] @ vectors[2:].T * run.log_scale.exp()
        expected = -(logits.log_softmax(1).diag().mean() + logits.log_softmax(0).diag().mean()) / 2
        torch.testing.assert_close(run._loss(both, vectors[:, None]), expected)
        ignored = replace(both, ignored=torch.tensor([[False, True], [False, False]]))
        forward, backward = logits.log_softmax(1), logits.log_softmax(0)
        torch.testing.assert_close(run._loss(ignored, vectors[:, None]), -(forward[1, 1] + backward[0, 0]) / 4)


def test_the_average_of_the_steps_is_what_is_validated_and_it_is_restored(
    tmp_path: Path, png: Callable[..., bytes]
) -> None:
    data, settings = pairs(png), replace(SETTINGS, averaging=0.5)
    with tuner(load(tmp_path), data, settings) as run:
        latents = run.retriever.sides["shared"].cell.latents
        expected = latents.detach().clone()
        for step in range(4):
            run.step()
            kept = min(0.5, step / (step + 10))
            expected = kept * expected + (1 - kept) * latents.detach()
        weights = latents.detach().clone()
        with run.averaged():
            torch.testing.assert_close(latents.detach(), expected)
        assert torch.equal(latents, weights)
        assert not torch.equal(weights, expected)
        saved = {key: value.clone() for key, value in run.tensors().items()}
    with tuner(load(tmp_path), data, settings) as again:
        again.restore(saved)
        with again.averaged():
            torch.testing.assert_close(again.retriever.sides["shared"].cell.latents.detach(), expected)
