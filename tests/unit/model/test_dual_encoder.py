"""Dual encoders against transformers' own features: every family, texts of different lengths, odd images, files as users have them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from dual_encoders import FAMILIES, processor_of, tokenizer, write_dual_encoder
from numpy.typing import NDArray
from PIL import Image

from model.errors import InvalidInput
from model.images import resizing
from model.images.decoding import decode_image
from model.retriever import Retriever
from model.types import Float32, Input, Limits, Role

TEXTS = (
    "a",
    "a red square",
    "two flags and one cat on the blue square",
    "a photo of the dog on the red square and two cats",  # over the limit of 12 tokens
    "unheard words",
)


@pytest.fixture(autouse=True)
def pillow_resizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The models are compared, not the rounding of pixels (test_preprocess)."""
    monkeypatch.setattr(resizing, "_has_vector_instructions", lambda: False)


def odd_images() -> dict[str, bytes]:
    """Noise, so that a shift by one pixel or another filter shows."""
    random = np.random.default_rng(0)

    def noise(width: int, height: int) -> Image.Image:
        return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))

    clear = noise(60, 50)
    clear.putalpha(Image.fromarray(random.integers(0, 256, (50, 60), dtype=np.uint8)))
    images = {
        "square": noise(32, 32),
        "wide": noise(90, 41),
        "tall": noise(37, 133),
        "dot": noise(1, 1),
        "strip": noise(400, 8),
        "palette": noise(70, 50).convert("P"),
        "grey": noise(64, 51).convert("L"),
        "alpha": clear,
    }
    return {name: _png(image) for name, image in images.items()}


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def unit(values: Any) -> NDArray[np.float32]:
    return np.asarray(torch.nn.functional.normalize(values, dim=-1))


@torch.inference_mode()
def own_text_features(model: Any, family: str, texts: tuple[str, ...]) -> NDArray[np.float32]:
    """As transformers' users get them: truncated, padded to the longest (CLIP) or to full length (SigLIP), with CLIP's mask."""
    made = tokenizer(family)
    made.enable_truncation(12)
    length = None if family in ("clip", "openclip") else 12
    made.enable_padding(pad_id=0, pad_token="[PAD]", length=length)
    rows = made.encode_batch(list(texts))
    ids = torch.tensor([row.ids for row in rows])
    mask = None if length else torch.tensor([row.attention_mask for row in rows])
    return unit(model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output)


@torch.inference_mode()
def own_image_features(model: Any, family: str, images: list[bytes]) -> NDArray[np.float32]:
    pictures = [decode_image(image, Limits()) for image in images]
    return unit(model.get_image_features(**processor_of(family)(pictures, return_tensors="pt")).pooler_output)


def encode(retriever: Retriever, items: list[Input], role: Role = Role.DOCUMENT) -> Float32:
    return retriever.encode([retriever.prepare(item, role, Limits()) for item in items])


def load(folder: Path, family: str = "clip", **saving: Any) -> tuple[Retriever, Any]:
    write_dual_encoder(folder, family, **saving)
    own = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    return Retriever.load(str(folder)), own


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_are_transformers_own_features(family: str, tmp_path: Path) -> None:
    retriever, own = load(tmp_path, family)
    images = list(odd_images().values())
    for role in Role:
        texts = encode(retriever, [Input(text) for text in TEXTS], role)
        np.testing.assert_allclose(texts, own_text_features(own, family, TEXTS), atol=1e-5, rtol=0)
        pictures = encode(retriever, [Input(image=image) for image in images], role)
        np.testing.assert_allclose(pictures, own_image_features(own, family, images), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_modalities_are_their_weighted_sum(family: str, tmp_path: Path) -> None:
    retriever, own = load(tmp_path, family)
    image = odd_images()["wide"]
    text, picture = own_text_features(own, family, TEXTS[1:2])[0], own_image_features(own, family, [image])[0]
    fused = encode(retriever, [Input(TEXTS[1], image)])[0]
    np.testing.assert_allclose(fused, (text + picture) / np.linalg.norm(text + picture), atol=1e-5)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"ret2_fusion": {"text": 0.8, "image": 0.2}}))
    weighted = Retriever.load(str(tmp_path))
    mixed = 0.8 * text + 0.2 * picture
    np.testing.assert_allclose(encode(weighted, [Input(TEXTS[1], image)])[0], mixed / np.linalg.norm(mixed), atol=1e-5)
    assert weighted.info.fingerprint != retriever.info.fingerprint


