"""The tokeniser of a text backbone's folder, in every form its users have it, against transformers' own; and what SigLIP asks for."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from tiny_model import CONFIG, write_tiny_checkpoint
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from model.config import BackboneConfig, Ret2Config
from model.errors import InvalidInput
from model.retriever import Retriever
from model.towers.tokenizers import read_tokenizer
from model.towers.towers import TransformersTower
from model.types import Input, Limits, Role

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 8,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
BERT_WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "square", "##s", ",", "a", "Red", "caf", "##e")
CLIP_WORDS = (
    "<|startoftext|>",
    "<|endoftext|>",
    "r",
    "e",
    "d",
    "d</w>",
    "re",
    "red</w>",
    "a</w>",
    "s</w>",
    ",</w>",
    "s",
)
CLIP_MERGES = "#version: 0.2\nr e\nre d</w>\n"
TEXTS = ("Red squares, a", "red red", "a", "unknown café")


def text_tower(kind: str, **changes: object) -> TransformersTower:
    classes = {
        "bert": (transformers.BertModel, transformers.BertConfig),
        "clip": (transformers.CLIPTextModel, transformers.CLIPTextConfig),
        "siglip": (transformers.SiglipTextModel, transformers.SiglipTextConfig),
        "siglip2": (transformers.Siglip2TextModel, transformers.Siglip2TextConfig),
    }
    model, config = classes[kind]
    torch.manual_seed(0)
    return TransformersTower(model(config(**{**SIZES, **changes})), (0, 1), "text").eval()


def vocabulary(kind: str, folder: Path) -> None:
    """As published before there was a tokenizer.json."""
    if kind == "bert":
        (folder / "vocab.txt").write_text("\n".join(BERT_WORDS) + "\n")
    else:
        (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(CLIP_WORDS)}))
        (folder / "merges.txt").write_text(CLIP_MERGES)


def reference(kind: str, **changes: object) -> transformers.PreTrainedTokenizerBase:
    if kind == "bert":
        words = {word: place for place, word in enumerate(BERT_WORDS)}
        return transformers.BertTokenizer(vocab=words, **changes)
    words = {word: place for place, word in enumerate(CLIP_WORDS)}
    return transformers.CLIPTokenizer(vocab=words, merges=[("r", "e"), ("re", "d</w>")], **changes)


@pytest.mark.parametrize("form", ["vocabulary", "tokenizer.json", "both"])
@pytest.mark.parametrize("kind", ["bert", "clip"])
def test_ids_are_transformers_own(kind: str, form: str, tmp_path: Path) -> None:
    expected = reference(kind)
    if form != "tokenizer.json":
        vocabulary(kind, tmp_path)
    if form != "vocabulary":
        expected.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    tokenizer, files = read_tokenizer([text_tower(kind)], [tmp_path / "empty", tmp_path])
    assert tokenizer is not None
    for text in TEXTS:
        encoding = tokenizer.encode(text)
        assert encoding.ids == expected(text)["input_ids"]
        assert [encoding.special_tokens_mask[0], encoding.special_tokens_mask[-1]] == [1, 1]
    if form == "vocabulary":
        assert {path.name for path in files} == {path.name for path in tmp_path.iterdir()}
    else:
        assert [path.name for path in files] == ["tokenizer.json"]


def test_settings_beside_a_vocabulary_count(tmp_path: Path) -> None:
    vocabulary("bert", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    tokenizer, files = read_tokenizer([text_tower("bert")], [tmp_path])
    assert tokenizer is not None
    assert tokenizer.encode("Red red").ids == reference("bert", do_lower_case=False)("Red red")["input_ids"]
    assert tokenizer.encode("Red red").tokens == ["[CLS]", "Red", "red", "[SEP]"]
    assert {path.name for path in files} == {"vocab.txt", "tokenizer_config.json"}


@pytest.mark.parametrize(("kind", "lacking"), [("clip", "merges.txt"), ("clip", "vocab.json"), ("bert", "vocab.txt")])
def test_half_a_vocabulary_is_none(kind: str, lacking: str, tmp_path: Path) -> None:
    """transformers would go on with a vocabulary of its special tokens alone."""
    vocabulary(kind, tmp_path)
    (tmp_path / lacking).unlink()
    assert read_tokenizer([text_tower(kind)], [tmp_path]) == (None, [])


def test_a_tokeniser_larger_than_the_tower_is_refused(tmp_path: Path) -> None:
    vocabulary("bert", tmp_path)
    with pytest.raises(InvalidInput, match="the tokeniser has 13 tokens, the text tower 12"):
        read_tokenizer([text_tower("bert", vocab_size=12)], [tmp_path])


def gemma_like(folder: Path, normalizer: normalizers.Normalizer | None = None, **settings: object) -> Path:
    """The shape of SigLIP's tokenizer.json: pieces with a mark for the space, the end token after, padded to full length."""
    words = ("<pad>", "</s>", "<unk>", "▁red", "▁square", "s", "▁a", ",", "▁", "▁Red", "▁reds")
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizer or normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens([AddedToken("<pad>"), AddedToken("</s>")])
    tokenizer.enable_padding(pad_id=0, pad_token="<pad>", length=8)
    if settings.pop("no_padding", False):
        tokenizer.no_padding()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("kind", ["siglip", "siglip2"])
