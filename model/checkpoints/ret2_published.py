"""ReT-2 checkpoints as their authors publish them: one table to our names, and a list of what it cannot answer.

Written without having seen one. Known are ReT v1's names and what the paper's public pages say (one encoder for both
sides, three layers of each backbone); what ReT-2 calls its options, and which layers it taps, is not. So sizes are read
off the weights, options are taken where a field has v1's name, and everything else is a question. A checkpoint loads
when no question is left, or is refused with all of them. Who knows an answer writes it into the checkpoint's
`config.json`, under `ret2_answers`, by the name of our `Ret2Config` field (or `text_layers`, `vision_layers`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from model.cell import sinusoids
from model.checkpoints.ret_v1 import LAYER_STRATEGIES, NAMES, UNUSED, rename
from model.config import BackboneConfig, ImageConfig, Ret2Config
from model.errors import InvalidInput

ANSWERS = "ret2_answers"
# v1's name -> our field, for options that no weight shows. ReT-2's names may differ: then they are asked for.
_OPTIONS = {
    "use_pooler_features": "pooling",
    "activation_fn": "activation",
    "use_tanh": "state_tanh",
    "num_attention_heads": "num_heads",
}
# v1's name -> what the weights say it is; a config.json that says otherwise is refused.
_SIZES = {
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_queries": "num_latents",
    "late_proj_output_size": "output_size",
    "input_gate_bias_prior": "input_gate_prior",
    "forget_gate_bias_prior": "forget_gate_prior",
}
# Fields of `Ret2Config` that neither the weights nor its default may decide.
_ASKED = ("text_layers", "vision_layers", "max_text_tokens", "image", "latent_positions", *_OPTIONS.values())
# Read elsewhere here, by training alone, or by transformers 4 for models that write text.
_IDLE = re.compile(
    "query_config|passage_config|text_config|vision_config|model_type|layer_strategy|ret2_answers|"
    "architectures|auto_map|_name_or_path|transformers_version|torch_dtype|dtype|return_dict|problem_type|id2label|label2id|"
    "dropout_p|attention_dropout|is_text_frozen|is_vision_frozen|fg_loss|simmetric_loss|"
    "share_query_passage_models|share_text_models|share_vision_models|"
    "chunk_size_feed_forward|diversity_penalty|length_penalty|repetition_penalty|max_length|min_length|num_beams|num_beam_groups|"
    "num_return_sequences|temperature|top_k|top_p|typical_p|tie_word_embeddings|(encoder_)?no_repeat_ngram_size"
)


def is_published(config: Mapping[str, Any]) -> bool:
    """Return whether a configuration is one of the published ReT-2: it has backbones as transformers' configurations,
    and no `text` and `vision` as ours has."""
    return "text" not in config and any(key in config for key in ("text_config", "vision_config", "query_config"))


def convert(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[Ret2Config, dict[str, Tensor]]:
    """Convert a published checkpoint to our configuration and names. Raises `InvalidInput` with every open question."""
    side = config.get("query_config") or config
    converted, questions = _convert_tensors(tensors)
    facts, doubts = _from_weights(converted, tensors)
    known_fields = {**facts, **_options(side), **_towers(side), **(config.get(ANSWERS) or {})}
    questions += doubts
    questions += [
        f"field {name} is not known" for name in {**config, **side} if not _field_is_known(name, config, side)
    ]
    questions += [
        f"field {name} is {side[name]!r}, the weights say {facts[field]!r}"
        for name, field in _SIZES.items()
        if field in facts and side.get(name) not in (None, facts[field])
    ]
    questions += [f"{name} is not said" for name in _ASKED if name not in known_fields]
    if questions:
        raise InvalidInput(
            f"this ReT-2 checkpoint is not understood, {len(questions)} questions are open: "
            f"{'; '.join(questions[:40])} "
            f"(an answer goes into config.json under {ANSWERS!r})",
            field="model",
        )
    layers = {name: known_fields.pop(f"{name}_layers") for name in ("text", "vision")}
    parts = {
        name: BackboneConfig("transformers", "checkpoint", tuple(layers[name]), architecture=side[f"{name}_config"])
        for name in layers
    }
    fields = {name: dataclasses.asdict(part) for name, part in parts.items()}
    return Ret2Config.from_json({"name": "ret2-published", **fields, **known_fields}), converted


def _convert_tensors(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Convert v1's names, with or without the prefix `query_model.`, to ours. Return also the weights that have no
    place."""
    converted, unknown = {}, []
    for name, value in tensors.items():
        key = name.removeprefix("query_model.")
        if key.startswith(("text_model.", "vision_model.")):
            converted[key.replace("_model.", ".", 1)] = value
        elif key.startswith(tuple(NAMES)):
            converted[f"shared.{rename(key)}"] = value
        elif not key.startswith(UNUSED):
            unknown.append(f"weight {name} {tuple(value.shape)} has no place")
    return converted, unknown


