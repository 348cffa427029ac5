"""Checkpoints of ReT v1 (aimagelab/ReT) as `Ret2Config` and our tensor names: one table, every key accounted for.

Source: ReT @ 3fee6aab, `configuration_ret.py` and `modeling_ret.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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

_NAMES = {
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
_UNUSED = (
    "ret_cell.sa_ln.",
    "ret_cell.query_state_ids",
    "ret_cell.input_gate_bias_prior",
    "ret_cell.forget_gate_bias_prior",
)


def is_v1(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") in ("retriever", "ret")


def convert_config(config: Mapping[str, Any]) -> Ret2Config:
    """A v1 `config.json`, of a retriever (two sides) or of one model. Raises `InvalidInput` for an unknown strategy."""
    side = config.get("query_config") or config.get("passage_config") or config
    other = config.get("passage_config") or side
    # Where backbones are shared only one side carries their architecture.
    towers = {name: side.get(name) or other.get(name) for name in ("text_config", "vision_config")}
    strategy = side.get("layer_strategy", "clip_vit_b")
    if strategy not in LAYER_STRATEGIES:
        raise InvalidInput(
            f"layer_strategy is {strategy!r}, known are {', '.join(LAYER_STRATEGIES)}", field="layer_strategy"
        )
    text_layers, vision_layers = LAYER_STRATEGIES[strategy]
    size = side.get("hidden_size", 1024)
    return Ret2Config(
        text=BackboneConfig("transformers", "checkpoint", text_layers, architecture=towers["text_config"]),
        vision=BackboneConfig("transformers", "checkpoint", vision_layers, architecture=towers["vision_config"]),
        name="ret-v1",
        image=ImageConfig(size_px=(towers["vision_config"] or {}).get("image_size", 224)),
        max_text_tokens=(towers["text_config"] or {}).get("max_position_embeddings", 77),
        hidden_size=size,
        intermediate_size=4 * size,
        num_heads=max(1, size // 64),
        num_latents=side.get("num_queries", 32),
        output_size=side.get("late_proj_output_size", 128) or None,
        pooling="mean" if side.get("use_pooler_features") else "none",
        latent_positions=True,
        activation=side.get("activation_fn", "gelu"),
        state_tanh=side.get("use_tanh", False),
        input_gate_prior=side.get("input_gate_bias_prior", 0.0),
        forget_gate_prior=side.get("forget_gate_bias_prior", 0.0),
        dropout=side.get("dropout_p", 0.05),
        attention_dropout=side.get("attention_dropout", 0.05),
        shared_sides=config.get("model_type") == "ret" or config.get("share_query_passage_models", False),
    )


def convert_tensors(config: Ret2Config, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """v1 names to ours: `text.`, `vision.` for the towers, `shared.` or `query.` and `document.` for the cells.

    A key that the table does not know keeps its name, so that strict loading reports it.
    """
    sides = {"": "shared."} if config.shared_sides else {"query_model.": "query.", "passage_model.": "document."}
    if config.shared_sides and any(key.startswith("query_model.") for key in tensors):
        sides = {"query_model.": "shared."}
    converted: dict[str, Tensor] = {}
    for name, value in tensors.items():
        prefix = next((prefix for prefix in sides if name.startswith(prefix)), None)
        key = name.removeprefix(prefix or "")
        if prefix is None:
            converted[name] = value
        elif key.startswith(("text_model.", "vision_model.")):
            converted.setdefault(key.replace("_model.", ".", 1), value)
        elif not key.startswith(_UNUSED):
            converted[sides[prefix] + _rename(key)] = value
    return converted


def _rename(key: str) -> str:
    for old, new in _NAMES.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key
