"""Whose run a folder holds: what the run was begun with is kept beside it, and another run is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.checkpoints.weights import CONFIG_FILE, read_config, write_whole
from model.errors import InvalidInput
from model.training.distributed import Ranks

RUN_FILE, STATE_FILE = "run.json", "state.safetensors"
# Hashes, or long: what they are tells a reader nothing.
_SAID = {
    "pairs": "the pairs differ",
    "start": "the model that it began with is another",
}


def claim(folder: Path, record: Mapping[str, Any], ranks: Ranks, *, fresh: bool) -> bool:
    """Claim the folder for this run. Return True if it has an unfinished run to continue.

    `record` is all that decides what the run learns. Raises `InvalidInput` if the folder contains another run or
    another model.
    """
    record = json.loads(json.dumps(record))  # tuples become lists, as they come back from the file
    began = (folder / RUN_FILE).exists()
    if not fresh and not began and (folder / CONFIG_FILE).exists():
        raise InvalidInput(f"{folder} holds another model; name another folder, or --fresh to write over it")
    if not fresh and began:
        if changed := _differences(read_config(folder, RUN_FILE), record):
            raise InvalidInput(
                f"{folder} holds a run with other settings ({'; '.join(changed)}); repeat them, name another folder, "
                "or --fresh"
            )
        return (folder / STATE_FILE).exists()
    ranks.any(False)  # nobody writes before all have looked
    if ranks.first:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder / "logs", ignore_errors=True)
        (folder / STATE_FILE).unlink(missing_ok=True)
        write_whole(folder / RUN_FILE, json.dumps(record, indent=2) + "\n")
    ranks.any(False)  # nobody looks into the folder before it is ready
    return False


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    old, new = ({**side, **side.get("settings", {})} for side in (before, now))
    return [
        _SAID.get(key, f"{key} was {old.get(key)}, is {new[key]}")
        for key in new
        if key != "settings" and old.get(key) != new[key]
    ]
