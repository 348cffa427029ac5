"""Checkpoints of ReT v1 (aimagelab/ReT) as `Ret2Config` and our tensor names: one table, every key accounted for.

Source: ReT @ 3fee6aab, `configuration_ret.py` and `modeling_ret.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from model.config import BackboneConfig, ImageConfig, Ret2Config
from model.errors import InvalidInput

# strategy -> text blocks, vision blocks (0 = output of the first block)
LAYER_STRATEGIES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "clip_vit_b": (tuple(range(12)), tuple(range(12))),
    "clip_vit_l": (tuple(range(12)), tuple(range(0, 24, 2))),
    "openclip_vit_h": (tuple(range(1, 24, 2)), (0, 2, 5, 8, 11, 14, 17, 20, 23, 26, 29, 31)),
    "openclip_vit_g": ((*range(0, 30, 2), 31), tuple(range(2, 48, 3))),
}

# The options that the forward reads, with `RetConfig`'s defaults; a config.json need not hold a default.
DEFAULTS: dict[str, Any] = {
    "layer_strategy": "clip_vit_b",
    "hidden_size": 1024,
    "num_queries": 32,
    "late_proj_output_size": 128,
    "use_pooler_features": False,
    "activation_fn": "gelu",
    "use_tanh": False,
    "input_gate_bias_prior": 0.0,
    "forget_gate_bias_prior": 0.0,
    "dropout_p": 0.05,
    "attention_dropout": 0.05,
}
NAMES = {
    "text_adapter.": "text_adapters.",
    "vision_adapter.": "vision_adapters.",
    "late_proj.": "projection.",
    "ret_cell.query_hidden_states": "cell.latents",
    "ret_cell.sa.": "cell.self_attention.",
    "ret_cell.text_xa.": "cell.text_attention.",
    "ret_cell.vision_xa.": "cell.vision_attention.",
    "ret_cell.mlp.": "cell.mlp.",
    "ret_cell.text_input_gate_w.": "cell.text_input_gate.",
    "ret_cell.text_forget_gate_w.": "cell.text_forget_gate.",
    "ret_cell.vision_input_gate_w.": "cell.vision_input_gate.",
    "ret_cell.vision_forget_gate_w.": "cell.vision_forget_gate.",
    "ret_cell.xa_ln.": "cell.norm.",
    "ret_cell.text_ln.": "cell.text_norm.",
    "ret_cell.vision_ln.": "cell.vision_norm.",
    "ret_cell.mlp_ln.": "cell.mlp_norm.",
}
# Made but never read by v1's forward (sa_ln), or derived from the configuration.
UNUSED = (
    "ret_cell.sa_ln.",
    "ret_cell.query_state_ids",
    "ret_cell.input_gate_bias_prior",
    "ret_cell.forget_gate_bias_prior",
)


def is_v1(config: Mapping[str, Any]) -> bool:
    """Return whether a configuration is a ReT v1 retriever of two `ret` models, or a single `ret` model, and not a
    ReT-2."""
    sides = [config.get(name) or {} for name in ("query_config", "passage_config")]
    kinds = {side.get("model_type", "ret") for side in sides}
    return config.get("model_type") == "ret" or (config.get("model_type") == "retriever" and kinds == {"ret"})


def convert_config(config: Mapping[str, Any]) -> Ret2Config:
    """Convert a v1 `config.json`, of a retriever with two sides or of one model. Raises `InvalidInput` for an unknown
    strategy."""
    query = config.get("query_config") or config.get("passage_config") or config
    passage = config.get("passage_config") or query
    side = _same_options(query, passage)
    # Where backbones are shared only one side carries their architecture.
    towers = {name: query.get(name) or passage.get(name) for name in ("text_config", "vision_config")}
    strategy = side["layer_strategy"]
    if strategy not in LAYER_STRATEGIES:
        raise InvalidInput(
            f"layer_strategy is {strategy!r}, known are {', '.join(LAYER_STRATEGIES)}", field="layer_strategy"
        )
    text_layers, vision_layers = LAYER_STRATEGIES[strategy]
    size = side["hidden_size"]
    shared = config.get("model_type") == "ret" or config.get("share_query_passage_models", False)
    return Ret2Config(
        text=BackboneConfig("transformers", "checkpoint", text_layers, architecture=towers["text_config"]),
        vision=BackboneConfig("transformers", "checkpoint", vision_layers, architecture=towers["vision_config"]),
        name="ret-v1",
        image=ImageConfig(size_px=(towers["vision_config"] or {}).get("image_size", 224)),
        max_text_tokens=(towers["text_config"] or {}).get("max_position_embeddings", 77),
        hidden_size=size,
        intermediate_size=4 * size,
        num_heads=max(1, size // 64),
        num_latents=side["num_queries"],
        output_size=side["late_proj_output_size"] or None,
        pooling="mean" if side["use_pooler_features"] else "none",
        latent_positions=True,
        activation=side["activation_fn"],
        state_tanh=side["use_tanh"],
        input_gate_prior=float(side["input_gate_bias_prior"]),
        forget_gate_prior=float(side["forget_gate_bias_prior"]),
        dropout=side["dropout_p"],
        attention_dropout=side["attention_dropout"],
        shared_sides=shared,
        shared_text_tower=shared or config.get("share_text_models", True),
        shared_vision_tower=shared or config.get("share_vision_models", True),
    )


def _same_options(query: Mapping[str, Any], passage: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of both sides, with v1's defaults for missing ones. Raises `InvalidInput` with every option
    that differs."""
    sides = [{name: side.get(name, default) for name, default in DEFAULTS.items()} for side in (query, passage)]
    differing = [
        f"{name} is {sides[0][name]!r} and {sides[1][name]!r}" for name in DEFAULTS if sides[0][name] != sides[1][name]
    ]
    differing += [
        f"{name} differs"
        for name in ("text_config", "vision_config")
        if query.get(name) and passage.get(name) and _architecture(query[name]) != _architecture(passage[name])
    ]
    if differing:
        raise InvalidInput(f"query and passage model must be alike, but {'; '.join(differing)}", field="model")
    return sides[0]


