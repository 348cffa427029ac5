"""The form of names: as patterns, and in words for messages."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

COLLECTION_NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"
DOCUMENT_ID = r"^[^\x00-\x1f\x7f-\x9f]{1,512}$"

IN_WORDS = {
    COLLECTION_NAME: "must be 1 to 63 of a-z, 0-9, _ and -, the first of them a letter or digit",
    DOCUMENT_ID: "must be 1 to 512 characters, none of them a control character",
}

CollectionName = Annotated[str, StringConstraints(pattern=COLLECTION_NAME)]
DocumentId = Annotated[str, StringConstraints(pattern=DOCUMENT_ID)]
