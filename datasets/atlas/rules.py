"""The rules of atlas: how subjects are asked about, which are too alike, what is held out, and the rows that follow.

Every choice is a hash of the row's own id, so that a change of one subject leaves the others as they are.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from PIL import Image

HELDOUT_ARTIST = "twemoji"
HELDOUT_PERCENT = 18
MIN_TRAINED_TOPICS = 2
# Two drawings this close (mean absolute difference of 24 x 24 thumbnails, 0 to 255) are taken for one.
SAME_FLAG, SAME_EMOJI = 5.0, 5.0
# By part: inside a question that stands alone, and inside one that needs the picture.
SPOKEN_OF = {"flags": ("{}", "this country"), "emoji": ("the “{}” emoji", "this emoji")}

QUESTIONS: dict[str, tuple[str, ...]] = {
    "capital": (
        "What is the capital of {x}?",
        "Which city is the capital of {x}?",
        "From which city is {x} governed?",
        "Name the capital city of {x}.",
    ),
    "currency": (
        "Which currency is used in {x}?",
        "What money do people pay with in {x}?",
        "What is the currency of {x}?",
        "With what does one pay in the shops of {x}?",
    ),
    "languages": (
        "Which languages are official in {x}?",
        "What is spoken in {x}?",
        "What language do people speak in {x}?",
        "Which language should I learn before going to {x}?",
    ),
    "region": (
        "In which part of the world is {x}?",
        "Where on the map is {x}?",
        "To which continent and region does {x} belong?",
        "Does {x} have a coast, and where does it lie?",
    ),
    "borders": (
        "Which countries does {x} border?",
        "Who are the neighbours of {x}?",
        "With whom does {x} share a land border?",
        "Which countries lie next to {x}?",
    ),
    "area": (
        "How large is {x}?",
        "What is the area of {x}?",
        "How many square kilometres does {x} cover?",
        "How big is {x}?",
    ),
    "calling_code": (
        "What is the telephone code of {x}?",
        "Which prefix do I dial to call {x}?",
        "What is the international calling code of {x}?",
        "How do phone numbers in {x} begin?",
    ),
    "internet_domain": (
        "What is the internet domain of {x}?",
        "How do web addresses in {x} end?",
        "Which top-level domain belongs to {x}?",
        "What is the country code domain of {x}?",
    ),
    "demonym": (
        "What are people from {x} called?",
        "What does one call someone from {x}?",
        "What is the demonym of {x}?",
        "How are the inhabitants of {x} called?",
    ),
    "meaning": (
        "What does {x} show, in the words of a dictionary?",
        "How does a dictionary define what {x} shows?",
        "What is the definition of the thing in {x}?",
        "Explain what {x} shows.",
    ),
    "keywords": (
        "Which keywords go with {x}?",
        "With which words can {x} be found?",
        "What is {x} tagged with?",
        "Which words are linked to {x}?",
    ),
    "group": (
        "To which group of emoji does {x} belong?",
        "Under which category is {x} filed?",
        "In what section of the emoji list is {x}?",
        "How is {x} classified?",
    ),
    "code_point": (
        "What is the Unicode code point of {x}?",
        "Which code point does {x} have?",
        "How is {x} encoded in Unicode?",
        "Give the Unicode number of {x}.",
    ),
}


def pick(key: str, count: int) -> int:
    """A number below `count` that depends on `key` alone."""
    return zlib.crc32(key.encode()) % count


@dataclass
class Subject:
    """A country or an emoji: its drawings by artist, its passages and what is known of it."""

    id: str
    part: str
    name: str
    drawings: dict[str, bytes]
    passages: dict[str, str] = field(default_factory=dict)  # by topic
    metadata: dict[str, Any] = field(default_factory=dict)
    sovereign: bool = False

    def asked(self, wording: str, *, named: bool) -> str:
        """A question about it: one that stands alone where it is `named`, else one that needs the picture."""
        name, pointed = SPOKEN_OF[self.part]
        return wording.format(x=name.format(self.name) if named else pointed)


# --- subjects that are too alike


def distinct(subjects: list[Subject], threshold: float) -> list[Subject]:
    """Without subjects whose drawing is also another's, by at least two artists: the one UN member of such a group stays, else none."""
    thumbnails = {
        subject.id: {artist: thumbnail(data) for artist, data in subject.drawings.items()} for subject in subjects
    }
    group_of = {subject.id: {subject.id} for subject in subjects}
    for left, right in combinations(subjects, 2):
        pairs = [
            (thumbnails[left.id][artist], thumbnails[right.id][artist])
            for artist in left.drawings
            if artist in right.drawings
        ]
        if sum(float(np.abs(a - b).mean()) < threshold for a, b in pairs) >= 2:
            merged = group_of[left.id] | group_of[right.id]
            for member in merged:
                group_of[member] = merged
    sovereign = {subject.id for subject in subjects if subject.sovereign}
    kept = []
    for subject in subjects:
        group = group_of[subject.id]
        if len(group) == 1 or (subject.id in sovereign and len(group & sovereign) == 1):
            kept.append(subject)
        else:
            print(f"dropped {subject.name}: drawn like {', '.join(sorted(group - {subject.id}))}")
    return kept


