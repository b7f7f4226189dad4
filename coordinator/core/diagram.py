"""Draws the state machine: `python -m coordinator.core.diagram > docs/STATES.md`."""

import sys

from coordinator.core.machine import PHASE_TWO, TRANSITIONS
from coordinator.core.model import TransactionState

_PAGE = """\
# States of a transaction

Generated from `TRANSITIONS` in `coordinator/core/machine.py` by
`python -m coordinator.core.diagram > docs/STATES.md`; a test fails when it is stale.

```mermaid
{diagram}
```

There is no transition from one decision to the other, and none back. Some facts are
independent of the state: a transaction may be stuck, parked until its next attempt, or
held by an operator, and a branch of it may have a heuristic outcome.
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
