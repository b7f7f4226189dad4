"""Draws the state machine: `python -m coordinator.core.diagram > docs/STATES.md`."""

import sys

from coordinator.core.machine import PHASE_TWO, TRANSITIONS
from coordinator.core.model import TransactionState

_PAGE = """\
# States of a transaction

Made from `TRANSITIONS` in `coordinator/core/machine.py` by
`python -m coordinator.core.diagram > docs/STATES.md`; a test fails when it is stale.

```mermaid
{diagram}
```

There is no way from one decision to the other, and none back. Whether a
transaction is stuck, parked until its next attempt, held by an operator, or has a
branch with a heuristic outcome, are facts beside its state.
"""


def page() -> str:
    """Return the page of the documentation, in Markdown."""
    return _PAGE.format(diagram="\n".join(_diagram()))


def _diagram() -> list[str]:
    """Return the lines of a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {TransactionState.TRYING.name}"]
    for before, ways in TRANSITIONS.items():
        lines += [f"    {before.name} --> {after.name}: {trigger.value}" for trigger, after in ways.items()]
    lines += [
        f"    {state.name}: {state.name} ({call.name} every branch)" for state, call in PHASE_TWO.items()
    ]
    return [*lines, *[f"    {state.name} --> [*]" for state in TransactionState if state.ended]]


if __name__ == "__main__":
    sys.stdout.write(page())