def without_borrowed(subjects: list[Subject]) -> list[Subject]:
    """Takes from a territory the drawing that is a UN member's own: one artist draws Réunion with the flag of France."""
    for territory in (subject for subject in subjects if not subject.sovereign):
        own = {artist: thumbnail(data) for artist, data in territory.drawings.items() if artist != HELDOUT_ARTIST}
        for member in (subject for subject in subjects if subject.sovereign):
            for artist, drawing in own.items():
                same = float(np.abs(drawing - thumbnail(member.drawings[artist])).mean()) < SAME_FLAG
                if same and artist in territory.drawings:
                    del territory.drawings[artist]
                    print(f"{territory.name} loses its drawing by {artist}: it is that of {member.name}")
    return subjects


def thumbnail(data: bytes) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.asarray(
        Image.open(io.BytesIO(data)).convert("RGB").resize((24, 24), Image.Resampling.BOX), dtype=np.float32
    )


# --- rows


@dataclass
class Document:
    id: str
    part: str
    subject: str
    topic: str
    title: str
    text: str
    image_id: str
    split: str
    metadata: str


@dataclass
class Query:
    id: str
    part: str
    subject: str
    topic: str
    question: str
    question_named: str
    image_ids: list[str]
    heldout_image_id: str
    positive_id: str
    split: str


@dataclass
class Picture:
    image_id: str
    part: str
    subject: str
    artist: str
    width: int
    height: int
    png: bytes


def image_id(subject: Subject, artist: str) -> str:
    return f"{subject.id.replace(':', '/')}/{artist}"


def pictures(subject: Subject) -> Iterator[Picture]:
    for artist, data in sorted(subject.drawings.items()):
        width, height = Image.open(io.BytesIO(data)).size
        yield Picture(image_id(subject, artist), subject.part, subject.id, artist, width, height, data)


def rows(subject: Subject) -> Iterator[tuple[Document, Query]]:
    trained_artists = sorted(artist for artist in subject.drawings if artist != HELDOUT_ARTIST)
    heldout = heldout_topics(subject)
    for topic, passage in sorted(subject.passages.items()):
        identifier = f"{subject.id}/{topic}"
        split = "heldout" if topic in heldout else "train"
        shown = trained_artists[pick(f"{identifier}/artist", len(trained_artists))]
        metadata = json.dumps({**subject.metadata, "part": subject.part, "topic": topic}, ensure_ascii=False)
        document = Document(
            identifier,
            subject.part,
            subject.id,
            topic,
            subject.name,
            passage,
            image_id(subject, shown),
            split,
            metadata,
        )
        wordings = QUESTIONS[topic]
        wording = wordings[pick(f"{identifier}/question", len(wordings))]
        yield (
            document,
            Query(
                id=f"{identifier}/query",
                part=subject.part,
                subject=subject.id,
                topic=topic,
                question=subject.asked(wording, named=False),
                question_named=subject.asked(wording, named=True),
                image_ids=[image_id(subject, artist) for artist in trained_artists],
                heldout_image_id=image_id(subject, HELDOUT_ARTIST),
                positive_id=identifier,
                split=split,
            ),
        )


def heldout_topics(subject: Subject) -> set[str]:
    """Topics by hash, as many as leave the subject enough trained ones."""
    ranked = sorted(subject.passages, key=lambda topic: pick(f"{subject.id}/{topic}/split", 2**32))
    chosen = [topic for topic in ranked if pick(f"{subject.id}/{topic}/split", 100) < HELDOUT_PERCENT]
    return set(chosen[: max(0, len(subject.passages) - MIN_TRAINED_TOPICS)])