@pytest.mark.parametrize("family", FAMILIES)
def test_an_embedding_does_not_depend_on_its_batch(family: str, tmp_path: Path) -> None:
    retriever, _ = load(tmp_path, family)
    images = odd_images()
    items = [
        Input(TEXTS[2], images["tall"]),
        Input(TEXTS[0]),
        Input(image=images["strip"]),
        Input(TEXTS[1], images["dot"]),
        Input(image=images["square"]),
        Input(TEXTS[3]),
    ]
    together = encode(retriever, items)
    for row, item in enumerate(items):
        np.testing.assert_allclose(together[row], encode(retriever, [item])[0], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_no_tower_runs_for_an_absent_modality(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    retriever, _ = load(tmp_path)

    def refuse(*_: object) -> None:
        raise AssertionError("a tower ran for a modality that is absent")

    for text, image, absent in (("a", None, "vision_tower"), (None, odd_images()["dot"], "text_tower")):
        with monkeypatch.context() as patched:
            patched.setattr(getattr(retriever, absent), "forward", refuse)
            encode(retriever, [Input(text, image)])


@pytest.mark.parametrize("family", FAMILIES)
def test_compiled_it_is_the_same(family: str, tmp_path: Path) -> None:
    retriever, _ = load(tmp_path, family)
    items = [Input(TEXTS[2], odd_images()["wide"]), Input(TEXTS[0]), Input(image=odd_images()["tall"])]
    plain = encode(retriever, items)
    np.testing.assert_allclose(encode(retriever.compiled(cache=tmp_path / "cache"), items), plain, atol=1e-5)
    assert retriever.stayed == {}


def test_the_model_is_described_and_has_no_gates_or_latents(tmp_path: Path) -> None:
    retriever, _ = load(tmp_path / "my-clip")
    info = retriever.info
    assert info.weighable
    assert (info.name, info.dimensions, info.max_text_tokens, info.image_size_px) == ("my-clip", 8, 12, 32)
    assert (info.latents, info.commit) == (1, None)
    encoded = retriever.launch([retriever.prepare(Input("a"), Role.QUERY, Limits())])()
    assert (encoded.shares, encoded.latents) == (None, None)


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_and_weights_in_several_files(family: str, tmp_path: Path) -> None:
    halves, own = load(tmp_path / "half", family, dtype=torch.float16)
    np.testing.assert_allclose(
        encode(halves, [Input(text) for text in TEXTS]), own_text_features(own, family, TEXTS), atol=1e-5
    )
    split, own = load(tmp_path / "split", family, max_shard_size="10KB")
    assert len(list((tmp_path / "split").glob("model-*-of-*.safetensors"))) > 1
    np.testing.assert_allclose(
        encode(split, [Input(text) for text in TEXTS]), own_text_features(own, family, TEXTS), atol=1e-5
    )
    whole = Retriever.load(str(write_dual_encoder(tmp_path / "whole", family)))
    assert whole.info.fingerprint != split.info.fingerprint  # of the files, not of what they mean


def test_transformers_own_processor_file_is_read_too(tmp_path: Path) -> None:
    """transformers 5 writes processor_config.json with the image processor inside."""
    write_dual_encoder(tmp_path)
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    expected = encode(Retriever.load(str(tmp_path)), [Input(image=odd_images()["wide"])])
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings | {"image_mean": [0.1, 0.2, 0.3]}))
    other = encode(Retriever.load(str(tmp_path)), [Input(image=odd_images()["wide"])])
    assert not np.allclose(other, expected, atol=1e-3)
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    np.testing.assert_allclose(
        encode(Retriever.load(str(tmp_path)), [Input(image=odd_images()["wide"])]), expected, atol=1e-6
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_processor_file_a_family_keeps_its_habits(family: str, tmp_path: Path) -> None:
    write_dual_encoder(tmp_path, family)
    images = [Input(image=image) for image in odd_images().values()]
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    expected = Retriever.load(str(tmp_path))
    (tmp_path / "preprocessor_config.json").unlink()
    if family == "siglip2":  # its number of patches stands nowhere else
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({"max_num_patches": settings["max_num_patches"]}))
    np.testing.assert_allclose(encode(Retriever.load(str(tmp_path)), images), encode(expected, images), atol=1e-6)


