"""Documents of several parts on their way into the index: passages, images, what is cut off and what fails."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ledger_steps import pages

from indexer.blobs.image_store import Swept
from indexer.domain.collections import PassageSettings
from indexer.domain.documents import Incoming
from indexer.domain.incoming import MAX_IMAGES
from indexer.domain.jobs import JobState
from indexer.domain.points import MAX_PARTS, Part, Point, mean_of
from indexer.worker.image_sweeper import Sweeper
from model.errors import InvalidInput

# The fake encoder reads 100 words.
SENTENCES = [f"Sentence {number} has six words here." for number in range(40)]
TEXT = " ".join(SENTENCES)
SPANS = [(0, len(" ".join(SENTENCES[:16])))]
SPANS.append((SPANS[0][1] + 1, SPANS[0][1] + 1 + len(" ".join(SENTENCES[16:32]))))
SPANS.append((SPANS[1][1] + 1, len(TEXT)))


def point(world: Any, key: str) -> Point:
    stored: Point = world.store.kept["c"][1][key]
    return stored


async def index(world: Any, *documents: Incoming) -> Any:
    return await world.done(await world.post(*documents))


async def test_a_long_text_is_one_point_of_its_passages(world: Any, embedded: Any) -> None:
    job = await index(world, Incoming(0, id="long", text=TEXT), Incoming(1, id="short", text="few words"))
    assert (job.state, job.indexed, job.truncated) == (JobState.SUCCEEDED, 2, 0)
    long, short = point(world, "long"), point(world, "short")
    assert [(part.start, part.end, part.image) for part in long.parts] == [(*span, None) for span in SPANS]
    expected = np.stack([embedded(TEXT[start:end]) for start, end in SPANS])
    np.testing.assert_allclose(long.vectors, expected, atol=1e-6)
    np.testing.assert_allclose(long.vector, mean_of(expected), atol=1e-6)
    assert long.text == TEXT
    assert (short.parts, short.part_vectors) == ((), None)
    np.testing.assert_allclose(short.vector, embedded("few words"), atol=1e-6)


async def test_the_first_image_is_with_each_passage_and_the_others_with_the_first(world: Any, embedded: Any) -> None:
    world.fetcher.pages["https://host/b.png"] = b"two"
    more = ("https://host/b.png", b"three")
    await index(world, Incoming(0, id="a", text=TEXT, image=b"one", more_images=more))
    stored = point(world, "a")
    places = [(0, 0), (1, 0), (2, 0), (0, 1), (0, 2)]
    assert [(part.start, part.end, part.image) for part in stored.parts] == [(*SPANS[s], i) for s, i in places]
    images = [await world.blobs.get(digest) for digest in stored.digests]
    assert images == [b"one", b"two", b"three"]
    expected = np.stack([embedded(TEXT[slice(*SPANS[span])], images[image]) for span, image in places])
    np.testing.assert_allclose(stored.vectors, expected, atol=1e-6)


async def test_images_without_a_text_are_parts_of_their_own(world: Any, embedded: Any) -> None:
    await index(world, Incoming(0, id="a", image=b"one", more_images=(b"two",)))
    stored = point(world, "a")
    assert [(part.start, part.end, part.image) for part in stored.parts] == [(None, None, 0), (None, None, 1)]
    np.testing.assert_allclose(stored.vectors, np.stack([embedded(None, b"one"), embedded(None, b"two")]), atol=1e-6)


async def test_what_is_cut_off_is_counted(world: Any) -> None:
    await world.catalog.create("c", passages=PassageSettings(enabled=False))
    job = await world.post(Incoming(0, id="long", text=TEXT), Incoming(1, id="short", text="few words"))
    done = await world.done(job)
    assert done.truncated == 1
    assert point(world, "long").parts == ()
    (results,) = pages(world.ledger, job.id)
    assert [result.truncated for result in results] == [40 * 6 - 100, 0]


async def test_a_document_has_so_many_parts_and_no_more(world: Any) -> None:
    await world.catalog.create("c", passages=PassageSettings(tokens=12))
    text = " ".join(SENTENCES * 4)  # 80 passages of two sentences
    job = await world.post(Incoming(0, id="a", text=text, image=b"one", more_images=(b"two", b"three")))
    assert (await world.done(job)).truncated == 1
    stored = point(world, "a")
    assert len(stored.parts) == MAX_PARTS
    assert [part.image for part in stored.parts] == [0] * (MAX_PARTS - 2) + [1, 2]
    (results,) = pages(world.ledger, job.id)
    assert [result.truncated for result in results] == [(80 - MAX_PARTS + 2) * 12]


async def test_passages_overlap_as_the_collection_says(world: Any) -> None:
    await world.catalog.create("c", passages=PassageSettings(tokens=18, overlap=6))
    await index(world, Incoming(0, id="a", text=" ".join(SENTENCES[:5])))
    spans = [" ".join(SENTENCES[:5])[part.start : part.end] for part in point(world, "a").parts]
    assert spans == [" ".join(SENTENCES[:3]), " ".join(SENTENCES[2:5])]


async def test_a_part_that_fails_fails_its_document_alone_and_is_named(world: Any) -> None:
    job = await world.post(
        Incoming(0, id="a", text="text", image=b"one", more_images=(b"two", b"bad picture")),
        Incoming(1, id="b", text="good"),
    )
    done = await world.done(job)
    assert (done.indexed, done.failed) == (1, 1)
    (failure,) = await world.ledger.jobs.failures(job.id)
    assert (failure.document_id, failure.detail) == ("a", "image 3 of 3: a bad image")
    assert "a" not in world.store.kept["c"][1]


async def test_a_failed_document_is_retried_with_all_its_images(world: Any) -> None:
    job = await world.post(Incoming(0, id="a", image=b"one", more_images=(b"two", "https://host/later.png")))
    assert (await world.done(job)).failed == 1
    world.fetcher.pages["https://host/later.png"] = b"three"
    again, _ = await world.ledger.retries.start(job.id)
    world.wakeups.work_arrived()
    await world.done(again)
    assert [await world.blobs.get(digest) for digest in point(world, "a").digests] == [b"one", b"two", b"three"]


async def test_documents_are_written_again_when_a_further_image_or_the_cut_changes(world: Any) -> None:
    document = Incoming(0, id="a", text=TEXT, image=b"one", more_images=(b"two",))
    assert (await index(world, document)).indexed == 1
    assert (await index(world, document)).skipped == 1
    assert (await index(world, replace(document, more_images=(b"other",)))).indexed == 1
    await world.catalog.change("c", {"passages": PassageSettings(tokens=50)})
    assert (await index(world, replace(document, more_images=(b"other",)))).indexed == 1
    assert len(point(world, "a").parts) == 6


async def test_a_document_larger_than_the_encoders_room_gets_in(world: Any) -> None:
    world.encoder.room = 5
    await world.catalog.create("c", passages=PassageSettings(tokens=12))
    assert (await index(world, Incoming(0, id="a", text=TEXT))).indexed == 1
    assert len(point(world, "a").parts) == 20


async def test_a_collection_of_before_has_one_embedding_a_document(world: Any, embedded: Any) -> None:
    await world.collection()
    layout, kept = world.store.kept["c"]
    world.store.kept["c"] = replace(layout, parts=False), kept
    job = await world.post(
        Incoming(0, id="long", text=TEXT), Incoming(1, id="images", image=b"one", more_images=(b"two",))
    )
    done = await world.done(job)
    assert (done.indexed, done.failed, done.truncated) == (1, 1, 1)
    np.testing.assert_allclose(point(world, "long").vectors, [embedded(TEXT)], atol=1e-6)
    (failure,) = await world.ledger.jobs.failures(job.id)
    assert "2 images, and its collection was made before" in failure.detail


async def test_images_of_all_parts_are_kept_while_somebody_refers_to_them(make_world: Any, tmp_path: Path) -> None:
    world = make_world()
    job = await world.post(Incoming(0, id="a", image=b"one", more_images=(b"two", b"three")))
    for image in (path for path in (tmp_path / "blobs").rglob("*") if path.is_file()):
        os.utime(image, (0, 0))
    sweeper = Sweeper(world.ledger, world.store, world.blobs, 60.0)
    assert await sweeper.sweep() == Swept(3, 0, 0), "of a batch that waits"
    await world.start_worker()
    await world.done(job)
    assert len(point(world, "a").digests) == 3
    assert await sweeper.sweep() == Swept(3, 0, 0), "of a point"
    await world.done(await world.intake.delete(await world.collection(), ["a"]))
    assert (await sweeper.sweep()).deleted == 3


@pytest.mark.parametrize(
    ("passages", "field"),
    [(PassageSettings(tokens=101), "passages.tokens"), (PassageSettings(tokens=20, overlap=11), "passages.overlap")],
)
async def test_passages_that_cannot_be_are_refused(world: Any, passages: PassageSettings, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        await world.catalog.create("c", passages=passages)
    assert refused.value.field == field
    await world.catalog.create("c")
    with pytest.raises(InvalidInput):
        await world.catalog.change("c", {"passages": passages})


def test_bounds_agree() -> None:
    assert MAX_IMAGES < MAX_PARTS
    assert Part() == Part(None, None, None, None)
