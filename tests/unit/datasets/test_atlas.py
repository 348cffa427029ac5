"""The committed benchmark is what its README says: whole, honest in its splits, and not solvable without the picture."""

from __future__ import annotations

import io
import math
import re
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from model.evaluation.atlas import FOLDER, Atlas

HELDOUT_ARTIST = "twemoji"


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return Atlas.read()


def artist(image_id: str) -> str:
    return image_id.rpartition("/")[2]


def test_size_and_licences() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12 * 2**20
    for named in re.findall(r"\]\((LICENSES/[^)]+)\)", (FOLDER / "ATTRIBUTION.md").read_text()):
        assert (FOLDER / named).stat().st_size > 500, named


def test_every_image_decodes_to_what_its_row_says(atlas: Atlas) -> None:
    rows = pq.read_table(FOLDER / "images.parquet").to_pylist()
    assert len({row["image_id"] for row in rows}) == len(rows)
    for row in rows:
        image = Image.open(io.BytesIO(row["png"]))
        image.load()
        assert image.size == (row["width"], row["height"])
        assert artist(row["image_id"]) == row["artist"]


def test_ids_texts_and_references(atlas: Atlas) -> None:
    assert len(atlas.by_id) == len(atlas.documents)
    assert len({document.text for document in atlas.documents}) == len(atlas.documents)
    for document in atlas.documents:
        assert document.image_id in atlas.images
        assert document.title in document.text
    for query in atlas.queries:
        positive = atlas.by_id[query.positive_id]
        assert (positive.subject, positive.topic, positive.split) == (query.subject, query.topic, query.split)
        assert {*query.image_ids, query.heldout_image_id} <= atlas.images.keys()


def test_splits_do_not_leak(atlas: Atlas) -> None:
    """A held-out (subject, topic) and the held-out artist occur nowhere in what is trained on."""
    trained = {(query.subject, query.topic) for query in atlas.queries if query.split == "train"}
    heldout = {(query.subject, query.topic) for query in atlas.queries if query.split == "heldout"}
    assert not trained & heldout
    assert 0.12 < len(heldout) / len(atlas.queries) < 0.22
    for query in atlas.queries:
        assert artist(query.heldout_image_id) == HELDOUT_ARTIST
        assert HELDOUT_ARTIST not in {artist(image) for image in query.image_ids}
    assert HELDOUT_ARTIST not in {artist(document.image_id) for document in atlas.documents}
    topics = defaultdict(set)
    for subject, topic in trained:
        topics[subject].add(topic)
    assert {subject for subject, _ in heldout} <= topics.keys()
    assert min(len(known) for known in topics.values()) >= 2


def test_questions_beside_a_picture_never_name_the_subject(atlas: Atlas) -> None:
    for query in atlas.queries:
        title = atlas.by_id[query.positive_id].title
        assert not re.search(rf"\b{re.escape(title.lower())}\b", query.question.lower())
        assert title in query.question_named
    wordings = defaultdict(set)
    for query in atlas.queries:
        wordings[query.question].add(query.subject)
    # The same words are asked of many subjects, so the words alone cannot tell which.
    assert min(len(subjects) for subjects in wordings.values()) > 20


def test_words_alone_do_not_find_the_answer(atlas: Atlas) -> None:
    """BM25 over all passages: by chance for questions that need the picture, well for those that name the subject."""
    scorer = Bm25([document.text for document in atlas.documents])
    heldout = [query for query in atlas.queries if query.split == "heldout"][::6]

    def recall_at_1(text: str) -> float:
        return sum(
            atlas.documents[scorer.best(getattr(query, text))].id == query.positive_id for query in heldout
        ) / len(heldout)

    assert recall_at_1("question") < 0.02
    assert recall_at_1("question_named") > 0.2


class Bm25:
    """Okapi BM25 with its usual constants."""

    def __init__(self, texts: list[str]) -> None:
        counts = [Counter(self.words(text)) for text in texts]
        mean = sum(sum(count.values()) for count in counts) / len(counts)
        frequency = Counter(word for count in counts for word in count)
        self.postings: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for place, count in enumerate(counts):
            norm = 1.2 * (0.25 + 0.75 * sum(count.values()) / mean)
            for word, number in count.items():
                rarity = math.log(1 + (len(texts) - frequency[word] + 0.5) / (frequency[word] + 0.5))
                self.postings[word].append((place, rarity * number * 2.2 / (number + norm)))

    @staticmethod
    def words(text: str) -> list[str]:
        return re.findall(r"\w+", text.lower())

    def best(self, text: str) -> int:
        scores: Counter[int] = Counter()
        for word in set(self.words(text)):
            for place, score in self.postings.get(word, ()):
                scores[place] += score
        return max(scores, key=lambda place: (scores[place], -place), default=0)


def test_no_two_subjects_share_their_drawings(atlas: Atlas) -> None:
    """By two artists or more, the rule of build.py; a stronger form over exact files for every artist pair."""
    seen: dict[bytes, set[str]] = defaultdict(set)
    for image_id, data in atlas.images.items():
        seen[data].add(image_id.rpartition("/")[0])
    shared = Counter(frozenset(subjects) for subjects in seen.values() if len(subjects) > 1)
    assert all(count == 1 for count in shared.values()), shared


def test_the_readme_counts_are_right(atlas: Atlas) -> None:
    readme = Path(FOLDER / "README.md").read_text()
    for part in ("flags", "emoji"):
        for split in ("train", "heldout"):
            count = sum(document.part == part and document.split == split for document in atlas.documents)
            assert f"| {part} | {split} | {count} |" in readme