@pytest.mark.parametrize(
    ("fusion", "message"),
    [
        ({"text": -1}, "the fusion weight of text is -1"),
        ({"text": 0, "image": 0}, "both 0"),
        ({"text": "much"}, "expected numbers for text and image"),
        ({"picture": 1}, "expected numbers for text and image"),
        ([1, 2], "expected numbers for text and image"),
        ({"text": float("nan")}, "the fusion weight of text is nan"),
    ],
)
def test_fusion_weights_that_mean_nothing_are_refused(fusion: Any, message: str, tmp_path: Path) -> None:
    write_dual_encoder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"ret2_fusion": fusion}))
    with pytest.raises(InvalidInput, match=message):
        Retriever.load(str(tmp_path))


def test_a_fusion_weight_of_zero_leaves_out_a_modality_only_beside_the_other(tmp_path: Path) -> None:
    write_dual_encoder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"ret2_fusion": {"text": 1, "image": 0}}))
    retriever = Retriever.load(str(tmp_path))
    image = odd_images()["square"]
    text, both, alone = encode(retriever, [Input("a"), Input("a", image), Input(image=image)])
    np.testing.assert_allclose(text, both, atol=1e-6)
    assert np.linalg.norm(alone) == pytest.approx(1, abs=1e-5)


def test_an_image_of_naflex_costs_as_many_positions_as_it_may_have(tmp_path: Path) -> None:
    write_dual_encoder(tmp_path, "siglip2")
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings | {"max_num_patches": 30}))
    retriever = Retriever.load(str(tmp_path))
    prepared = retriever.prepare(Input(image=odd_images()["wide"]), Role.QUERY, Limits())
    assert prepared.cost == 30
    assert prepared.pixels is not None
    _, height, width = prepared.pixels.shape
    assert 16 < (height // 8) * (width // 8) <= 30


@pytest.mark.parametrize("family", FAMILIES)
def test_in_bfloat16_embeddings_stay_close(family: str, tmp_path: Path) -> None:
    write_dual_encoder(tmp_path, family)
    items = [Input(TEXTS[1]), Input(image=odd_images()["wide"]), Input(TEXTS[2], odd_images()["tall"])]
    exact = encode(Retriever.load(str(tmp_path)), items)
    rounded = encode(Retriever.load(str(tmp_path), dtype=torch.bfloat16), items)
    assert (exact * rounded).sum(axis=1).min() > 0.99


def test_lengths_that_embeddings_may_be_cut_to_are_the_checkpoint_s(tmp_path: Path) -> None:
    write_dual_encoder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert Retriever.load(str(tmp_path)).info.shorter == ()
    (tmp_path / "config.json").write_text(json.dumps(config | {"matryoshka_dimensions": [8, 4, 2]}))
    assert Retriever.load(str(tmp_path)).info.shorter == (2, 4)
    for wrong in ([9], [0], ["4"], 4):
        (tmp_path / "config.json").write_text(json.dumps(config | {"matryoshka_dimensions": wrong}))
        with pytest.raises(InvalidInput, match="expected whole numbers from 1 to 8"):
            Retriever.load(str(tmp_path))
