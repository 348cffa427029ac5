"""The file of keys: hashed, read strictly, read again when it changes, never shown; and `ret2 keys`."""

import hashlib
import hmac
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner

from model.errors import Forbidden, InvalidInput
from service.cli.main import app
from service.keys import Key, KeyFile, KeyScope, line_of, new_key

SECRET = "correct-horse-battery"
OTHER = "another-secret-of-length"
SHOP = Key("shop", frozenset({KeyScope.SEARCH}), ("shop-", "tools"))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        self.now += 10
        return self.now


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def test_a_line_is_the_key_without_its_secret(file: Path) -> None:
    line = line_of(SECRET, SHOP)
    assert line == f"shop search shop-,tools sha256:{hashlib.sha256(SECRET.encode()).hexdigest()}"
    keys = KeyFile(written(file, "# ours", "", f"  {line}  ", line_of(OTHER, Key("ops", frozenset(KeyScope)))))
    assert keys.find(SECRET) == SHOP
    assert keys.find(OTHER) == Key("ops", frozenset({KeyScope.SEARCH, KeyScope.WRITE, KeyScope.ADMIN}), ("",))
    assert keys.find(SECRET[:-1]) is keys.find("") is keys.find("ü\udce9") is None


@pytest.mark.parametrize("given", [SECRET, OTHER, "neither-of-the-two"])
def test_every_key_is_compared_in_constant_time_whichever_matches(
    file: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    keys = KeyFile(written(file, line_of(SECRET, SHOP), line_of(OTHER, Key("ops", frozenset(KeyScope)))))
    compared: list[set[bytes]] = []
    same = hmac.compare_digest

    def spy(one: bytes, other: bytes) -> bool:
        compared.append({one, other})
        return same(one, other)

    monkeypatch.setattr("service.keys.hmac.compare_digest", spy)
    keys.find(given)
    digest = hashlib.sha256(given.encode()).digest()
    assert compared == [{digest, hashlib.sha256(known.encode()).digest()} for known in (SECRET, OTHER)]


def test_a_hash_is_no_key(file: Path) -> None:
    """Who has read the file can do nothing with it."""
    line = line_of(SECRET, SHOP)
    assert KeyFile(written(file, line)).find(line.split()[-1]) is None


def test_prefixes() -> None:
    assert SHOP.sees("shop-1")
    assert SHOP.sees("tools")
    assert not SHOP.sees("shop")
    assert not SHOP.sees_all
    assert Key("ops", frozenset(KeyScope)).sees_all
    with pytest.raises(Forbidden, match=r"'shop' is for collections shop-\*, tools\*, not for 'other'"):
        SHOP.require("other")


def test_new_keys_cannot_be_guessed() -> None:
    assert len({new_key() for _ in range(100)}) == 100
    assert len(new_key()) == len("ret2_") + 43  # 32 bytes


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (SECRET, "1 words, there must be four"),
        (f"shop search {SECRET}", "3 words"),
        (f"shop search * {SECRET}", "64 hexadecimal"),
        (f"shop search * sha256:{SECRET}", "64 hexadecimal"),
        (f"sha256:{'0' * 64}", "1 words"),
        (f"{SECRET} {SECRET} * sha256:{'0' * 64}", "search, write, admin"),
        (f"shop search {SECRET.upper()} sha256:{'0' * 64}", "begin with"),
        (f"shop * * sha256:{'0' * 64}", "search, write, admin"),
        (f"sh/op search * sha256:{'0' * 64}", "name"),
    ],
)
def test_a_wrong_line_is_named_and_not_shown(file: Path, line: str, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=rf"line 2.*{complaint}") as refused:
        KeyFile(written(file, "# ours", line))
    shown = str(refused.value).replace(str(file), "")
    assert not {SECRET, SECRET.upper(), "short-secret"} & set(shown.replace("'", " ").split())
    assert SECRET.lower() not in shown.lower()


@pytest.mark.parametrize("content", ["", "# nothing\n"])
def test_a_file_without_keys(file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.raises(InvalidInput, match="no key in it"):
        KeyFile(file)


def test_a_key_twice(file: Path) -> None:
    with pytest.raises(InvalidInput, match="line 2: the same key as in line 1"):
        KeyFile(written(file, line_of(SECRET, Key("ops", frozenset(KeyScope))), line_of(SECRET, SHOP)))


def test_missing_keys_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        KeyFile(tmp_path / "none")


def test_a_changed_file_counts_without_a_restart(file: Path) -> None:
    keys = KeyFile(written(file, line_of(SECRET, SHOP)), Clock())
    written(file, line_of(OTHER, SHOP))
    assert keys.find(SECRET) is None
    assert keys.find(OTHER) == SHOP


def test_it_is_not_read_for_each_request(file: Path) -> None:
    keys = KeyFile(written(file, line_of(SECRET, SHOP)), lambda: 5.0)
    written(file, line_of(OTHER, SHOP))
    assert keys.find(SECRET) == SHOP


def test_a_broken_new_file_changes_nothing_and_is_said_once(file: Path) -> None:
    keys = KeyFile(written(file, line_of(SECRET, SHOP)), Clock())
    with structlog.testing.capture_logs() as logs:
        for breakage in (lambda: written(file, "shop search"), lambda: file.write_text(""), file.unlink):
            breakage()
            assert keys.find(SECRET) == keys.find(SECRET) == SHOP
    assert [one["log_level"] for one in logs] == ["error"] * 3
    assert ["2 words" in logs[0]["detail"], "no key" in logs[1]["detail"], "cannot be read" in logs[2]["detail"]]
    written(file, line_of(OTHER, SHOP))
    assert keys.find(OTHER) == SHOP
    assert keys.find(SECRET) is None


# --- ret2 keys


def test_keys_new_prints_a_line_that_opens(file: Path) -> None:
    words = ["keys", "new", "--name", "shop", "--scope", "search,write", "--collection", "shop-", "--collection", "a,b"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    secret = done.stderr.strip()
    assert secret not in done.stdout
    key = KeyFile(written(file, done.stdout)).find(secret)
    assert key == Key("shop", frozenset({KeyScope.SEARCH, KeyScope.WRITE}), ("shop-", "a", "b"))


def test_keys_new_from_stdin(file: Path) -> None:
    done = CliRunner().invoke(app, ["keys", "new", "--name", "old", "--scope", "search", "--from-stdin"], SECRET + "\n")
    assert done.stderr == ""
    assert KeyFile(written(file, done.stdout)).find(SECRET) == Key("old", frozenset({KeyScope.SEARCH}))


@pytest.mark.parametrize(
    "words",
    [
        ["--name", "a b", "--scope", "search"],
        ["--name", "a", "--scope", "read"],
        ["--name", "a", "--scope", "search", "--collection", "Shop"],
        ["--name", "a", "--scope", "search", "--from-stdin"],
    ],
)
def test_keys_new_refuses(words: list[str]) -> None:
    done = CliRunner().invoke(app, ["keys", "new", *words], "short\n")
    assert done.exit_code == 1
    assert done.stdout == ""


def test_keys_list(file: Path) -> None:
    written(file, line_of(SECRET, SHOP))
    done = CliRunner().invoke(app, ["keys", "list"], env={"RET2_API_KEYS_FILE": str(file)})
    assert ["shop" in done.stdout, "search" in done.stdout, "shop-*" in done.stdout] == [True] * 3
    assert "sha256" not in done.stdout
    assert CliRunner().invoke(app, ["keys", "list"]).exit_code == 1
