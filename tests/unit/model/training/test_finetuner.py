"""One fine-tuning step: its gradient is the whole batch's however it is cut, its batch follows the labels, and it repeats exactly."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_model import CONFIG, write_tiny_checkpoint

from model.errors import InvalidInput
from model.retriever import Retriever
from model.training.atlas_trainer import StateCache
from model.training.distributed import Ranks
from model.training.finetune_batch import Entry, Order, draw, relevance
from model.training.finetuner import FineTuner, FineTuneSettings, hits
from model.training.pairs import Example, Images, Pairs
from model.types import Role

SETTINGS = FineTuneSettings(
    steps=8,
    batch_size=6,
    chunk_size=64,
    learning_rate=3e-3,
    train_text=True,
    train_vision=True,
    tower_learning_rate=1e-3,
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
    retriever: Retriever, data: Pairs, settings: FineTuneSettings = SETTINGS, ranks: Ranks | None = None, **more: object
) -> Iterator[FineTuner]:
    made = FineTuner(retriever, data.examples, data.labels(), data.images, settings, ranks or Ranks(), **more)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.close()


def gradients(run: FineTuner) -> dict[str, torch.Tensor]:
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
        vectors = torch.cat([other._embed_alike([ready]) for ready in other_rows(other, batch.entries)])
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


def other_rows(run: FineTuner, entries: list[Entry]) -> list[object]:
    from model.training.finetuner import Ready

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
    with tuner(retriever, data, replace(SETTINGS, steps=30, train_vision=False)) as run:
        losses = [run.step().loss for _ in range(30)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    moved = {name.split(".")[0] for name, value in retriever.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"sides", "text_tower"}


def test_states_from_the_cache_give_the_same_step(tmp_path: Path, png: Callable[..., bytes]) -> None:
    data = pairs(png)
    frozen = replace(SETTINGS, train_text=False, train_vision=False)
    with tuner(load(tmp_path), data, frozen) as run:
        expected = run.step()
    retriever = load(tmp_path)
    cache = StateCache(retriever)
    rows = [row for one in data.examples for row in (one.query, one.document, *(row for _, row in one.negatives))]
    cache.add_texts([text for text, _ in rows if text], lambda _: None)
    cache.add_images(data.images, 1, random.Random(0), lambda _: None, together=4)
    with tuner(retriever, data, frozen, cache=cache, cached=(True, True)) as run:
        assert run._prepare(Entry(Role.QUERY, data.examples[0].query)) is None
        found = run.step()
    assert found.loss == pytest.approx(expected.loss, rel=2e-3)  # states are kept as float16
    assert found.gradient_norm == pytest.approx(expected.gradient_norm, rel=2e-2)
    with tuner(retriever, data, replace(frozen, precision="bf16"), cache=cache, cached=(True, True)) as run:
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


def test_a_label_makes_several_documents_right() -> None:
    labels = {"d1": {"x"}, "d2": {"x", "y"}, "d3": {"z"}}
    right = relevance(["x", "y", "x"], ["d1", "d2", "d3", "unknown"], labels)
    assert right.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0]]


def test_a_batch_has_soft_targets_and_hard_negatives() -> None:
    negative = ("other", ("a negative", None))
    first = Example(("q1", None), ("d1", None), "d1", "x", (negative,))
    second = Example(("q2", None), ("d2", None), "d2", "x")
    third = Example(("q3", None), ("d3", None), "d3", "d3", (("d1", ("d1", None)),))
    labels = Pairs([first, second, third], Images()).labels()
    batch = draw([first, second, third], labels, negatives=1, keep_both=1.0, rng=random.Random(0))
    rows = [batch.entries[place].row[0] for place in batch.documents]
    assert rows == ["d1", "d2", "d3", "a negative"]  # d1, a negative of the third pair, is there already
    # Both documents of the label are right.
    assert batch.targets.tolist() == [[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 1, 0]]
    assert batch.document_targets.tolist() == [[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]]
    without = draw([first], labels, negatives=0, keep_both=1.0, rng=random.Random(0))
    assert (len(without.entries), len(without.documents)) == (2, 1)


def test_a_document_of_two_labels_answers_both_but_its_labels_are_not_one() -> None:
    first, second, third = (
        Example((f"q{number}", None), (key, None), key, label)
        for number, (key, label) in enumerate([("d1", "x"), ("d1", "y"), ("d3", "x")])
    )
    labels = Pairs([first, second, third], Images()).labels()
    batch = draw([first, second, third], labels, negatives=0, keep_both=1.0, rng=random.Random(0))
    third_each = pytest.approx([1 / 3] * 3)
    assert batch.targets.tolist() == [third_each, [0.5, 0.5, 0], third_each]
    assert batch.document_targets.tolist() == [third_each, third_each, [0.5, 0, 0.5]]


def test_what_stands_twice_in_a_batch_is_embedded_once() -> None:
    one = Example(("q", None), ("d", None), "d", "d")
    batch = draw([one, one], {"d": {"d"}}, negatives=0, keep_both=1.0, rng=random.Random(0))
    assert len(batch.entries) == 2
    assert batch.queries.tolist() in ([0, 0], [1, 1])
    assert batch.targets.tolist() == [[0.5, 0.5]] * 2


def test_inputs_of_both_kinds_lose_one_of_them_as_often_as_asked() -> None:
    example = Example(("q", "i"), ("d", None), "d", "d")
    kinds = {
        draw([example], {"d": {"d"}}, negatives=0, keep_both=0.5, rng=random.Random(seed)).entries[-1].row
        for seed in range(30)
    }
    assert kinds == {("q", "i"), ("q", None), (None, "i")}


def test_an_epoch_has_every_pair_once_in_an_order_of_its_own() -> None:
    order = Order(10, 4, seed=1)
    stream = [place for step in range(5) for place in order.places(step)]
    assert sorted(stream[:10]) == sorted(stream[10:]) == list(range(10))
    assert stream[:10] != stream[10:]
    assert Order(10, 4, seed=1).places(3) == stream[12:16]  # a resumed run asks for a later step first


def test_recall_counts_any_document_with_the_label() -> None:
    documents = torch.eye(12)
    answers = [{f"l{number}"} for number in range(12)]
    queries = torch.stack([documents[0], documents[1] + 0.5 * documents[2], documents[3], torch.arange(12.0)])
    found = hits(queries, documents, ["l0", "l2", "nothing", "l0"], answers)
    assert found == {1: 0.25, 5: 0.5, 10: 0.5}
