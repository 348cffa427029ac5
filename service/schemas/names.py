"""What names may look like: patterns for the wire, and in words for who sent another."""

from __future__ import annotations

COLLECTION_NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"  # as `indexer.catalog` has it
DOCUMENT_ID = r"^[^\x00-\x1f\x7f-\x9f]{1,512}$"

IN_WORDS = {
    COLLECTION_NAME: "must be 1 to 63 of a-z, 0-9, _ and -, the first of them a letter or digit",
    DOCUMENT_ID: "must be 1 to 512 characters, none of them a control character",
}
