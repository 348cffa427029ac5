"""States of frozen towers, computed once for every text and image of a data set: each step reads the same ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoints.weights import read_tensors, save_tensors
from model.images.decoding import decode_image
from model.preprocess import image_pixels, normalise_text
from model.retriever import Retriever
from model.states import States
from model.towers.towers import Modality, with_prefix
from model.training.pairs import Row
from model.types import Limits, Role

_TEXTS_A_PASS = 64


class StateCache:
    """Float16 states on the CPU; empty until texts or images are added.

    They stay in one large tensor per layer: tens of thousands of small tensors among the towers' own left ten times
    their size in unusable gaps of the heap, and a batch is taken out with one operation.
    """

    def __init__(self, retriever: Retriever) -> None:
        self._retriever = retriever
        self._text_layers: list[Tensor] = []  # (tokens of all texts, Wt)
        self._spans: dict[str, tuple[int, int, int]] = {}  # first token, number of tokens, place among the texts
        self._image_layers: list[Tensor] = []  # (images, P, Wv)
        # The features (E) of a dual encoder's towers, in float32: embeddings begin with them.
        self._text_features: list[Tensor] = []
        self._image_features: list[Tensor] = []
        self._places: dict[str, int] = {}

    @property
    def has_texts(self) -> bool:
        return bool(self._spans)

    @property
    def has_images(self) -> bool:
        return bool(self._places)

    @torch.inference_mode()
    def add_texts(self, texts: Iterable[str], report: Callable[[int], None]) -> None:
        """Add every text of the data set, in one call."""
        preprocessor = self._retriever.preprocessor
        tokens = {text: preprocessor.tokens(normalise_text(text, Limits()))[0] for text in dict.fromkeys(texts)}
        ordered = sorted(tokens, key=lambda text: len(tokens[text]))
        room = [
            torch.empty(sum(map(len, tokens.values())), width, dtype=torch.float16) for width in self._widths("text")
        ]
        filled = 0
        features: list[Tensor] = []
        for start in range(0, len(ordered), _TEXTS_A_PASS):
            batch = ordered[start : start + _TEXTS_A_PASS]
            layers, mask = self._retriever.text_states([tokens[text] for text in batch])
            features += layers[len(room) :]
            for row, text in enumerate(batch):
                self._spans[text] = filled, len(tokens[text]), start + row
                end = filled + len(tokens[text])
                for whole, layer in zip(room, layers, strict=False):
                    whole[filled:end] = layer[row, mask[row]]
                filled = end
            report(len(batch))
        self._text_layers = room
        self._text_features = _joined(features)

    @torch.inference_mode()
    def add_images(
        self, images: Mapping[str, bytes], keys: Sequence[str], report: Callable[[int], None], together: int = 1
    ) -> None:
        """Add every image of the data set, in one call: `together` of them in a pass of the tower."""
        config, patches = self._retriever.config.image, self._retriever.vision_tower.patches
        room = [torch.empty(len(keys), patches, width, dtype=torch.float16) for width in self._widths("vision")]
        features: list[Tensor] = []
        for start in range(0, len(keys), together):
            batch = keys[start : start + together]
            pixels = [image_pixels(decode_image(images[key], Limits()), config) for key in batch]
            layers = self._retriever.vision_states(pixels)
            features += layers[len(room) :]
            for whole, layer in zip(room, layers, strict=False):
                whole[start : start + len(batch)] = layer
            report(len(batch))
        self._image_layers = room
        self._image_features = _joined(features)
        self._places = {key: place for place, key in enumerate(keys)}

    def save(self, path: Path) -> None:
        """Write all of it into one file of safetensors, the names of texts and images as JSON in a tensor."""
        names = json.dumps([list(self._spans), list(self._places)]).encode()
        tensors = {
            f"{group}.{number}": tensor
            for group, parts in self._groups().items()
            for number, tensor in enumerate(parts)
        }
        tensors["spans"] = torch.tensor(list(self._spans.values()), dtype=torch.long)
        tensors["names"] = torch.frombuffer(bytearray(names), dtype=torch.uint8)
        save_tensors(path, tensors)

    @classmethod
    def load(cls, retriever: Retriever, path: Path) -> StateCache:
        """Read what `save` wrote for a model with the same towers."""
        tensors = read_tensors(path)
        texts, images = json.loads(bytes(tensors.pop("names").tolist()))
        cache = cls(retriever)
        spans = tensors.pop("spans").tolist()
        cache._spans = {text: (span[0], span[1], span[2]) for text, span in zip(texts, spans, strict=True)}
        cache._places = {image: place for place, image in enumerate(images)}
        for group, parts in cache._groups().items():
            parts += [tensors[f"{group}.{number}"] for number in range(len(with_prefix(tensors, f"{group}.")))]
        return cache

    def _groups(self) -> dict[str, list[Tensor]]:
        return {
            "text": self._text_layers,
            "image": self._image_layers,
            "text_feature": self._text_features,
            "image_feature": self._image_features,
        }

    def states(self, rows: Sequence[Row]) -> States:
        """Return the states of rows that all have the same modalities.

        Texts are as long as the longest, and that to a multiple of eight: a product whose shape is new costs the
        preparing of it.
        """
        texts = [text for text, _ in rows if text is not None]
        images = [image for _, image in rows if image is not None]
        states = States()
        if texts:
            starts, lengths, rows_of_texts = torch.tensor([self._spans[text] for text in texts]).T[..., None]
            tokens = torch.arange(-(-int(lengths.max()) // 8) * 8)
            mask = tokens < lengths  # (B, T)
            places = torch.where(mask, starts + tokens, starts)
            layers = [layer[places].float() for layer in self._text_layers]
            states = States([*layers, *(feature[rows_of_texts] for feature in self._text_features)], mask)
        if images:
            rows_of_images = torch.tensor([self._places[image] for image in images])
            layers = [layer[rows_of_images].float() for layer in self._image_layers]
            layers += [feature[rows_of_images, None] for feature in self._image_features]
            states = States(states.text, states.text_mask, layers)
        return states

    def _widths(self, modality: Modality) -> tuple[int, ...]:
        widths: tuple[int, ...] = self._retriever.tower(modality, Role.QUERY).widths  # type: ignore[assignment]
        return widths


def _joined(features: list[Tensor]) -> list[Tensor]:
    """Join features (b, 1, E) of several passes to one (N, E); a tower without features gives none."""
    return [torch.cat(features)[:, 0]] if features else []
