"""ret2 as a LangChain retriever: a question, a picture, or a picture and a question about it.

    pip install '.[examples]'
    python examples/langchain_retriever.py atlas "Which countries lie next to this country?" --image flag.png

In a chain it stands where any retriever stands, `{"context": retriever, "question": RunnablePassthrough()} | prompt | model`; a picture
goes beside the question: `retriever.invoke(question, image=Path("flag.png"))`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict

from service.client.client import DEFAULT_URL, Client
from service.client.types import Hit


class Ret2Retriever(BaseRetriever):
    """The client belongs to whoever made it. `filter` is a condition on metadata, as in the HTTP API."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    client: Client
    collection: str
    limit: int = 4
    filter: Mapping[str, Any] | None = None

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, image: Path | bytes | str | None = None
    ) -> list[Document]:
        found = self.client.search(self.collection, query or None, image, limit=self.limit, filter=self.filter)
        return [self._document(hit) for hit in found.hits]

    def _document(self, hit: Hit) -> Document:
        ours = {"score": hit.score} | ({"image_url": self.client.url + hit.image_url} if hit.image_url else {})
        return Document(id=hit.id, page_content=hit.text or "", metadata={**hit.metadata, **ours})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection")
    parser.add_argument("question")
    parser.add_argument("--image", type=Path)
    parser.add_argument("--url", default=DEFAULT_URL)
    given = parser.parse_args()
    with Client(given.url) as client:
        retriever = Ret2Retriever(client=client, collection=given.collection)
        for document in retriever.invoke(given.question, image=given.image):
            print(f"{document.metadata['score']:.3f}  {document.id}  {document.page_content}")


if __name__ == "__main__":
    main()
