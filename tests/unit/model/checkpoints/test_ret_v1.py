"""ReT v1 in every strategy and option against its equations written out a second time (reference/ret.md §1.3, §1.4), random weights."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.errors import InvalidInput
from model.retriever import Retriever
from model.states import States
from model.types import Input, Limits, Prepared, Role

# (text blocks, vision blocks) that the strategy needs, and which it taps: written out by hand from ret.md §1.2
STRATEGIES: dict[str, tuple[int, int, list[int], list[int]]] = {
    "clip_vit_b": (12, 12, [*range(12)], [*range(12)]),
    "clip_vit_l": (12, 24, [*range(12)], [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22]),
    "openclip_vit_h": (
        24,
        32,
        [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23],
        [0, 2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 31],
    ),
    "openclip_vit_g": (
        32,
        48,
        [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 31],
        [2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 32, 35, 38, 41, 44, 47],
    ),
}
V1_STRATEGIES = tuple(STRATEGIES)
STRATEGIES["early, middle, late"] = (12, 12, [0, 5, 11], [1, 6, 11])  # as ReT-2 may; no strategy of v1
D, K, E, HEADS = 128, 5, 24, 2
IDS = torch.tensor([[1, 5, 6, 7, 8, 2], [1, 9, 2, 0, 0, 0], [1, 17, 30, 11, 2, 0]])
MASK = (IDS != 0).long()
TEXT_PRESENT, IMAGE_PRESENT = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 1.0])


@dataclass(frozen=True)
class Options:
    """What one v1 checkpoint is."""

    strategy: str = "clip_vit_b"
    pooled: bool = False
    tanh: bool = False
    activation: str = "gelu"
    input_prior: float = 0.0
    forget_prior: float = 0.0
    project: bool = True
    shared_sides: bool = False
    shared_text: bool = True
    shared_vision: bool = True
    one_model: bool = False  # a RetModel alone, no retriever around it


def architectures(strategy: str) -> tuple[dict[str, Any], dict[str, Any]]:
    small = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    text = {"vocab_size": 40, "max_position_embeddings": 12, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    text |= {"model_type": "clip_text_model", "num_hidden_layers": STRATEGIES[strategy][0], **small}
    vision = {"model_type": "clip_vision_model", "num_hidden_layers": STRATEGIES[strategy][1], **small}
    return text, vision | {"image_size": 16, "patch_size": 8}


class Reference:
    """One RetModel: its backbones, adapters, cell and projection, with v1's names in `weights`."""

    def __init__(self, options: Options, text: Any, vision: Any) -> None:
        self.options, self.text, self.vision = options, text, vision
        steps = len(STRATEGIES[options.strategy][2])
        self.weights: dict[str, Tensor] = {}
        for name in ("text_adapter", "vision_adapter"):
            for step in range(steps):
                self.linear(f"{name}.{step}", D, 16)
        self.weights["ret_cell.query_hidden_states"] = torch.randn(1, K, D) * 0.2
        for name in ("xa_ln", "text_ln", "vision_ln", "sa_ln", "mlp_ln"):
            self.weights[f"ret_cell.{name}.weight"] = 1 + 0.2 * torch.randn(D)
            self.weights[f"ret_cell.{name}.bias"] = 0.2 * torch.randn(D)
        for name, bias in (("sa", True), ("text_xa", False), ("vision_xa", False)):
            for key, shape in (("in_proj_weight", (3 * D, D)), ("out_proj.weight", (D, D))):
                self.weights[f"ret_cell.{name}.{key}"] = torch.randn(shape) / math.sqrt(D)
            if bias:
                self.weights[f"ret_cell.{name}.in_proj_bias"] = 0.2 * torch.randn(3 * D)
                self.weights[f"ret_cell.{name}.out_proj.bias"] = 0.2 * torch.randn(D)
        for name in ("text_input", "text_forget", "vision_input", "vision_forget"):
            self.linear(f"ret_cell.{name}_gate_w", D, D)
        self.linear("ret_cell.mlp.0", 4 * D, D)
        self.linear("ret_cell.mlp.3", D, 4 * D)
        if options.project:
            self.weights["late_proj.weight"] = torch.randn(E, D) / math.sqrt(D)
        self.weights["ret_cell.query_state_ids"] = self.positions()
        self.weights["ret_cell.input_gate_bias_prior"] = torch.tensor(options.input_prior)
        self.weights["ret_cell.forget_gate_bias_prior"] = torch.tensor(options.forget_prior)

    def linear(self, name: str, rows: int, columns: int) -> None:
        self.weights[f"{name}.weight"] = torch.randn(rows, columns) / math.sqrt(columns)
        self.weights[f"{name}.bias"] = 0.2 * torch.randn(rows)

    def positions(self) -> Tensor:
        """Sine on even channels, cosine on odd, of positions 0..D-1; the first K rows."""
        place, rate = torch.arange(D)[:, None], torch.exp(torch.arange(0, D, 2) * (-math.log(10000.0) / D))
        return torch.stack([torch.sin(place * rate), torch.cos(place * rate)], dim=-1).flatten(1)[None, :K]

    def apply(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, (D,), self.weights[f"ret_cell.{name}.weight"], self.weights[f"ret_cell.{name}.bias"])

    def attend(self, name: str, query: Tensor, context: Tensor, padding: Tensor | None = None) -> Tensor:
        module = nn.MultiheadAttention(D, HEADS, bias=name == "sa", batch_first=True)
        prefix = f"ret_cell.{name}."
        module.load_state_dict({k.removeprefix(prefix): v for k, v in self.weights.items() if k.startswith(prefix)})
        return module(query, context, context, key_padding_mask=padding)[0]

    def step(self, step: int, H: Tensor, T: Tensor, V: Tensor, mt: Tensor, mv: Tensor) -> Tensor:
        options = self.options
        T, V = self.apply(f"text_adapter.{step}", T), self.apply(f"vision_adapter.{step}", V)
        H = H + self.positions()
        Hn = self.norm("xa_ln", H)
        R = H + self.attend("sa", Hn, Hn)
        Zt = self.attend("text_xa", Hn, self.norm("text_ln", T), MASK == 0)
        Zv = self.attend("vision_xa", Hn, self.norm("vision_ln", V))
        it = torch.sigmoid(self.apply("ret_cell.text_input_gate_w", Zt) + options.input_prior) * mt
        iv = torch.sigmoid(self.apply("ret_cell.vision_input_gate_w", Zv) + options.input_prior) * mv
        f = torch.sigmoid(
            self.apply("ret_cell.text_forget_gate_w", Zt) * mt
            + self.apply("ret_cell.vision_forget_gate_w", Zv) * mv
            + options.forget_prior
        )
        act = torch.tanh if options.tanh else lambda x: x
        C = act(R) * f + act(Zt) * it + act(Zv) * iv
        hidden = self.apply("ret_cell.mlp.0", self.norm("mlp_ln", C))
        return C + self.apply("ret_cell.mlp.3", F.gelu(hidden) if options.activation == "gelu" else F.relu(hidden))

    def features(self, pixels: Tensor, mt: Tensor, mv: Tensor) -> Tensor:
        """(B, K, E), or (B, E) when pooled; of unit length."""
        texts = self.text(input_ids=IDS, attention_mask=MASK, output_hidden_states=True).hidden_states[1:]
        images = self.vision(pixel_values=pixels, output_hidden_states=True).hidden_states[1:]
        _, _, text_layers, vision_layers = STRATEGIES[self.options.strategy]
        H = self.weights["ret_cell.query_hidden_states"].expand(len(IDS), -1, -1)
        for step, (t, v) in enumerate(zip(text_layers, vision_layers, strict=True)):
            H = self.step(step, H, texts[t], images[v], mt[:, None, None], mv[:, None, None])
        if self.options.pooled:
            H = H.mean(dim=1)
        if self.options.project:
            H = H @ self.weights["late_proj.weight"].T
        return F.normalize(H, dim=-1)


