"""Models of a Hugging Face hub: resolved to a commit once, downloaded once, then read from its cache without the
network.

The cache is huggingface_hub's own (`HF_HOME`); its variables `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` work as
usual.
"""

from __future__ import annotations

import contextlib
import queue
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub import errors as hub_errors
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from model.checkpoints.foreign import without_config
from model.checkpoints.weights import CONFIG_FILE, INDEX_FILE, PICKLES, WEIGHTS_FILE, only_pickles, weight_files
from model.errors import DependencyUnavailable, InvalidInput
from model.parts import Location

MAIN = "main"
# Endings of the files beside the weights that a model is read from.
SMALL_FILES = (".json", ".txt", ".model")
_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# A hub that answers does so in well under a second. Without a network, whoever started the service waits no longer than
# both.
_ANSWER_S, _LOOK_UP_S = 3.0, 4.0
# The second is that of its HTTP library, whichever it is: httpx for some versions, a successor for others.
_TRANSPORT_ERRORS = (OSError, hub_errors.HTTPError)  # type: ignore[attr-defined]
T = TypeVar("T")


def is_name(text: str) -> bool:
    """Return whether a text has the form ORG/NAME."""
    if not _NAME.fullmatch(text):
        return False
    with contextlib.suppress(hub_errors.HFValidationError):
        validate_repo_id(text)
        return True
    return False


def fetch(source: str, revision: str | None = None, *, renew: bool = False) -> Location:
    """Return the model `ORG/NAME`, `ORG/NAME@COMMIT` or `ORG/NAME@TAG`, and download it unless the cache has all of it.

    A branch or tag, `main` by default, is resolved to a commit at the first use; that commit is kept until `renew`.
    """
    name, _, pinned = source.partition("@")
    revision = pinned or revision or MAIN
    if not is_name(name):
        raise InvalidInput(
            f"hub model {name!r} has no name of the form ORG/NAME, as in hub:google/siglip-base-patch16-256"
        )
    folder = None if renew else cached(name, revision)
    if folder is None:
        folder = _download(name, revision)
    return Location(folder, name, folder.name)


def cached(name: str, revision: str = MAIN) -> Path | None:
    """Return the folder of a model whose download is complete, else None."""
    path = huggingface_hub.try_to_load_from_cache(name, CONFIG_FILE, revision=revision)
    if not isinstance(path, str):
        return None
    folder = Path(path).parent
    try:
        weight_files(folder)
    except InvalidInput:
        return None
    return folder


def _download(name: str, revision: str) -> Path:
    """Download the weights last, and note the commit of a branch or tag after them, so that an interrupted download
    starts again."""
    commit, files = _look_up(name, revision)
    _check(name, files)

    def get(file: str, pinned: str = commit) -> Path:
        return Path(huggingface_hub.hf_hub_download(name, file, revision=pinned))

    try:
        folder = get(CONFIG_FILE).parent
        for file in sorted(files):
            if file.endswith(SMALL_FILES) and "/" not in file and file != CONFIG_FILE:
                get(file)
        if INDEX_FILE in files:
            for file in sorted(file for file in files if file.startswith("model-") and file.endswith(".safetensors")):
                get(file)
        else:
            get(WEIGHTS_FILE)
        if not _COMMIT.fullmatch(revision):
            get(CONFIG_FILE, revision)
    except _TRANSPORT_ERRORS as error:
        raise DependencyUnavailable(
            f"the download of hub model {name!r} at {commit} broke off ({_reason(error)}). "
            "Start again: what has been downloaded is kept"
        ) from error
    weight_files(folder)
    return folder


def _look_up(name: str, revision: str) -> tuple[str, set[str]]:
    """Return the commit that `revision` means now, and the names of its files."""
    where = urlsplit(huggingface_hub.constants.ENDPOINT).hostname
    label = f"hub model {name!r}" if revision == MAIN else f"hub model {name!r} at {revision}"
    try:
        info = _within(
            _LOOK_UP_S,
            lambda: huggingface_hub.HfApi().model_info(name, revision=revision, timeout=_ANSWER_S),
        )
    except hub_errors.GatedRepoError as error:
        raise InvalidInput(
            f"{label} must be asked for: accept its terms on its page at {where}, then start again with HF_TOKEN set "
            "to a "
            "token of yours",
            field="model",
        ) from error
    except hub_errors.RepositoryNotFoundError as error:
        raise InvalidInput(
            f"{where} has no model {name!r} that can be read. Check the name; if the model is private, set HF_TOKEN",
            field="model",
        ) from error
    except hub_errors.RevisionNotFoundError as error:
        raise InvalidInput(
            f"hub model {name!r} has no revision {revision!r}. Name a commit or a tag of it, or none for {MAIN}",
            field="model",
        ) from error
    except _TRANSPORT_ERRORS as error:
        raise DependencyUnavailable(
            f"{label} is not on this machine, and {where} cannot be reached ({_reason(error)}). Download it where "
            "there "
            f"is a network (ret2 models pull hub:{name}) and copy the folder that this prints, or copy the cache and "
            "set HF_HOME",
            field="model",
        ) from error
    return str(info.sha), {sibling.rfilename for sibling in info.siblings or ()}


def _check(name: str, files: set[str]) -> None:
    """Refuse what would not load before anything large is downloaded."""
    if CONFIG_FILE not in files:
        raise InvalidInput(without_config(f"hub model {name!r}", sorted(files)), field="model")
    if WEIGHTS_FILE in files or INDEX_FILE in files:
        return
    if pickles := sorted(file for file in files if file.endswith(PICKLES)):
        raise InvalidInput(
            f"{only_pickles(f'hub model {name!r}', pickles)}. Its page may have a revision with safetensors among its "
            f"pull requests: hub:{name}@refs/pr/NUMBER",
            field="model",
        )
    raise InvalidInput(
        f"hub model {name!r} has no weights that can be read here: neither {WEIGHTS_FILE} nor {INDEX_FILE}. "
        "Take a version of it in transformers' format",
        field="model",
    )


def _within(seconds: float, work: Callable[[], T]) -> T:
    """Return or raise what `work` does, or raise `TimeoutError`. The resolution of a host name has no time-out of its
    own."""
    answers: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((work(), None))
        except BaseException as error:  # noqa: BLE001  it is raised where it is waited for
            answers.put((None, error))

    threading.Thread(target=run, name="hub look-up", daemon=True).start()
    try:
        value, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


def _reason(error: BaseException) -> str:
    """Describe an error without the library's own text, which may contain signed addresses."""
    if isinstance(error, hub_errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if isinstance(error, hub_errors.HfHubHTTPError) and error.response is not None:
        return f"status {error.response.status_code}"
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return "no answer in time"
    strerror = getattr(error, "strerror", None)
    return strerror or type(error).__name__
