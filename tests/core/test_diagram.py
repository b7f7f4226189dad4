"""The diagram in the documentation is the one that the table of transitions draws."""

from pathlib import Path

from coordinator.core.diagram import page
from coordinator.core.machine import TRANSITIONS
from coordinator.core.model import TransactionState
from tests.support.golden import GoldenFiles

STATES = Path(__file__).parents[2] / "docs" / "STATES.md"


def test_the_diagram_is_fresh(golden: GoldenFiles) -> None:
    golden.check(STATES, page())


def test_the_diagram_shows_every_transition() -> None:
    for before, ways in TRANSITIONS.items():
        for trigger, after in ways.items():
            assert f"{before.name} --> {after.name}: {trigger.value}\n" in page()


def test_no_decision_leads_to_the_other() -> None:
    confirmed, cancelled = (
        {TransactionState.CONFIRMING, TransactionState.CONFIRMED},
        {TransactionState.CANCELLING, TransactionState.CANCELLED},
    )
    for before, ways in TRANSITIONS.items():
        if before in confirmed:
            assert set(ways.values()) <= confirmed - {before}
        if before in cancelled:
            assert set(ways.values()) <= cancelled - {before}