def backbone(architecture: dict[str, Any]) -> Any:
    rest = {key: value for key, value in architecture.items() if key != "model_type"}
    model = transformers.AutoModel.from_config(
        transformers.AutoConfig.for_model(architecture["model_type"], **rest)
    ).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn_like(value) * 0.2)
    return model


def checkpoint(folder: Path, options: Options) -> tuple[Reference, Reference]:
    """Both sides of a v1 retriever, saved to `folder` under v1's names as its authors' code saves it."""
    torch.manual_seed(1)
    text, vision = architectures(options.strategy)
    query = Reference(options, backbone(text), backbone(vision))
    passage = query
    if not (options.shared_sides or options.one_model):
        passage = Reference(
            options,
            query.text if options.shared_text else backbone(text),
            query.vision if options.shared_vision else backbone(vision),
        )
    side = {
        "model_type": "ret",
        "layer_strategy": options.strategy,
        "hidden_size": D,
        "num_queries": K,
        "late_proj_output_size": E if options.project else None,
        "use_pooler_features": options.pooled,
        "activation_fn": options.activation,
        "use_tanh": options.tanh,
        "input_gate_bias_prior": options.input_prior,
        "forget_gate_bias_prior": options.forget_prior,
    }
    own = side | {
        "text_config": None if options.shared_text else text,
        "vision_config": None if options.shared_vision else vision,
    }
    config = {
        "model_type": "retriever",
        "share_query_passage_models": options.shared_sides,
        "share_text_models": options.shared_text,
        "share_vision_models": options.shared_vision,
        "query_config": side | {"text_config": text, "vision_config": vision},
        "passage_config": own,
    }
    tensors = {}
    for prefix, model, saved in (("query_model.", query, True), ("passage_model.", passage, passage is not query)):
        if not saved:
            continue
        tensors |= {prefix + key: value for key, value in model.weights.items()}
        first = model is query
        for name, tower, keep in (
            ("text_model", model.text, first or not options.shared_text),
            ("vision_model", model.vision, first or not options.shared_vision),
        ):
            if keep:  # transformers 4 had one level more in its names: CLIPTextModel.text_model
                tensors |= {f"{prefix}{name}.{name}.{key}": value for key, value in tower.state_dict().items()}
    if options.one_model:
        config = config["query_config"]
        tensors = {key.removeprefix("query_model."): value for key, value in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({key: value.clone().contiguous() for key, value in tensors.items()}, folder / "model.safetensors")
    return query, passage


def ours(retriever: Retriever, role: Role, pixels: Tensor, masked: bool) -> Tensor:
    states = States(
        text=retriever.tower("text", role)(IDS, MASK),
        text_mask=MASK.bool(),
        vision=retriever.tower("vision", role)(pixels),
        text_present=TEXT_PRESENT if masked else None,
        image_present=IMAGE_PRESENT if masked else None,
    )
    latents: Tensor = retriever.side(role)(states)
    return latents[:, 0] if retriever.config.pooling == "mean" else latents


CASES = {
    **{strategy: Options(strategy, input_prior=0.1, forget_prior=0.7) for strategy in V1_STRATEGIES},
    "defaults": Options(),
    "pooled": Options(pooled=True),
    "tanh": Options(tanh=True),
    "relu": Options(activation="relu"),
    "priors": Options(input_prior=-1.5, forget_prior=2.0),
    "no projection": Options(project=False),
    "all": Options(pooled=True, tanh=True, activation="relu", input_prior=0.5, forget_prior=-0.5, project=False),
    "shared sides": Options(shared_sides=True),
    "own text towers": Options(shared_text=False),
    "own vision towers": Options(shared_vision=False),
    "own towers": Options(shared_text=False, shared_vision=False),
    "one model": Options(one_model=True),
}


@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_it_is_its_equations(name: str, tmp_path: Path) -> None:
    query, passage = checkpoint(tmp_path, CASES[name])
    retriever = Retriever.load(str(tmp_path))
    pixels = torch.randn(3, 3, 16, 16)
    everything = torch.ones(3)
    for role, reference in ((Role.QUERY, query), (Role.DOCUMENT, passage)):
        for masked in (False, True):
            masks = (TEXT_PRESENT, IMAGE_PRESENT) if masked else (everything, everything)
            expected = reference.features(pixels, *masks)
            assert expected.std() > 0.01
            torch.testing.assert_close(ours(retriever, role, pixels, masked), expected, atol=2e-5, rtol=0)


@torch.inference_mode()
def test_a_mixed_batch_uses_each_sides_own_towers(tmp_path: Path) -> None:
    """What the service calls: queries and documents in one batch, each with text, an image or both."""
    query, passage = checkpoint(tmp_path, CASES["own towers"])
    retriever = Retriever.load(str(tmp_path))
    pixels = torch.randn(3, 3, 16, 16)
    rows = [(role, row) for row in range(3) for role in (Role.DOCUMENT, Role.QUERY)]
    batch = [
        Prepared(
            role,
            IDS[row][MASK[row].bool()].numpy() if TEXT_PRESENT[row] else None,
            pixels[row].numpy() if IMAGE_PRESENT[row] else None,
            1,
            0,
        )
        for role, row in rows
    ]
    both = {Role.QUERY: query, Role.DOCUMENT: passage}
    expected = {
        role: F.normalize(reference.features(pixels, TEXT_PRESENT, IMAGE_PRESENT).mean(1), dim=-1)
        for role, reference in both.items()
    }
    encoded = torch.from_numpy(retriever.encode(batch))
    for place, (role, row) in enumerate(rows):
        torch.testing.assert_close(encoded[place], expected[role][row], atol=2e-5, rtol=0)


def rewritten(folder: Path, change: Any) -> str:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    checkpoint(tmp_path / "a", Options())
    with pytest.raises(InvalidInput, match=r"must be alike, but num_queries is 5 and 32; use_tanh is False and True"):
        Retriever.load(
            rewritten(
                tmp_path / "a",
                lambda c: c["passage_config"].pop("num_queries") and c["passage_config"].update(use_tanh=True),
            )
        )
    checkpoint(tmp_path / "b", Options(shared_text=False))
    with pytest.raises(InvalidInput, match=r"text_model\..* differs between the sides, which share their text_model"):
        Retriever.load(rewritten(tmp_path / "b", lambda c: c.update(share_text_models=True)))
    checkpoint(tmp_path / "c", Options(shared_text=True))
    with pytest.raises(InvalidInput, match=r"text tower: .* weights do not fit: missing"):
        Retriever.load(rewritten(tmp_path / "c", lambda c: c.update(share_text_models=False)))
    checkpoint(tmp_path / "d", Options(input_prior=0.5))
    with pytest.raises(InvalidInput, match=r"input_gate_bias_prior is 0\.5, config\.json says 0\.0"):
        Retriever.load(
            rewritten(
                tmp_path / "d", lambda c: [c[f"{s}_config"].pop("input_gate_bias_prior") for s in ("query", "passage")]
            )
        )
    checkpoint(tmp_path / "e", Options())
    with pytest.raises(InvalidInput, match="layer_strategy is 'clip_vit_x', known are clip_vit_b"):
        Retriever.load(
            rewritten(
                tmp_path / "e",
                lambda c: [c[f"{s}_config"].update(layer_strategy="clip_vit_x") for s in ("query", "passage")],
            )
        )


def test_text_without_a_tokeniser_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path, Options())
    with pytest.raises(InvalidInput, match=r"no tokenizer\.json"):
        Retriever.load(str(tmp_path)).prepare(Input("a"), Role.QUERY, Limits())


