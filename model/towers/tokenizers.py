"""Read the tokenizer of a transformers folder."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Regex, Tokenizer, normalizers

from model.checkpoints.weights import read_config
from model.errors import InvalidInput
from model.towers.towers import SIGLIP_TEXT, Tower, TransformersEncoder

TOKENIZER_FILE = "tokenizer.json"


# A tokeniser of before `tokenizer.json`: the class by the tower (a single tower's config.json names none), and the
# files it needs.
_VOCABULARIES = {
    "clip_text_model": ("CLIPTokenizer", ("vocab.json", "merges.txt")),
    "bert": ("BertTokenizer", ("vocab.txt",)),
}


_TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def read_tokenizer(
    towers: Sequence[Tower | TransformersEncoder], places: Sequence[Path]
) -> tuple[Tokenizer | None, list[Path]]:
    """Read the tokeniser of text towers of one kind from the first of `places` that has one. Return also the files that
    it was read from.

    `tokenizer.json` is used as it is, without padding and truncation. SigLIP lower-cases texts (its processors do, its
    `tokenizer.json` need not), and its first version drops punctuation. SigLIP's towers receive their pad token here.
    """
    config = towers[0].encoder.config if isinstance(towers[0], TransformersEncoder) else None
    for place in places:
        tokenizer, files = _tokenizer_of(place, config.model_type if config else "")
        if tokenizer is None:
            continue
        if config and (size := tokenizer.get_vocab_size()) > config.vocab_size:
            raise InvalidInput(f"{place.name}: the tokeniser has {size} tokens, the text tower {config.vocab_size}")
        if config and config.model_type in SIGLIP_TEXT:
            files += [path for path in (place / _TOKENIZER_SETTINGS[0],) if path.exists()]
            pad_id = _as_siglip(tokenizer, read_config(place, _TOKENIZER_SETTINGS[0]) if files[1:] else {})
            if pad_id is None:
                raise InvalidInput(f"{place.name}: neither tokenizer.json nor tokenizer_config.json names a pad token")
            for tower in towers:
                tower.pad_id = pad_id
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer, files
    return None, []


def _tokenizer_of(place: Path, kind: str) -> tuple[Tokenizer | None, list[Path]]:
    path = place / TOKENIZER_FILE
    if path.exists():
        return Tokenizer.from_file(str(path)), [path]
    name, needed = _VOCABULARIES.get(kind, ("", ()))
    files = [place / file for file in needed if (place / file).exists()]
    if not needed or len(files) < len(needed):  # transformers would go on with a vocabulary of its special tokens alone
        return None, []
    made = getattr(transformers, name).from_pretrained(place, local_files_only=True, trust_remote_code=False)
    files += [place / file for file in _TOKENIZER_SETTINGS if (place / file).exists()]
    return Tokenizer.from_str(made.backend_tokenizer.to_str()), files


def _as_siglip(tokenizer: Tokenizer, settings: Mapping[str, Any]) -> int | None:
    """Make the tokeniser normalise texts as SigLIP's training did, in place. Return the id of the pad token."""
    steps: list[Any] = [normalizers.Lowercase()]
    if settings.get("tokenizer_class") == "SiglipTokenizer":
        steps.append(normalizers.Replace(Regex(f"[{re.escape(string.punctuation)}]"), ""))
        steps += [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    normalizer = tokenizer.normalizer
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizer] if normalizer is not None else steps)
    if tokenizer.padding:
        return int(tokenizer.padding["pad_id"])
    pad = settings.get("pad_token")
    return tokenizer.token_to_id(pad["content"] if isinstance(pad, dict) else str(pad))
