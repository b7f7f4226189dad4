"""Legality matrices: a table from (state, verb) to the next state is the whole law."""

from collections.abc import Mapping
from typing import TypeVar

S = TypeVar("S")
V = TypeVar("V")


class IllegalTransitionError(Exception):
    """The state does not allow the verb. Nothing was changed.

    The barrier lets each verb through once per branch and in order, so this is
    never ordinary: somebody changed the rows by hand or lost some. The handler
    fails, the coordinator marks the transaction stuck, and a person looks.
    """

    def __init__(self, subject: object, state: object, verb: object) -> None:
        super().__init__(f"{subject}: {verb} is illegal in state {state or 'ABSENT'}")
        self.subject = subject
        self.state = state
        self.verb = verb


def advance(law: Mapping[tuple[S, V], S], state: S, verb: V, *, subject: object) -> S:
    """The next state. Raises IllegalTransitionError where the law has no entry."""
    try:
        return law[state, verb]
    except KeyError:
        raise IllegalTransitionError(subject, state, verb) from None


def sources(law: Mapping[tuple[S, V], S], verb: V) -> list[S]:
    """The states that allow the verb: the condition of a conditional UPDATE."""
    return [state for state, allowed in law if allowed == verb]
