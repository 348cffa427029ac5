"""The rules that atlas is built by: on subjects made up here, and against the committed files, which have to follow from them."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import pyarrow.parquet as pq
import pytest
from facts import SENSES, border_passages, calling_code, drawn_sense, emoji_facts, flag_facts, join, parsed, wordnet
from rules import (
    HELDOUT_ARTIST,
    HELDOUT_PERCENT,
    MIN_TRAINED_TOPICS,
    QUESTIONS,
    SAME_FLAG,
    Subject,
    distinct,
    heldout_topics,
    pick,
    pictures,
    rows,
    without_borrowed,
)

from model.evaluation.atlas import FOLDER

Rows = list[dict[str, Any]]


def table(name: str) -> Rows:
    found: Rows = pq.read_table(FOLDER / f"{name}.parquet").to_pylist()
    return found


@pytest.fixture(scope="module")
def committed() -> list[Subject]:
    """The subjects of the committed files, as the builder had them when it wrote the rows; who is a UN member is not kept."""
    subjects: dict[str, Subject] = {}
    drawings: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
    for row in table("images"):
        drawings[row["subject"]][row["artist"]] = row["png"]
    for row in table("documents"):
        metadata = {key: value for key, value in json.loads(row["metadata"]).items() if key not in ("part", "topic")}
        subject = Subject(row["subject"], row["part"], row["title"], drawings[row["subject"]], metadata=metadata)
        subjects.setdefault(subject.id, subject).passages[row["topic"]] = row["text"]
    return list(subjects.values())


# --- the committed files


def test_every_committed_row_follows_from_its_subject(committed: list[Subject]) -> None:
    """Split, chosen drawing, wording of the question and what it shows, all of them."""
    pairs = [pair for subject in committed for pair in rows(subject)]
    assert [asdict(document) for document, _ in pairs] == table("documents")
    assert [asdict(query) for _, query in pairs] == table("queries")
    assert [asdict(picture) for subject in committed for picture in pictures(subject)] == table("images")


def test_passages_are_what_the_facts_beside_them_say(committed: list[Subject]) -> None:
    """Those of which the metadata has the facts: region and area of a country, group and code point of an emoji."""
    for subject in committed:
        known = subject.metadata
        if subject.part == "flags":
            country = COUNTRY | {key: known[key] for key in ("region", "subregion", "landlocked")}
            country |= {"name": {"common": known["country"]}, "area": known["area_km2"]}
            found = flag_facts(country, {})
            expected = {
                topic: found[topic][pick(f"{subject.id}/{topic}/passage", len(found[topic]))]
                for topic in ("region", "area") if topic in found
            }  # fmt: skip
        else:
            item = {"label": known["name"], "hexcode": subject.id.removeprefix("emoji:").upper(), "group": 0}
            expected = emoji_facts(item, known["group"], known["subgroup"], lambda *_: None)
        assert expected
        assert {topic: subject.passages[topic] for topic in expected} == expected


def test_no_two_committed_subjects_are_drawn_alike(committed: list[Subject]) -> None:
    """Every flag against every other; of the emoji one in eight, as all pairs would take ten seconds."""
    for part, every in (("flags", 1), ("emoji", 8)):
        some = [subject for subject in committed if subject.part == part][::every]
        assert len(some) > 100
        assert distinct(some, SAME_FLAG) == some


# --- what is held out


def subject(*topics: str, identifier: str = "flag:xx", **fields: Any) -> Subject:
    drawings = dict.fromkeys(("noto", "openmoji", HELDOUT_ARTIST), b"")
    return Subject(identifier, "flags", "Ruritania", drawings, {topic: f"{topic}." for topic in topics}, **fields)


def test_a_split_is_a_hash_of_subject_and_topic_and_leaves_enough_to_train_on() -> None:
    topics = ("area", "borders", "capital", "currency", "demonym", "languages", "region")
    many = [subject(*topics, identifier=f"flag:{number}") for number in range(300)]
    held = [heldout_topics(one) for one in many]
    assert HELDOUT_PERCENT - 3 < 100 * sum(map(len, held)) / (300 * len(topics)) < HELDOUT_PERCENT + 3
    # Neither the order of the topics nor what else there is to know changes the place of one.
    assert held == [heldout_topics(subject(*reversed(topics), identifier=one.id)) for one in many]
    for one, topics_held in zip(many, held, strict=True):
        fewer = heldout_topics(subject(*topics[1:], identifier=one.id))
        assert fewer == topics_held - {"area"} or len(topics_held) > len(topics) - 1 - MIN_TRAINED_TOPICS
    few = [heldout_topics(subject(*topics[:3], identifier=one.id)) for one in many]
    assert {len(one) for one in few} == {0, 1}
    assert any(len(held[place] & {*topics[:3]}) > 1 for place in range(300))  # so the bound had something to do
    assert not any(heldout_topics(subject(*topics[:MIN_TRAINED_TOPICS], identifier=one.id)) for one in many)


def test_the_heldout_artist_is_shown_in_the_test_alone() -> None:
    for number in range(50):
        for document, query in rows(subject("capital", "area", "region", identifier=f"flag:{number}")):
            assert document.image_id.rpartition("/")[2] in ("noto", "openmoji")
            assert [one.rpartition("/")[2] for one in query.image_ids] == ["noto", "openmoji"]
            assert query.heldout_image_id == f"flag/{number}/{HELDOUT_ARTIST}"
            assert (query.split, query.positive_id) == (document.split, document.id)


def test_a_question_that_needs_the_picture_does_not_name_the_subject() -> None:
    for topic, wordings in QUESTIONS.items():
        assert len(set(wordings)) == len(wordings), topic
        for wording in wordings:
            assert re.findall(r"{\w*}", wording) == ["{x}"], wording
            emoji = replace(subject(topic), part="emoji")
            for one, pointed, named in (
                (subject(topic), "this country", "Ruritania"),
                (emoji, "this emoji", "the “Ruritania” emoji"),
            ):
                assert one.asked(wording, named=False) == wording.format(x=pointed)
                assert one.asked(wording, named=True) == wording.format(x=named)


# --- what is too alike


@pytest.fixture
def drawn(make_image: Callable[..., bytes]) -> Callable[..., Subject]:
    def make(name: str, *colours: str, sovereign: bool = False) -> Subject:
        drawings = {
            artist: make_image(colour)
            for artist, colour in zip(("noto", "openmoji", HELDOUT_ARTIST), colours, strict=True)
        }
        return Subject(name, "flags", name, drawings, sovereign=sovereign)

    return make


def test_of_subjects_that_two_artists_draw_alike_the_one_un_member_stays(drawn: Callable[..., Subject]) -> None:
    def kept(*subjects: Subject) -> set[str]:
        return {subject.id for subject in distinct(list(subjects), SAME_FLAG)}

    norway, bouvet = drawn("norway", "red", "red", "blue", sovereign=True), drawn("bouvet", "red", "red", "green")
    assert kept(norway, bouvet) == {"norway"}
    assert kept(replace(norway, sovereign=False), bouvet) == set()
    assert kept(norway, drawn("monaco", "red", "red", "red", sovereign=True)) == set()
    assert kept(norway, drawn("chad", "red", "white", "black")) == {"norway", "chad"}  # one artist alone
    # Alike by way of a third: none of the three can be told apart.
    first, second = drawn("first", "red", "blue", "green"), drawn("second", "red", "blue", "white")
    assert kept(first, second, drawn("third", "gray", "blue", "white")) == set()
    # Nearly the same is the same, a difference that shows is not.
    assert kept(norway, drawn("near", "#fc0202", "#ff0303", "green")) == {"norway"}
    assert kept(norway, drawn("far", "#e00000", "#e00000", "green")) == {"norway", "far"}


def test_a_territory_loses_a_drawing_that_is_a_un_members_own(drawn: Callable[..., Subject]) -> None:
    france, reunion = drawn("france", "blue", "white", "red", sovereign=True), drawn("reunion", "blue", "gray", "red")
    other = drawn("germany", "black", "gray", "yellow", sovereign=True)
    france, reunion, other = without_borrowed([france, reunion, other])
    # Gray is Germany's; what the test shows is not looked at here, two artists alike would have dropped the subject.
    assert set(reunion.drawings) == {HELDOUT_ARTIST}
    assert len(france.drawings) == len(other.drawings) == 3


# --- passages

COUNTRY: Mapping[str, Any] = {
    "name": {"common": "Ruritania"},
    "capital": ["Strelsau"],
    "currencies": {"RTK": {"name": "Krone"}},
    "languages": {"deu": "German", "cze": "Czech"},
    "landlocked": True,
    "subregion": "Central Europe",
    "region": "Europe",
    "borders": ["ZEN", "ALA", "???"],
    "area": 12345.6,
    "idd": {"root": "+9", "suffixes": ["9"]},
    "tld": [".rt", ".ruri"],
    "demonyms": {"eng": {"m": "Ruritanian"}},
}


def test_passages_of_a_country_name_it_and_its_facts() -> None:
    facts = flag_facts(COUNTRY, {"ZEN": "Zenda", "ALA": "Alania"})
    assert {topic: wordings[0] for topic, wordings in facts.items()} == {
        "capital": "The capital of Ruritania is Strelsau.",
        "currency": "The currency of Ruritania is the Krone (RTK).",
        "languages": "The official languages of Ruritania are German and Czech.",
        "region": "Ruritania lies in Central Europe, in the region Europe. It is landlocked.",
        "borders": "Ruritania borders Alania and Zenda.",
        "area": "Ruritania covers an area of 12,346 square kilometres.",
        "calling_code": "The international calling code of Ruritania is +99.",
        "internet_domain": "The internet domain of Ruritania is .rt.",
        "demonym": "Someone from Ruritania is called Ruritanian.",
    }
    assert all("Ruritania" in wording for wordings in facts.values() for wording in wordings)
    assert facts.keys() <= QUESTIONS.keys()
    unknown = dict.fromkeys(("currencies", "languages", "subregion"), None) | {
        "capital": [],
        "area": -1,
        "idd": {},
        "tld": [],
    }
    assert flag_facts(COUNTRY | unknown | {"borders": [], "demonyms": {}}, {}) == {
        "borders": border_passages("Ruritania", [])
    }


def test_lists_and_calling_codes() -> None:
    assert [join([]), join(["a"]), join(["a", "b"]), join(["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
    assert calling_code({"root": "+1", "suffixes": ["201", "202"]}) == "+1"  # many areas share a numbering plan
    assert calling_code({"root": "+1", "suffixes": ["242"]}) == "+1242"
    assert calling_code({"root": "+3", "suffixes": ["906", "79"]}) == "+3906 and +379"


def test_a_gloss_is_of_the_sense_that_is_drawn() -> None:
    senses = [("18", "a contemptible man"), ("05", "a rodent"), ("05", "fur of it"), ("06", "a pointing device")]
    assert drawn_sense("rat", 3, senses) == "a rodent"  # an animal among the animals
    assert drawn_sense("rat", 6, senses) == "a pointing device"
    assert drawn_sense("rat", 0, senses) == "a contemptible man"  # no preference: the first
    assert drawn_sense("rat", 3, []) is None
    assert SENSES["dolphin"] == ("05", 1)
    assert drawn_sense("dolphin", 3, senses) == "fur of it"  # read by eye
    assert SENSES["mate"] is None
    assert drawn_sense("mate", 4, senses) is None


def test_wordnet_is_read_without_examples_and_insults(tmp_path: Any) -> None:
    data = [
        '00000001 18 n 01 rat 0 000 | (offensive) a man; "you rat"\n',
        '00000002 05 n 01 rat 0 000 | (used in the plural) a long-tailed rodent.; "the rat ran"\n',
    ]
    (tmp_path / "data.noun").write_text("".join(data))
    (tmp_path / "index.noun").write_text(f"  1 a licence\nbrown_rat n 2 0 2 0 0 {len(data[0]):08}\n")
    assert parsed(data[1].strip()) == ("05", "a long-tailed rodent")
    gloss = wordnet(tmp_path)
    assert gloss("Brown rat", 3) == gloss("brown rat", 0) == "a long-tailed rodent"
    assert gloss("cat", 3) is None