# --- ReT-2 as published: no such file has been seen, so only what v1's names and the weights settle is tested, and the refusals.

ANSWERS = {
    "text_layers": [0, 5, 11],
    "vision_layers": [1, 6, 11],
    "pooling": "mean",
    "activation": "relu",
    "state_tanh": True,
    "num_heads": HEADS,
}


def published(folder: Path, answers: dict[str, Any] | None, **more: Any) -> Reference:
    """One shared model of three steps with v1's names and none of v1's option fields."""
    options = Options("early, middle, late", True, True, "relu", 0.25, -0.5, one_model=True)
    query, _ = checkpoint(folder, options)
    text, vision = architectures(options.strategy)
    config = {"model_type": "ret2", "text_config": text, "vision_config": vision, **more}
    (folder / "config.json").write_text(json.dumps(config | ({"ret2_answers": answers} if answers else {})))
    return query


LAYERS_ALONE = {name: ANSWERS[name] for name in ("text_layers", "vision_layers")}
V1_NAMES = {"use_pooler_features": True, "activation_fn": "relu", "use_tanh": True, "num_attention_heads": HEADS}


@pytest.mark.parametrize(("answers", "fields"), [(ANSWERS, {}), (LAYERS_ALONE, V1_NAMES)])
@torch.inference_mode()
def test_a_published_ret2_loads_once_every_question_is_answered(
    answers: dict[str, Any], fields: dict[str, Any], tmp_path: Path
) -> None:
    reference = published(tmp_path, answers, **fields)
    retriever = Retriever.load(str(tmp_path))
    pixels = torch.randn(3, 3, 16, 16)
    expected = reference.features(pixels, TEXT_PRESENT, IMAGE_PRESENT)
    for role in Role:
        torch.testing.assert_close(ours(retriever, role, pixels, masked=True), expected, atol=2e-5, rtol=0)


