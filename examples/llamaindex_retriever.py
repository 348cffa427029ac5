"""ret2 as a LlamaIndex retriever: a question, a picture, or a picture and a question about it.

    pip install '.[examples]'
    python examples/llamaindex_retriever.py atlas "Which countries lie next to this country?" --image flag.png

In a query engine it stands where any retriever stands, `RetrieverQueryEngine.from_args(retriever, llm=…)`; a picture goes into the query:
`retriever.retrieve(QueryBundle(question, image_path="flag.png"))`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import ImageNode, NodeWithScore, QueryBundle, TextNode

from service.client.client import DEFAULT_URL, Client
from service.client.types import Hit


class Ret2Retriever(BaseRetriever):
    """The client belongs to whoever made it. `where` is a condition on metadata, as `filter` in the HTTP API."""

    def __init__(
        self, client: Client, collection: str, *, limit: int = 4, where: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self._client, self._collection, self._limit, self._where = client, collection, limit, where

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        image = Path(query_bundle.image_path) if query_bundle.image_path else None
        text = query_bundle.query_str or None
        found = self._client.search(self._collection, text, image, limit=self._limit, filter=self._where)
        return [NodeWithScore(node=self._node(hit), score=hit.score) for hit in found.hits]

    def _node(self, hit: Hit) -> TextNode:
        metadata = dict(hit.metadata)
        if hit.image_url is None:
            return TextNode(id_=hit.id, text=hit.text or "", metadata=metadata)
        return ImageNode(id_=hit.id, text=hit.text or "", metadata=metadata, image_url=self._client.url + hit.image_url)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection")
    parser.add_argument("question")
    parser.add_argument("--image")
    parser.add_argument("--url", default=DEFAULT_URL)
    given = parser.parse_args()
    with Client(given.url) as client:
        retriever = Ret2Retriever(client, given.collection)
        for found in retriever.retrieve(QueryBundle(given.question, image_path=given.image)):
            print(f"{found.score:.3f}  {found.node.id_}  {found.text}")


if __name__ == "__main__":
    main()
