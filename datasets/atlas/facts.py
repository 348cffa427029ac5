"""What atlas says: passages about a country or an emoji, composed from the facts and glosses of the sources."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

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


# --- flags


def flag_facts(country: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Wordings of the passage by topic, for every fact that the source has. `names` of countries by their code of three letters."""
    name = country["name"]["common"]
    facts: dict[str, tuple[str, ...]] = {}
    if capital := join(country["capital"]):
        facts["capital"] = (
            f"The capital of {name} is {capital}.",
            f"{capital} is the capital of {name}.",
            f"{name} is governed from {capital}, its capital.",
        )
    currencies = country["currencies"] or {}
    if money := join([f"{item['name']} ({code})" for code, item in currencies.items()]):
        facts["currency"] = (
            f"The currency of {name} is the {money}.",
            f"In {name} people pay with the {money}.",
            f"Money in {name}: the {money}.",
        )
    languages = list((country["languages"] or {}).values())
    if spoken := join(languages):
        plural = "languages of {} are" if len(languages) > 1 else "language of {} is"
        are = "are" if len(languages) > 1 else "is"
        facts["languages"] = (
            f"The official {plural.format(name)} {spoken}.",
            f"{spoken} {are} spoken in {name}, officially.",
        )
    coast = "It is landlocked." if country["landlocked"] else "It has a coast."
    if country["subregion"]:
        facts["region"] = (
            f"{name} lies in {country['subregion']}, in the region {country['region']}. {coast}",
            f"On the map, {name} is found in {country['subregion']} ({country['region']}). {coast}",
        )
    facts["borders"] = border_passages(name, [names[code] for code in country["borders"] if code in names])
    if country["area"] and country["area"] > 0:
        area = f"{country['area']:,.0f}" if country["area"] >= 10 else f"{country['area']:g}"
        facts["area"] = (
            f"{name} covers an area of {area} square kilometres.",
            f"The area of {name} is {area} square kilometres.",
        )
    if code := calling_code(country["idd"]):
        facts["calling_code"] = (
            f"The international calling code of {name} is {code}.",
            f"Phone numbers in {name} begin with {code}.",
        )
    if country["tld"]:
        facts["internet_domain"] = (
            f"The internet domain of {name} is {country['tld'][0]}.",
            f"Web addresses in {name} end in {country['tld'][0]}.",
        )
    if demonym := (country["demonyms"].get("eng") or {}).get("m"):
        facts["demonym"] = (f"Someone from {name} is called {demonym}.", f"The demonym of {name} is {demonym}.")
    return facts


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


# --- emoji


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
