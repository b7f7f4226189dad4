"""Named points in the code at which a test may have this process die.

    TCC_FAILPOINTS="log.save.after=kill@5,call.before=kill"

A failpoint stands before and after every durable step: a write, a send, a local
commit, a reply. `NAME=kill@N` ends the process with SIGKILL when it comes to that
point for the Nth time; without `@N`, at once. The variable is read once, when
this module is imported. Where it is not set, a failpoint costs one look at an
empty dictionary; it is placed once a batch, never once a transaction.
"""

import os
import re
import signal
from collections.abc import Mapping

VARIABLE = "TCC_FAILPOINTS"

_RULE = re.compile(r"([a-z_.]+)=kill(?:@([1-9][0-9]*))?")


def parse(rules: str) -> dict[str, int]:
    """Return the names in the variable's value, each with the pass at which it kills.

    Raises:
        ValueError: a rule is not of the form `NAME=kill` or `NAME=kill@N`.
    """
    armed: dict[str, int] = {}
    for rule in filter(None, map(str.strip, rules.split(","))):
        found = _RULE.fullmatch(rule)
        if found is None:
            raise ValueError(f"{VARIABLE}: {rule!r} is not NAME=kill or NAME=kill@N")
        armed[found[1]] = int(found[2] or 1)
    return armed


def rules(armed: Mapping[str, int]) -> str:
    """Return what `parse` reads."""
    return ",".join(f"{name}=kill@{hits}" for name, hits in armed.items())


def failpoint(name: str) -> None:
    """Kill this process here if a test asks for it."""
    if _armed and name in _armed:
        _hit(name)


def _hit(name: str) -> None:
    _armed[name] -= 1
    if not _armed[name]:
        # Past every buffer, so that whoever finds us dead finds why.
        os.write(2, f"killed at failpoint {name}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)


_armed = parse(os.environ.get(VARIABLE, ""))
