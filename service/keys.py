"""API keys: who may do what in which collections. A file holds them hashed and is read again when it changes.

A key is 32 random bytes, so nobody can try them all, and SHA-256 keeps it as well as a slow hash would. Slow hashes are
for passwords, which can be guessed; here one would only cost time with every request, and let whoever sends wrong keys
spend ours.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import structlog

from model.errors import Forbidden, InvalidInput

log = structlog.get_logger(__name__)

EVERY_COLLECTION = ("",)
_PREFIX = "ret2_"  # for the scanners that look for keys in what people publish
_HASHED = "sha256:"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_COLLECTION_PREFIX = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_HASH = re.compile(r"[0-9a-f]{64}")
_MIN_KEY_CHARS = 16  # of keys that others made; shorter ones can be guessed
_MAX_FILE_BYTES = 2**20
_READ_EVERY_S = 1.0  # how long a key that was taken out of the file still opens


class KeyScope(StrEnum):
    """A right of a key; none implies another."""

    SEARCH = "search"
    WRITE = "write"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Key:
    """A key without its secret. `prefixes`: it sees the collections whose names begin with one of them."""

    name: str
    scopes: frozenset[KeyScope]
    prefixes: tuple[str, ...] = EVERY_COLLECTION

    @property
    def sees_all(self) -> bool:
        return "" in self.prefixes

    def sees(self, collection: str) -> bool:
        return collection.startswith(self.prefixes)

    def require(self, collection: str) -> None:
        """Raise `Forbidden` unless the key allows this collection, whether or not it exists."""
        if not self.sees(collection):
            raise Forbidden(
                f"key {self.name!r} is for collections {self._wanted()}, not for {collection!r:.100}",
                field="collection",
                value=collection,
                limit=self._wanted(),
            )

    def _wanted(self) -> str:
        return ", ".join(f"{prefix}*" for prefix in self.prefixes)


# Whoever comes where there are no keys at all.
ANYONE = Key("anonymous", frozenset(KeyScope))

Entry = tuple[bytes, Key]  # the key's SHA-256, and whose it is


class KeyFile:
    """The keys of a file. A new file that cannot be used is logged once and changes nothing."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the file. Raises `InvalidInput`."""
        self._path, self._clock = path, clock
        self._read_at = clock()
        self._content = _content(path)
        self._entries = entries_in(path, self._content)
        self._complaint = ""

    @property
    def keys(self) -> list[Key]:
        return [key for _, key in self._entries]

    def find(self, secret: str) -> Key | None:
        """Return the key with this secret. Every key is compared in constant time, so the duration does not tell
        whether one is close."""
        if self._clock() - self._read_at >= _READ_EVERY_S:
            self._read_again()
        digest = _digest(secret)
        matching = [key for key_digest, key in self._entries if hmac.compare_digest(digest, key_digest)]
        return matching[0] if matching else None

    def _read_again(self) -> None:
        """Read the file again if its content has changed. Its time is not used: a file may change twice within one
        tick, and a mounted Secret is replaced as a whole."""
        self._read_at = self._clock()
        try:
            content = _content(self._path)
            if content == self._content:
                return
            self._content = content
            self._entries = entries_in(self._path, content)
        except InvalidInput as error:
            if error.detail != self._complaint:
                log.error("the API keys stay as they were", detail=error.detail)  # noqa: TRY400  the file is wrong, not we
            self._complaint = error.detail
        else:
            self._complaint = ""
            log.info("API keys read again", keys=sorted({key.name for key in self.keys}))


def new_key() -> str:
    return _PREFIX + secrets.token_urlsafe(32)


def line_of(secret: str, key: Key) -> str:
    """Return the line of a key in the file. Raises `InvalidInput`."""
    if len(secret) < _MIN_KEY_CHARS:
        raise InvalidInput(f"the key has {len(secret)} characters, at least {_MIN_KEY_CHARS} are needed")
    if not _NAME.fullmatch(key.name):
        raise InvalidInput(
            f"key name {key.name!r:.100} does not fit: letters, digits, '.', '_' and '-', at most 63", field="name"
        )
    scopes = ",".join(scope for scope in KeyScope if scope in key.scopes)
    prefixes = ",".join(prefix or "*" for prefix in key.prefixes)
    return f"{key.name} {scopes} {prefixes} {_HASHED}{_digest(secret).hex()}"


def scopes_of(words: Sequence[str]) -> frozenset[KeyScope]:
    """Parse scopes. Raises `InvalidInput` if there are none or an unknown one; the message shows no word, because it
    may be a misplaced key."""
    if not words or not set(words) <= set(KeyScope):
        raise InvalidInput(f"the scopes must be of {', '.join(KeyScope)}", field="scope")
    return frozenset(map(KeyScope, words))


def prefixes_of(words: Sequence[str]) -> tuple[str, ...]:
    """Parse prefixes of collections; `*` allows every collection. Raises `InvalidInput`."""
    if not all(word == "*" or _COLLECTION_PREFIX.fullmatch(word) for word in words):
        raise InvalidInput(
            "the collections must be '*' or what their names begin with: lower-case letters, digits, '-' and '_'",
            field="collection",
        )
    return EVERY_COLLECTION if "*" in words or not words else tuple(words)


def entries_in(path: Path, content: str) -> list[Entry]:
    """Parse a file of keys. Raises `InvalidInput` that names the line and never shows its content."""
    entries: dict[bytes, tuple[int, Key]] = {}
    for number, line in enumerate(content.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            digest, key = _entry(words)
        except InvalidInput as error:
            raise InvalidInput(f"API keys file {path}, line {number}: {error.detail}") from None
        if digest in entries:
            raise InvalidInput(f"API keys file {path}, line {number}: the same key as in line {entries[digest][0]}")
        entries[digest] = number, key
    if not entries:
        raise InvalidInput(f"API keys file {path} has no key in it")
    return [(digest, key) for digest, (_, key) in entries.items()]


def _entry(words: Sequence[str]) -> Entry:
    """Read a line. Raises `InvalidInput`."""
    if len(words) != 4:
        raise InvalidInput(f"{len(words)} words, there must be four: name, scopes, collections, hash (ret2 keys new)")
    name, scopes, prefixes, hashed = words
    if not _NAME.fullmatch(name):
        raise InvalidInput("the name does not fit: letters, digits, '.', '_' and '-', at most 63")
    if not (hashed.startswith(_HASHED) and _HASH.fullmatch(hashed.removeprefix(_HASHED))):
        raise InvalidInput(f"the last word must be {_HASHED} and 64 hexadecimal digits (ret2 keys new)")
    key = Key(name, scopes_of(scopes.split(",")), prefixes_of(prefixes.split(",")))
    return bytes.fromhex(hashed.removeprefix(_HASHED)), key


def _content(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"API keys file {path} cannot be read: {type(error).__name__}") from error
    if len(content) > _MAX_FILE_BYTES:
        raise InvalidInput(f"API keys file {path} is over {_MAX_FILE_BYTES} bytes")
    return content


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