def test_siglip_lowers_its_words_and_learns_its_pad_token(kind: str, tmp_path: Path) -> None:
    towers = [text_tower(kind), text_tower(kind)]
    tokenizer, _ = read_tokenizer(towers, [gemma_like(tmp_path)])
    assert tokenizer is not None
    assert tokenizer.encode("Red SQUARE").tokens == ["▁red", "▁square", "</s>"]  # no padding: the tower does that
    assert [tower.pad_id for tower in towers] == [0, 0]  # its config.json says 1, as transformers' default does


def test_siglips_first_version_drops_punctuation_as_its_processor_does(tmp_path: Path) -> None:
    first, _ = read_tokenizer([text_tower("siglip")], [gemma_like(tmp_path / "1", tokenizer_class="SiglipTokenizer")])
    second, _ = read_tokenizer([text_tower("siglip")], [gemma_like(tmp_path / "2", tokenizer_class="GemmaTokenizer")])
    assert first is not None
    assert second is not None
    text = " Red, [a] -\\&~^ square!  "
    # transformers' SiglipTokenizer.canonicalize_text, which needs sentencepiece to be called
    expected = re.sub(r"\s+", " ", text.lower().translate(str.maketrans("", "", string.punctuation))).strip()
    assert first.normalizer.normalize_str(text) == expected.replace(" ", "▁") == "red▁a▁square"
    assert second.normalizer.normalize_str(text) == text.lower().replace(" ", "▁")


def test_siglips_pad_token_comes_from_the_settings_where_the_tokeniser_does_not_say(tmp_path: Path) -> None:
    tower = text_tower("siglip")
    folder = gemma_like(tmp_path / "a", no_padding=True, pad_token={"content": "</s>"})
    _, files = read_tokenizer([tower], [folder])
    assert tower.pad_id == 1
    assert [path.name for path in files] == ["tokenizer.json", "tokenizer_config.json"]
    with pytest.raises(InvalidInput, match=r"neither tokenizer\.json nor tokenizer_config\.json names a pad token"):
        read_tokenizer([tower], [gemma_like(tmp_path / "b", no_padding=True)])


def test_a_text_longer_than_siglip_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at most 8 tokens, got 9"):
        text_tower("siglip")(torch.ones(1, 9, dtype=torch.long))


def saved(kind: str, folder: Path) -> Path:
    """A backbone folder: weights and vocabulary."""
    text_tower(kind).encoder.save_pretrained(folder)
    vocabulary(kind, folder)
    return folder


def checkpoint(folder: Path, config: Ret2Config = CONFIG) -> Path:
    """A tiny checkpoint without a tokeniser of its own."""
    write_tiny_checkpoint(folder, config)
    (folder / "tokenizer.json").unlink()
    return folder


def untrained(text: Path, vision: Path) -> Retriever:
    return Retriever.untrained(
        replace(
            CONFIG,
            text=BackboneConfig("transformers", f"folder:{text}", (0, 1)),
            vision=BackboneConfig("transformers", f"folder:{vision}", (0, 1)),
            max_text_tokens=8,
        )
    )


@pytest.fixture
def vision_folder(tmp_path: Path) -> Path:
    """CLIP whole, as it is published: its vision half is used, its tokeniser lies beside it."""
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPConfig(text_config=SIZES, vision_config=sizes | {"image_size": 32, "patch_size": 8})
    transformers.CLIPModel(config).save_pretrained(tmp_path / "clip")
    reference("clip").backend_tokenizer.save(str(tmp_path / "clip" / "tokenizer.json"))
    return tmp_path / "clip"


def test_the_tokeniser_is_the_text_towers_not_the_vision_towers(tmp_path: Path, vision_folder: Path) -> None:
    retriever = untrained(saved("bert", tmp_path / "bert"), vision_folder)
    prepared = retriever.prepare(Input("Red squares"), Role.QUERY, Limits())
    assert prepared.tokens is not None
    assert prepared.tokens.tolist() == reference("bert")("Red squares")["input_ids"]


@pytest.mark.parametrize("changed", ["vocab.txt", "tokenizer_config.json", "config.json", "tokenizer.json"])
def test_the_tokeniser_and_the_backbones_configuration_are_in_the_fingerprint(
    changed: str, tmp_path: Path, vision_folder: Path
) -> None:
    text = saved("bert", tmp_path / "bert")
    before = untrained(text, vision_folder).info.fingerprint
    assert untrained(text, vision_folder).info.fingerprint == before
    edits: dict[str, Callable[[Path], object]] = {
        "vocab.txt": lambda path: path.write_text("\n".join((*BERT_WORDS, "more")) + "\n"),
        "tokenizer_config.json": lambda path: path.write_text('{"do_lower_case": false}'),
        "config.json": lambda path: path.write_text(path.read_text().replace('"gelu"', '"relu"')),
        "tokenizer.json": lambda path: reference("bert").backend_tokenizer.save(str(path)),
    }
    edits[changed](text / changed)
    assert untrained(text, vision_folder).info.fingerprint != before


def test_a_text_limit_beyond_the_towers_positions_is_refused(tmp_path: Path) -> None:
    config = json.loads((checkpoint(tmp_path) / "config.json").read_text()) | {"max_text_tokens": 17}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidInput, match="max_text_tokens is 17, the text tower has 16 positions"):
        Retriever.load(str(tmp_path))
