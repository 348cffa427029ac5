from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from model.retriever import Retriever
from model.training.state_cache import StateCache
from model.types import Input, Limits, Role


def test_states_come_out_of_the_cache_as_the_towers_gave_them(tiny_folder: Path, png: Callable[..., bytes]) -> None:
    """Texts of different lengths in one batch, longer than the longest to a multiple of eight."""
    retriever = Retriever.load(str(tiny_folder))
    images = {"red": png("red", size=(20, 10)), "blue": png("blue", size=(20, 19)), "green": png("green")}
    rows = [("capital red", "red"), ("what is the square of this", "blue")]
    cache = StateCache(retriever)
    assert not cache.has_texts
    assert not cache.has_images
    cache.add_texts([*(text for text, _ in rows), "the flag"], lambda _: None)
    cache.add_images(images, list(images), lambda _: None, together=2)
    assert cache.has_texts
    assert cache.has_images
    prepared = [retriever.prepare(Input(text, images[image]), Role.QUERY, Limits()) for text, image in rows]
    states = cache.states(rows)
    assert states.text is not None
    assert states.text_mask is not None
    assert states.vision is not None
    short = cache.states([("capital red", None)]).text_mask
    assert short is not None
    assert prepared[0].tokens is not None
    assert (short.shape, short.sum()) == ((1, 8), len(prepared[0].tokens))
    layers, mask = retriever.text_states([item.tokens for item in prepared if item.tokens is not None])
    for cached, expected in zip(states.text, layers, strict=True):
        for row in range(2):
            torch.testing.assert_close(
                cached[row, states.text_mask[row]], expected[row, mask[row]], atol=2e-3, rtol=2e-3
            )
    vision = retriever.vision_states([item.pixels for item in prepared if item.pixels is not None])
    for cached, expected in zip(states.vision, vision, strict=True):
        torch.testing.assert_close(cached, expected, atol=2e-3, rtol=2e-3)
