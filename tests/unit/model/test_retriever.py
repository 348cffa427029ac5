"""What an embedding may and may not depend on (promises 7, 8, 12)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_model import CONFIG, write_tiny_checkpoint

from model import retriever as retriever_module
from model.errors import InvalidInput
from model.retriever import Retriever
from model.states import States
from model.types import Input, Limits, Role

TEXTS = (None, "a red square", "what is the capital of this country", "one")
COLOURS = (None, "red", "blue")


def close(left: np.ndarray, right: np.ndarray, tolerance: float = 1e-5) -> bool:
    return bool(np.abs(left - right).max() <= tolerance)


@given(
    st.lists(
        st.sampled_from([pair for pair in itertools.product(TEXTS, COLOURS) if pair != (None, None)]),
        min_size=1,
        max_size=8,
    )
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_embedding_does_not_depend_on_its_batch(
    tiny: Retriever, png: Callable[..., bytes], rows: list[tuple[str | None, str | None]]
) -> None:
    prepared = [
        tiny.prepare(
            Input(text, png(colour) if colour else None), Role.QUERY if number % 2 else Role.DOCUMENT, Limits()
        )
        for number, (text, colour) in enumerate(rows)
    ]
    together = tiny.encode(prepared)
    alone = np.concatenate([tiny.encode([item]) for item in prepared])
    assert together.shape == (len(rows), tiny.info.dimensions)
    assert together.dtype == np.float32
    assert close(together, alone)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


@given(
    rows=st.lists(
        st.sampled_from([pair for pair in itertools.product(TEXTS, COLOURS) if pair != (None, None)]),
        min_size=1,
        max_size=8,
    ),
    allowed=st.sampled_from([0, 3, 64]),
)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_absent_means_masked_exactly(
    tiny: Retriever, png: Callable[..., bytes], rows: list[tuple[str | None, str | None]], allowed: int
) -> None:
    """Promise 8: leaving a tower out, grouping and cutting by length equal v1's way, which runs both towers over every row,
    on a placeholder where there is nothing, padded to the longest, and masks it."""
    prepared = [
        tiny.prepare(Input(text, png(colour) if colour else None), Role.QUERY, Limits()) for text, colour in rows
    ]
    blank = tiny.prepare(Input("a", png("black")), Role.QUERY, Limits())
    text, mask = tiny.text_states([item.tokens if item.tokens is not None else blank.tokens for item in prepared])
    vision = tiny.vision_states([item.pixels if item.pixels is not None else blank.pixels for item in prepared])
    states = States(
        text,
        mask,
        vision,
        text_present=torch.tensor([float(item.tokens is not None) for item in prepared]),
        image_present=torch.tensor([float(item.pixels is not None) for item in prepared]),
    )
    with torch.inference_mode():
        masked = torch.nn.functional.normalize(tiny.side(Role.QUERY)(states).mean(1), dim=-1).numpy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retriever_module, "_PADDING_CPU", allowed)
        assert close(tiny.encode(prepared), masked)


def test_texts_go_with_those_of_about_their_length(tiny: Retriever, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retriever_module, "_PADDING_CPU", 3)
    passes: list[tuple[int, ...]] = []
    forward = tiny.text_tower.forward

    def counted(ids: torch.Tensor, mask: torch.Tensor | None) -> list[torch.Tensor]:
        passes.append(tuple(ids.shape))
        return forward(ids, mask)

    monkeypatch.setattr(tiny.text_tower, "forward", counted)
    texts = ["one", "one two three", "one two", "a red square of the capital", "what is the capital of this country"]
    tiny.encode([tiny.prepare(Input(text), Role.QUERY, Limits()) for text in texts])
    assert passes == [(2, 9), (3, 5)]  # 1 of padding in the first, 1 + 2 in the second


@pytest.mark.parametrize(
    ("text", "image", "idle"), [("a red square", False, "vision_tower"), (None, True, "text_tower")]
)
def test_no_tower_runs_for_an_absent_modality(
    tiny: Retriever,
    png: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
    text: str | None,
    image: bool,
    idle: str,
) -> None:
    def never(*_: object) -> None:
        raise AssertionError(f"{idle} ran")

    item = tiny.prepare(Input(text, png() if image else None), Role.DOCUMENT, Limits())
    monkeypatch.setattr(getattr(tiny, idle), "forward", never)
    assert np.isfinite(tiny.encode([item])).all()


def test_text_and_image_both_count(tiny: Retriever, png: Callable[..., bytes]) -> None:
    def embed(text: str | None, colour: str | None) -> np.ndarray:
        return tiny.encode([tiny.prepare(Input(text, png(colour) if colour else None), Role.QUERY, Limits())])[0]

    both = embed("a red square", "red")
    assert not close(both, embed("the blue flag", "red"), 1e-3)
    assert not close(both, embed("a red square", "blue"), 1e-3)
    assert not close(both, embed("a red square", None), 1e-3)


def test_sides_of_their_own_differ_and_shared_ones_do_not(tiny: Retriever, tmp_path: Path) -> None:
    apart = Retriever.load(str(write_tiny_checkpoint(tmp_path, replace(CONFIG, shared_sides=False))))

    def sides(retriever: Retriever) -> list[np.ndarray]:
        return [retriever.encode([retriever.prepare(Input("a flag"), role, Limits())]) for role in Role]

    assert close(*sides(tiny))
    assert not close(*sides(apart), 1e-3)


def test_text_over_the_token_limit_is_cut_visibly_and_keeps_its_end(tiny: Retriever) -> None:
    prepared = tiny.prepare(Input("one " * 40), Role.QUERY, Limits())
    assert prepared.tokens is not None
    assert len(prepared.tokens) == CONFIG.max_text_tokens
    assert (prepared.tokens[0], prepared.tokens[-1]) == (1, 2)  # BOS, EOS
    assert prepared.dropped_tokens == 42 - CONFIG.max_text_tokens
    assert tiny.prepare(Input("one two"), Role.QUERY, Limits()).dropped_tokens == 0


def test_cost_counts_patches_and_tokens(tiny: Retriever, png: Callable[..., bytes]) -> None:
    costs = [
        tiny.prepare(item, Role.QUERY, Limits()).cost
        for item in (Input("one two"), Input(image=png()), Input("one two", png()))
    ]
    assert costs == [4, 17, 21]  # 16 patches and the class token


@pytest.mark.parametrize("item", [Input(), Input(""), Input(" \n\t\x00 ")])
def test_nothing_to_embed_is_refused(tiny: Retriever, item: Input) -> None:
    with pytest.raises(InvalidInput, match="neither text nor image"):
        tiny.prepare(item, Role.QUERY, Limits())


def test_the_fingerprint_follows_weights_config_and_tokenizer(tiny: Retriever, tmp_path: Path) -> None:
    same = Retriever.load(str(write_tiny_checkpoint(tmp_path / "same")))
    weights = Retriever.load(str(write_tiny_checkpoint(tmp_path / "weights", seed=1)))
    config = Retriever.load(str(write_tiny_checkpoint(tmp_path / "config", replace(CONFIG, forget_gate_prior=0.6))))
    tokenizer_folder = write_tiny_checkpoint(tmp_path / "tokenizer")
    path = tokenizer_folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"red"', '"rot"'))
    tokenizer = Retriever.load(str(tokenizer_folder))
    prints = [item.info.fingerprint for item in (tiny, weights, config, tokenizer)]
    assert same.info.fingerprint == tiny.info.fingerprint
    assert len(set(prints)) == 4
