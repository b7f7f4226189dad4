"""Transition tables: from (state, verb) to the next state."""

from collections.abc import Mapping
from typing import TypeVar

S = TypeVar("S")
V = TypeVar("V")


class InvalidTransitionError(Exception):
    """The state does not allow the verb. Nothing was changed.

    The barrier runs each verb once per branch and in order. So this error means that rows
    were changed manually or lost. The handler fails, and the coordinator marks the
    transaction stuck for an operator.
    """

    def __init__(self, subject: object, state: object, verb: object) -> None:
        super().__init__(f"{subject}: {verb} is not allowed in state {state or 'ABSENT'}")
        self.subject = subject
        self.state = state
        self.verb = verb


def advance(transitions: Mapping[tuple[S, V], S], state: S, verb: V, *, subject: object) -> S:
    """Return the next state. Raises InvalidTransitionError if there is no such transition."""
    try:
        return transitions[state, verb]
    except KeyError:
        raise InvalidTransitionError(subject, state, verb) from None


def sources(transitions: Mapping[tuple[S, V], S], verb: V) -> list[S]:
    """Return the states that allow the verb: the condition of a conditional UPDATE."""
    return [state for state, allowed in transitions if allowed == verb]