def test_a_published_ret2_is_refused_with_every_open_question(tmp_path: Path) -> None:
    published(tmp_path, None, num_queries=7, global_feature=True, unset_option=None)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["ret_cell.query_state_ids"]
    save_file(weights | {"global_proj.weight": torch.zeros(2, 3)}, tmp_path / "model.safetensors")
    with pytest.raises(InvalidInput) as caught:
        Retriever.load(str(tmp_path))
    for question in (
        "10 questions are open",
        "text_layers is not said",
        "vision_layers is not said",
        "latent_positions is not said",
        "pooling is not said",
        "activation is not said",
        "state_tanh is not said",
        "num_heads is not said",
        "field num_queries is 7, the weights say 5",
        "field global_feature is not known",
        "weight global_proj.weight (2, 3) has no place",
        "under 'ret2_answers'",
    ):
        assert question in (caught.value.detail or "")
    assert "unset_option" not in (caught.value.detail or "")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ret_cell.mlp.0.bias", None, r"shared cell: .*missing cell\.mlp\.0\.bias"),
        ("text_adapter.2.weight", None, r"missing text_adapters\.2\.weight"),
        ("text_adapter.3.weight", torch.zeros(D, 16), r"unexpected text_adapters\.3\.weight"),
        (
            "passage_model.late_proj.weight",
            torch.zeros(E, D),
            r"passage_model\.late_proj\.weight \(24, 128\) has no place",
        ),
        ("ret_cell.query_state_ids", torch.zeros(1, K, D), "holds other positions than v1's sinusoids"),
        ("ret_cell.input_gate_bias_prior", None, r"buffer ret_cell\.input_gate_bias_prior is missing"),
        ("ret_cell.query_hidden_states", None, "there is no recurrent cell"),
        ("text_model.text_model.final_layer_norm.bias", None, r"text tower: 1 weight does not fit: missing"),
    ],
)
def test_a_published_ret2_loads_completely_or_not_at_all(
    key: str, value: Tensor | None, message: str, tmp_path: Path
) -> None:
    published(tmp_path, ANSWERS)
    weights = {**load_file(tmp_path / "model.safetensors"), key: value}
    save_file({name: item for name, item in weights.items() if item is not None}, tmp_path / "model.safetensors")
    with pytest.raises(InvalidInput, match=message):
        Retriever.load(str(tmp_path))