def _architecture(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without transformers' notes about its origin, version and precision."""
    notes = ("transformers_version", "torch_dtype", "dtype")
    return {key: value for key, value in config.items() if not key.startswith("_") and key not in notes}


def convert_tensors(config: Ret2Config, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert v1's names to ours: towers under `text.` and `vision.` (`document_text.` and `document_vision.` for a
    passage side with its own towers), cells under `shared.`, or under `query.` and `document.`.

    A key that the table does not know keeps its name, so that strict loading reports it.
    """
    sides = {"": "shared."} if config.shared_sides else {"query_model.": "query.", "passage_model.": "document."}
    if config.shared_sides and any(key.startswith("query_model.") for key in tensors):
        sides = {"query_model.": "shared."}
    own = {"text_model.": not config.shared_text_tower, "vision_model.": not config.shared_vision_tower}
    priors = {  # v1 keeps them as buffers too
        "ret_cell.input_gate_bias_prior": config.input_gate_prior,
        "ret_cell.forget_gate_bias_prior": config.forget_gate_prior,
    }
    converted: dict[str, Tensor] = {}
    for name, value in tensors.items():
        prefix = next((prefix for prefix in sides if name.startswith(prefix)), None)
        key = name.removeprefix(prefix or "")
        tower = next((tower for tower in own if key.startswith(tower)), None)
        if prefix is None:
            converted[name] = value
        elif tower:
            before = "document_" if own[tower] and sides[prefix] == "document." else ""
            renamed = before + key.replace("_model.", ".", 1)
            tensor = converted.setdefault(renamed, value)
            if tensor is not value and not torch.equal(tensor, value):
                raise InvalidInput(
                    f"{name} differs between the sides, which share their {tower.rstrip('.')}", field="model"
                )
        elif key in priors and abs(float(value) - priors[key]) > 1e-3:
            raise InvalidInput(f"{name} is {float(value)}, config.json says {priors[key]}", field="model")
        elif not key.startswith(UNUSED):
            converted[sides[prefix] + rename(key)] = value
    return converted


def rename(key: str) -> str:
    for old, new in NAMES.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key
