"""Documents and hits as they are answered: a field is declared with its description and where its value comes from,
in one place. The OpenAPI document and the Python client follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import BaseModel, Field

from indexer.domain.documents import ThumbnailWidth
from indexer.domain.points import Part
from indexer.domain.samples import DOCUMENT_ID
from indexer.filters import steps

_IMAGE_URL = "/collections/flags/documents/flag%3Afr%2Fborders/image?v=9f86d081884c7d65"
# The value of a field that an answer leaves out, because nobody asked for it.
ABSENT: Any = object()


@dataclass(frozen=True, slots=True)
class ContentView:
    """A document out of the store, and what an answer is to show of it."""

    content: Any  # Hit | Point
    collection: str
    metadata_fields: bool | Sequence[str] = True
    with_vector: bool = False
    explanation: Any = ABSENT
    highlights: Any = ABSENT

    def image_url(self, place: int = 0) -> str | None:
        """Return a path of this service. It holds the image's digest, so that a browser may cache the image for
        good."""
        digests = self.content.digests
        if place >= len(digests):
            return None
        name, document_id = quote(self.collection), quote(self.content.document_id, safe="")
        number = f"&n={place}" if place else ""
        return f"/collections/{name}/documents/{document_id}/image?v={digests[place][:16]}{number}"

    def image_urls(self) -> Any:
        count = len(self.content.digests)
        return [self.image_url(place) for place in range(count)] if count > 1 else ABSENT

    def best_part(self) -> dict[str, Any] | None:
        """Return the part of a hit that is nearest to the query."""
        place = self.content.best_part
        return None if place is None else self._part(self.content.parts[place])

    def parts(self) -> Any:
        """Return all parts of a document that has several."""
        if not self.content.parts:
            return ABSENT
        parts = [self._part(part) for part in self.content.parts]
        if self.with_vector:
            for part, vector in zip(parts, self.content.vectors, strict=True):
                part["vector"] = vector
        return parts

    def _part(self, part: Part) -> dict[str, Any]:
        text = self.content.text
        return {
            "text": None if part.start is None or text is None else text[part.start : part.end],
            "start": part.start,
            "end": part.end,
            "image_url": None if part.image is None else self.image_url(part.image),
        }

    def thumbnail_url(self) -> str | None:
        """Return the path of a small copy of the image, which may be cached as the image may."""
        url = self.image_url()
        return None if url is None else f"{url}&width={ThumbnailWidth.SMALL}"

    def metadata(self) -> dict[str, Any]:
        return selected(self.content.metadata, self.metadata_fields)

    def vector(self) -> Any:
        return self.content.vector if self.with_vector else ABSENT


@dataclass(frozen=True, slots=True)
class From:
    """Stands beside the type of a field: how its value is read."""

    read: Callable[[ContentView], Any]


def wire(model: type[ContentOut], view: ContentView) -> dict[str, Any]:
    """Return an answer as plain data, whose vectors are arrays still."""
    return {name: value for name, read in _readers(model) if (value := read(view)) is not ABSENT}


@lru_cache
def _readers(model: type[ContentOut]) -> tuple[tuple[str, Callable[[ContentView], Any]], ...]:
    readers = []
    for name, field in model.model_fields.items():
        (source,) = (mark for mark in field.metadata if isinstance(mark, From))
        readers.append((name, source.read))
    return tuple(readers)


class ContentOut(BaseModel):
    """The content of a document as it is stored."""

    id: Annotated[str, From(lambda view: view.content.document_id)] = Field(
        description="the document's id", examples=[DOCUMENT_ID]
    )
    text: Annotated[str | None, From(lambda view: view.content.text)] = Field(
        description="the text; null when there is none", examples=["France borders Belgium, Spain and others."]
    )
    image_url: Annotated[str | None, From(lambda view: view.image_url())] = Field(
        description="the path of the image on this service; null when there is none", examples=[_IMAGE_URL]
    )
    image_urls: Annotated[list[str] | None, From(lambda view: view.image_urls())] = Field(
        None,
        description="the paths of all images, where there are several",
        examples=[[_IMAGE_URL, _IMAGE_URL + "&n=1"]],
    )
    thumbnail_url: Annotated[str | None, From(lambda view: view.thumbnail_url())] = Field(
        description="the path of a small copy of the image, at most 256 px wide and high; `width=1024` in place of "
        "`width=256` is a larger one; null when there is no image",
        examples=[_IMAGE_URL + "&width=256"],
    )
    metadata: Annotated[dict[str, Any], From(lambda view: view.metadata())] = Field(
        description="the metadata, or the part that was asked for", examples=[{"region": "Europe", "area_km2": 551695}]
    )
    vector: Annotated[list[float] | None, From(lambda view: view.vector())] = Field(
        None,
        description="with `with_vector`: the embedding, of unit length; where a document has several parts, of a hit "
        "that of its best part, else the mean of all",
        examples=[[0.6, 0.8]],
    )


class BestPartOut(BaseModel):
    """A part of a document that has an embedding of its own: a passage of its text, one of its images, or both."""

    text: str | None = Field(
        description="the passage; null where the part has no text", examples=["Its capital is Paris."]
    )
    start: int | None = Field(
        description="where the passage begins in the text, in characters (Unicode code points)", examples=[24]
    )
    end: int | None = Field(description="where it ends: the place behind its last character", examples=[45])
    image_url: str | None = Field(
        description="the path of the image; null where the part has none", examples=[_IMAGE_URL + "&n=1"]
    )


class PartOut(BestPartOut):
    """A part of a document as it is stored."""

    vector: list[float] | None = Field(
        None, description="with `with_vector`: the part's embedding, of unit length", examples=[[0.6, 0.8]]
    )


class DocumentOut(ContentOut):
    """A document as it is stored."""

    parts: Annotated[list[PartOut] | None, From(lambda view: view.parts())] = Field(
        None, description="what of the document has an embedding of its own, where that is several parts"
    )


class LayerOut(BaseModel):
    """How much text and image contributed to an embedding at one layer. Both are 0 for a layer that contributed
    nothing."""

    layer: int = Field(description="the layer: 0 is the earliest that the model reads", examples=[0])
    text: float = Field(description="the share of the text", examples=[0.62])
    image: float = Field(description="the share of the image", examples=[0.38])


class SharesOut(BaseModel):
    """How much of an embedding came from text and how much from the image."""

    layers: list[LayerOut] = Field(description="the layers of the model, earliest first")


class LexicalOut(BaseModel):
    """What the words of the query contributed, beside the embeddings."""

    score: float = Field(description="BM25", examples=[7.4])
    share: float = Field(description="the share of the words in the hit's score", examples=[0.5])


class ExplanationOut(BaseModel):
    """Why a hit is a hit."""

    document: SharesOut | None = Field(
        description="of the document's embedding; null where shares are not stored, and for a model without gates, "
        "such as CLIP"
    )
    query: SharesOut | None = Field(
        description="of the query's embedding; null when it is not the embedding of one input, as with examples"
    )
    similarity: float | None = Field(
        description="cosine of query and document embedding, whatever `score` is; null in mode lexical", examples=[0.83]
    )
    without_text: float | None = Field(
        description="similarity when the query's text is left out; null unless it has both", examples=[0.31]
    )
    without_image: float | None = Field(
        description="similarity when the query's image is left out; null unless it has both", examples=[0.44]
    )
    lexical: LexicalOut | None = Field(description="the words' part; null where no word of the query counted")
    boosts: list[float] = Field(
        [], description="what each boost of the search added to the score, in their order", examples=[[0.1, 0.02]]
    )
    closest: float | None = Field(
        None, description="with `diversity`: the greatest cosine with a hit before it; else null", examples=[0.71]
    )


class SpanOut(BaseModel):
    """Part of the text, in characters (Unicode code points) from its beginning."""

    start: int = Field(description="the first character", examples=[12])
    end: int = Field(description="the character behind the last", examples=[20])


class PassageOut(SpanOut):
    """A part of the text that holds words of the query."""

    text: str = Field(description="the passage", examples=["The Kenyan shilling is the currency of Kenya."])
    words: list[SpanOut] = Field(description="the words of the query in the text, as `start` counts")


class HitOut(ContentOut):
    """A document that was found."""

    score: Annotated[float, From(lambda view: view.content.score)] = Field(
        description="similarity to the query: the cosine of the two embeddings; another scale in modes lexical and "
        "hybrid; 0 without a query",
        examples=[0.83],
    )
    part: Annotated[BestPartOut | None, From(lambda view: view.best_part())] = Field(
        description="the part of the document that is nearest to the query; null where the document has one part, and "
        "in mode lexical"
    )
    explanation: Annotated[ExplanationOut | None, From(lambda view: view.explanation)] = Field(
        None, description="with `explain`: what came from text and what from the image"
    )
    highlights: Annotated[list[PassageOut] | None, From(lambda view: view.highlights)] = Field(
        None, description="with `highlight`: at most three passages with words of the query, in the order of the text"
    )


# --- a part of the metadata


def selected(metadata: Mapping[str, Any], fields: bool | Sequence[str]) -> dict[str, Any]:
    """Return the metadata with these fields only, each named by its path; True: all of it, False: nothing."""
    if isinstance(fields, bool):
        return dict(metadata) if fields else {}
    return _selected(metadata, _field_tree(tuple(fields)))


@lru_cache(maxsize=256)
def _field_tree(fields: tuple[str, ...]) -> dict[str, Any]:
    """Return the keys of the paths as nested mappings, None for a whole field. Built once for all hits of a search."""
    tree: dict[str, Any] = {}
    for path in map(steps, fields):
        node: Any = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
            if node is None:
                break
        else:
            node[path[-1]] = None
    return tree


def _selected(metadata: Mapping[str, Any], tree: Mapping[str, Any]) -> dict[str, Any]:
    chosen = {}
    for key, value in metadata.items():
        if key not in tree:
            continue
        if tree[key] is None:
            chosen[key] = value
        elif isinstance(value, Mapping) and (part := _selected(value, tree[key])):
            chosen[key] = part
    return chosen
