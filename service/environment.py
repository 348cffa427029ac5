"""Variables of the environment that look like settings and are none: left over from an earlier version, or misspelt."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

_PREFIX = "RET2_"
# What the commands that talk to a service read, and what the tests do.
_READ_ELSEWHERE = re.compile(r"RET2_(URL|API_KEY|TEST_.+)")
# What Kubernetes sets for a Service whose name begins with ret2.
_SERVICE_LINK = re.compile(r"RET2_(.+_)?(SERVICE_(HOST|PORT)(_.+)?|PORT_\d+_(TCP|UDP)(_.+)?)")


def unknown_variables(environment: Mapping[str, str], settings: Iterable[str]) -> dict[str, str | None]:
    """Return the variables that no setting has the name of, each with the most similar one that there is, if any."""
    names = [f"{_PREFIX}{name.upper()}" for name in settings]
    unknown: dict[str, str | None] = {}
    for name in sorted(environment):
        if not name.startswith(_PREFIX) or name in names:
            continue
        if _READ_ELSEWHERE.fullmatch(name) or _SERVICE_LINK.fullmatch(name):
            continue
        unknown[name] = next(iter(difflib.get_close_matches(name, names, 1, 0.75)), None)
    return unknown