def test_a_retriever_of_ret2_models_is_not_read_as_v1(tmp_path: Path) -> None:
    checkpoint(tmp_path, Options(shared_sides=True))
    folder = rewritten(tmp_path, lambda c: c["query_config"].update(model_type="ret2"))
    with pytest.raises(InvalidInput, match="this ReT-2 checkpoint is not understood, 1 questions are open: num_heads"):
        Retriever.load(folder)


@torch.inference_mode()
def test_weights_in_several_files_are_read_together(tmp_path: Path) -> None:
    """As transformers saves larger checkpoints: parts, and an index of which weight is in which."""
    checkpoint(tmp_path, Options())
    pixels = torch.randn(3, 3, 16, 16)
    whole = Retriever.load(str(tmp_path))
    expected = {role: ours(whole, role, pixels, masked=True) for role in Role}
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names, table = sorted(weights), {}
    for part in range(3):
        file = f"model-{part + 1:05}-of-00003.safetensors"
        save_file({name: weights[name] for name in names[part::3]}, tmp_path / file)
        table |= dict.fromkeys(names[part::3], file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    split = Retriever.load(str(tmp_path))
    for role in Role:
        torch.testing.assert_close(ours(split, role, pixels, masked=True), expected[role], atol=0, rtol=0)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(InvalidInput, match=r"lacks 1 of its 3 weight files: model-00002-of-00003\.safetensors"):
        Retriever.load(str(tmp_path))