def _from_weights(converted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], list[str]]:
    """Return the fields that weights and buffers determine, and what is missing or unexpected in them."""
    latents, mlp = converted.get("shared.cell.latents"), converted.get("shared.cell.mlp.0.weight")
    if latents is None or mlp is None:
        return {}, ["there is no recurrent cell: ret_cell.query_hidden_states or ret_cell.mlp.0.weight is missing"]
    count, size = latents.shape[-2:]
    projection = converted.get("shared.projection.weight")
    facts: dict[str, Any] = {
        "hidden_size": size,
        "num_latents": count,
        "intermediate_size": mlp.shape[0],
        "output_size": None if projection is None else projection.shape[0],
    }
    doubts = []
    buffers = {name.removeprefix("query_model.ret_cell.").removeprefix("ret_cell."): t for name, t in tensors.items()}
    for name, field in (("input_gate_bias_prior", "input_gate_prior"), ("forget_gate_bias_prior", "forget_gate_prior")):
        if name in buffers:
            facts[field] = round(float(buffers[name]), 6)
        else:
            doubts.append(f"buffer ret_cell.{name} is missing")
    if (positions := buffers.get("query_state_ids")) is not None:
        facts["latent_positions"] = True
        if not torch.allclose(positions.float().reshape(-1, size), sinusoids(count, size), atol=1e-3):
            doubts.append("buffer ret_cell.query_state_ids holds other positions than v1's sinusoids")
    return facts, doubts


def _options(side: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that have v1's names; pooling is a flag there."""
    options = {field: side[name] for name, field in _OPTIONS.items() if side.get(name) is not None}
    if "pooling" in options:
        options["pooling"] = "mean" if options["pooling"] else "none"
    return options


def _towers(side: Mapping[str, Any]) -> dict[str, Any]:
    """Return the layers of a strategy that v1 has too, the text length and, for CLIP, the pixels as v1 has them."""
    towers: dict[str, Any] = {}
    if strategy := LAYER_STRATEGIES.get(side.get("layer_strategy", "")):
        towers["text_layers"], towers["vision_layers"] = strategy
    text, vision = side.get("text_config") or {}, side.get("vision_config") or {}
    if "max_position_embeddings" in text:
        towers["max_text_tokens"] = text["max_position_embeddings"]
    if vision.get("model_type") == "clip_vision_model" and "image_size" in vision:
        towers["image"] = dataclasses.asdict(ImageConfig(size_px=vision["image_size"]))
    return towers


def _field_is_known(name: str, config: Mapping[str, Any], side: Mapping[str, Any]) -> bool:
    """Return whether the meaning of a field is known, or the field says nothing because it is unset, off or empty."""
    value = side.get(name, config.get(name))
    return bool(_IDLE.fullmatch(name)) or name in _OPTIONS or name in _SIZES or value in (None, False, [], {}, "")
