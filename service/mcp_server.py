"""`ret2 mcp`: the service as tools of the Model Context Protocol, for assistants that search. Needs the extra `mcp`,
and no torch."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult, ContentBlock, ImageContent, TextContent, ToolAnnotations
from PIL import Image
from pydantic import BaseModel, Field

from model.errors import InvalidInput, RetrievalError
from model.images.decoding import decode_image
from model.types import Limits
from service.client.client import Client
from service.client.types import Document, Hit

_IMAGE_PX = 512  # the longer side of an image in an answer: enough to see what is on it, some tens of kilobytes
_MAX_HITS = 50  # an answer is read by a model, whole

Collection = Annotated[str | None, Field(description="where to look; `collections` lists what there is")]
Metadata = Annotated[
    dict[str, Any] | None,
    Field(description='a condition on metadata, such as {"field": "region", "equals": "Europe"}; also all, any, not'),
]


class FoundDocument(BaseModel):
    id: str
    text: str | None
    metadata: dict[str, Any]
    has_image: bool
    score: float | None = Field(None, description="similarity to the query, at most 1")
    passage: str | None = Field(None, description="of a long text the part that is nearest to the query")


class SearchAnswer(BaseModel):
    hits: list[FoundDocument]


class CollectionAnswer(BaseModel):
    name: str
    documents: int


class CollectionsAnswer(BaseModel):
    collections: list[CollectionAnswer]


def mcp_server(client: Client, *, collection: str | None = None, images: Path | None = None) -> MCPServer[Any]:
    """Build the MCP server. Calls that name no collection use `collection`; with `images`, a call may search with a
    file of that folder.

    The client belongs to the caller. Mistakes in a call become tool errors, whose text the assistant reads.
    """
    tools = _Tools(client, collection, images)
    server: MCPServer[Any] = MCPServer(
        "ret2",
        instructions="Searches collections of documents, each a text, an image or both, by text, by an image, or by "
        "an image and a "
        "question about it. The best hits come first.",
        log_level="WARNING",
    )
    reading = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
    for tool in (tools.search, tools.get_document, tools.collections):
        server.add_tool(tool, annotations=reading)
    return server


class _Tools:
    """The methods' names, docstrings and annotations are what assistants see. They run in threads."""

    def __init__(self, client: Client, collection: str | None, images: Path | None) -> None:
        self._client = client
        self._collection = collection
        self._images = None if images is None else images.resolve()

    def search(
        self,
        text: Annotated[str | None, Field(description="what to look for, or a question about the image")] = None,
        image: Annotated[
            str | None, Field(description="an http(s) URL, a data URI, or the path of a file this server may read")
        ] = None,
        document_id: Annotated[
            str | None, Field(description="find what is like this document; goes without text and image")
        ] = None,
        collection: Collection = None,
        filter: Metadata = None,  # noqa: A002 - as in the HTTP API
        sort: Annotated[
            list[str] | None,
            Field(
                description="metadata fields to sort by, such as price, or -price for descending; without a text, an "
                "image and a document they list the collection"
            ),
        ] = None,
        limit: Annotated[int, Field(ge=1, le=_MAX_HITS)] = 5,
        with_images: Annotated[bool, Field(description="show the hits' images too")] = False,
    ) -> Annotated[CallToolResult, SearchAnswer]:
        """Find the documents nearest to a text, an image, or both."""
        with _errors_for_the_caller():
            name = self._named(collection)
            picture = None if image is None else self._picture(image)
            result = self._client.search(
                name, text, picture, document_id=document_id, filter=filter, sort=sort or (), limit=limit
            )
            return self._answer(name, result.hits, with_images)

    def get_document(
        self,
        document_id: Annotated[str, Field(description="the `id` of a hit")],
        collection: Collection = None,
        with_image: Annotated[bool, Field(description="show its image too")] = True,
    ) -> Annotated[CallToolResult, FoundDocument]:
        """Return a whole document: its text, metadata and image."""
        with _errors_for_the_caller():
            name = self._named(collection)
            document = self._client.document(name, document_id)
            answer = _found_document(document)
            content = self._content(name, answer, with_image)
            return CallToolResult(content=content, structured_content=answer.model_dump())

    def collections(self) -> CollectionsAnswer:
        """List the collections that can be searched, with the number of documents of each."""
        with _errors_for_the_caller():
            collections = self._client.collections()
        return CollectionsAnswer(
            collections=[
                CollectionAnswer(name=collection.name, documents=collection.documents) for collection in collections
            ]
        )

    def _named(self, collection: str | None) -> str:
        if name := collection or self._collection:
            return name
        raise InvalidInput("no collection is named, and this server has none by default: `collections` lists them")

    def _picture(self, image: str) -> str | Path:
        if image.startswith(("http://", "https://", "data:")):
            return image
        if self._images is None:
            raise InvalidInput(
                "image is neither a URL nor a data URI, and this server reads no files (--images FOLDER)"
            )
        path = (self._images / image).resolve()
        if not path.is_relative_to(self._images):
            raise InvalidInput(f"image {image!r:.100} is not in {self._images}, the folder this server reads")
        return path

    def _answer(self, collection: str, hits: Sequence[Hit], with_images: bool) -> CallToolResult:
        """Return a block of text for each hit, followed by its image."""
        documents = [_found_document(hit) for hit in hits]
        content = [block for document in documents for block in self._content(collection, document, with_images)]
        return CallToolResult(
            content=content or [TextContent(type="text", text="no hits")],
            structured_content=SearchAnswer(hits=documents).model_dump(),
        )

    def _content(self, collection: str, document: FoundDocument, with_image: bool) -> list[ContentBlock]:
        content: list[ContentBlock] = [TextContent(type="text", text=document.model_dump_json(exclude_none=True))]
        if with_image and document.has_image:
            content.append(_image_content(self._client.image(collection, document.id)))
        return content


def _found_document(document: Document | Hit) -> FoundDocument:
    return FoundDocument(
        id=document.id,
        text=document.text,
        metadata=document.metadata,
        has_image=document.image_url is not None,
        score=document.score if isinstance(document, Hit) else None,
        passage=document.part.text if isinstance(document, Hit) and document.part else None,
    )


def _image_content(data: bytes) -> ImageContent:
    """Return a small image in a format that every assistant accepts, whatever was posted."""
    image = decode_image(data, Limits(), at_least_px=_IMAGE_PX)
    image.thumbnail((_IMAGE_PX, _IMAGE_PX), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return ImageContent(type="image", data=base64.b64encode(file.getvalue()).decode(), mime_type="image/jpeg")


@contextmanager
def _errors_for_the_caller() -> Iterator[None]:
    try:
        yield
    except RetrievalError as error:
        raise ToolError(error.detail) from error
