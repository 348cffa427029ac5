"""Settings as flags and as a page of the docs: neither may say anything else than `Settings`."""

import os
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from model.errors import InvalidInput
from service.cli.flags import settings_from, settings_table, with_settings
from service.settings import Settings

PAGE = Path(__file__).parents[4] / "docs" / "settings.md"


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("RET2_"):
            monkeypatch.delenv(name)


def test_the_page_has_every_setting_as_it_is() -> None:
    """UPDATE_DOCS=1 in the environment writes the page anew."""
    before, marker, _ = PAGE.read_text().partition("| variable |")
    assert marker
    page = before + settings_table()
    if os.environ.get("UPDATE_DOCS") == "1":
        PAGE.write_text(page)
    assert PAGE.read_text() == page


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_flags_go_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RET2_PORT", "1234")
    monkeypatch.setenv("RET2_MODELS", "folder")
    settings = settings_from({"port": 4321})
    assert (settings.port, settings.models) == (4321, "folder")


def test_a_wrong_setting_is_named_with_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RET2_PORT", "99999")
    with pytest.raises(InvalidInput, match=r"RET2_PORT.*65535"):
        settings_from({})


def test_a_secret_is_never_in_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RET2_DATABASE_URL", "postgresql://user:hunter2@host/db")
    monkeypatch.setenv("RET2_ROLE", "api")  # for which more is needed than a database
    with pytest.raises(InvalidInput) as caught:
        settings_from({})
    assert "hunter2" not in caught.value.detail


def test_a_model_is_named_once_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RET2_MODELS", "folder")
    seen: list[str] = []
    app = typer.Typer()
    app.command()(with_settings(lambda settings: seen.append(settings.models)))
    for arguments in (["--model", "a=/a", "--model", "b=/b"], []):
        assert CliRunner().invoke(app, arguments).exit_code == 0
    assert seen == ["a=/a,b=/b", "folder"]


def test_two_models_of_one_name_are_refused_before_anything_is_loaded() -> None:
    with pytest.raises(InvalidInput, match="RET2_MODELS: two models have the name 'a': /a and /b"):
        settings_from({"models": "a=/a,a=/b"})


@pytest.mark.parametrize("url", ["qdrant:6333", "ftp://qdrant", "http://user:hunter2@qdrant:6333"])
def test_a_setting_of_another_form_is_told_the_form(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        settings_from({"qdrant_url": url})
    assert caught.value.detail.startswith(
        "RET2_QDRANT_URL: it has another form than expected, which is: http://HOST:PORT of a Qdrant server, or of the"
    )
    assert "hunter2" not in caught.value.detail
