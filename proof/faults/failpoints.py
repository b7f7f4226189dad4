"""Kill this process at a failpoint of the product.

    PROOF_FAILPOINTS="log.save.after=kill@5,call.before=kill"

`NAME=kill@N` ends the process with SIGKILL when it comes to that point for the Nth
time; without `@N`, at once. The product does not read the variable: `proof.faults.child`
starts it with this hook.
"""

import os
import re
import signal
from collections.abc import Callable, Mapping

VARIABLE = "PROOF_FAILPOINTS"

_RULE = re.compile(r"([a-z_.]+)=kill(?:@([1-9][0-9]*))?")


def parse(rules: str) -> dict[str, int]:
    """Return the names in the variable's value, each with how often it is passed before it kills.

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


def killer(armed: Mapping[str, int]) -> Callable[[str], None]:
    """Return the hook for failpoints: it ends this process at one that is armed."""
    left = dict(armed)

    def reached(name: str) -> None:
        if name not in left:
            return
        left[name] -= 1
        if not left[name]:
            # Unbuffered, so that the log shows the reason.
            os.write(2, f"killed at failpoint {name}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    return reached
