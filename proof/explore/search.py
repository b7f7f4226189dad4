"""Visiting every state of a system, breadth first, and proving that every fair run ends.

A run is fair when faults have stopped: writes land, calls are answered, time passes,
what no coordinator drives is taken over. The proof is exact on the finite graph: the fair
steps form no circle, so no fair run goes on indefinitely; and every state that no fair
step leaves is settled.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

from msgspec import Struct

from proof.explore.system import Packed, Step, System


class Counterexample(Struct, frozen=True):
    """Something broken, and the shortest way there: what was done, step by step."""

    broken: str
    path: list[str]


class Visit(Struct, frozen=True):
    """What was seen of a scope."""

    states: int
    steps: int
    # How many fair steps the longest run without faults takes; 0 where something is broken.
    fair_steps_max: int
    counterexamples: list[Counterexample]
    # Everything that can be reached was visited.
    complete: bool


def visit(
    system: System,
    *,
    states_max: int | None = None,
    counterexamples_max: int = 1,
    progress: Callable[[int, int], None] = lambda _states, _waiting: None,
) -> Visit:
    """Visits until everything was seen, or `states_max` states, or `counterexamples_max` broken promises."""
    return _Search(system).run(states_max, counterexamples_max, progress)


class _Search:
    def __init__(self, system: System) -> None:
        self._system = system
        self._numbers: dict[Packed, int] = {system.start: 0}
        self._states: list[Packed] = [system.start]
        self._came_from = array("I", [0])
        # The fair steps of state n lead to _fair[_fair_at[n]:_fair_at[n + 1]].
        self._fair = array("I")
        self._fair_at = array("Q", [0])
        self._steps = 0

    def run(
        self, states_max: int | None, counterexamples_max: int, progress: Callable[[int, int], None]
    ) -> Visit:
        counterexamples: list[Counterexample] = []
        n = 0
        while n < len(self._states) and len(counterexamples) < counterexamples_max and n != states_max:
            counterexamples += self._broken_steps(n)
            n += 1
            if n % 50_000 == 0:
                progress(n, len(self._states) - n)
        complete = n == len(self._states)
        fair_steps_max = 0
        if complete and not counterexamples:
            fair_steps_max, endless = self._longest_fair_run()
            counterexamples += [
                self._counterexample(state, "a run without faults goes on indefinitely") for state in endless
            ]
            counterexamples += self._unsettled(counterexamples_max)
        return Visit(n, self._steps, fair_steps_max, counterexamples[:counterexamples_max], complete)

    def _broken_steps(self, n: int) -> Iterator[Counterexample]:
        numbers, states = self._numbers, self._states
        fair_steps = set()
        for _, state, fair, broken, *_ in self._system.steps(states[n]):
            self._steps += 1
            if broken:
                yield Counterexample(broken, self._path(n, broken))
                continue
            number = numbers.get(state)
            if number is None:
                number = numbers[state] = len(states)
                states.append(state)
                self._came_from.append(n)
            if fair and number != n:
                fair_steps.add(number)
        self._fair.extend(fair_steps)
        self._fair_at.append(len(self._fair))

    # --- that every fair run ends ------------------------------------------------

    def _longest_fair_run(self) -> tuple[int, list[int]]:
        """By taking away, again and again, what no fair step leads to (A. B. Kahn, 1962).

        Returns the length of the longest run, and a state of a circle if there is one.
        """
        count = len(self._states)
        incoming = array("I", bytes(4 * count))
        for target in self._fair:
            incoming[target] += 1
        longest = array("I", bytes(4 * count))
        ready = [n for n in range(count) if not incoming[n]]
        done = 0
        while ready:
            n = ready.pop()
            done += 1
            for target in self._fair[self._fair_at[n] : self._fair_at[n + 1]]:
                longest[target] = max(longest[target], longest[n] + 1)
                incoming[target] -= 1
                if not incoming[target]:
                    ready.append(target)
        if done == count:
            return max(longest), []
        return 0, [self._on_circle(incoming)]

    def _on_circle(self, incoming: "array[int]") -> int:
        """Find a state on a circle: going back from any state that is left ends in one."""
        before: dict[int, int] = {}
        for n in range(len(self._states)):
            if incoming[n]:
                for target in self._fair[self._fair_at[n] : self._fair_at[n + 1]]:
                    before[target] = n
        n = next(n for n in range(len(self._states)) if incoming[n])
        seen: set[int] = set()
        while n not in seen:
            seen.add(n)
            n = before[n]
        return n

    def _unsettled(self, most: int) -> list[Counterexample]:
        found: list[Counterexample] = []
        for n, state in enumerate(self._states):
            if self._fair_at[n] == self._fair_at[n + 1]:
                broken = self._system.unfinished(state)
                if broken:
                    found.append(self._counterexample(n, broken))
                if len(found) == most:
                    break
        return found

    # --- the way to a state --------------------------------------------------------

    def _counterexample(self, n: int, broken: str) -> Counterexample:
        return Counterexample(broken, self._path(n))

    def _path(self, n: int, broken: str = "") -> list[str]:
        """In words; at its end the step that breaks something, if it is one."""
        numbers = [n]
        while numbers[-1]:
            numbers.append(self._came_from[numbers[-1]])
        numbers.reverse()
        steps = [self._first(before, self._states[after], "") for before, after in pairwise(numbers)]
        if broken:
            steps.append(self._first(n, None, broken))
        return list(told(steps, self._system.scope.transactions))

    def _first(self, n: int, state: Packed | None, broken: str) -> Step:
        """The first step from state `n` that leads to `state` (None: anywhere) and breaks just this."""
        steps = self._system.steps(self._states[n])
        return next(step for step in steps if step.broken == broken and state in (None, step.state))


def told(steps: Iterable[Step], transactions: int) -> Iterator[str]:
    """A path in words, in which names stay with their bearers."""
    turned = exchanged = False
    for step in steps:
        words, c, *values = step.what
        line = words.format(*values)
        if c >= 0:
            line = f"coordinator {'BA'[(c == 0) != turned]} {line}"
        if transactions > 1 and step.transaction is not None:
            line = f"transaction {1 + (step.transaction != exchanged)}: {line}"
        yield line
        turned ^= step.turned
        exchanged ^= step.exchanged
