"""Which failpoints there are, who passes them, and how each is brought about.

Pure, but for reading the source.
"""

import random
import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from participants.demo.initiator import ORDER

_PROJECT = Path(__file__).resolve().parents[2]
_CALL = re.compile(r'\bfailpoint\("([^"]*)"\)')


class Side(Enum):
    """Whose code a failpoint stands in."""

    COORDINATOR = auto()
    PARTICIPANT = auto()
    INITIATOR = auto()


class Provocation(Enum):
    """What has to happen beside the load for a failpoint to be passed."""

    NOTHING = auto()
    # SIGTERM is sent to the process itself.
    SIGTERM = auto()
    # A participant dies, so that transactions are parked.
    PARTICIPANT_DIES = auto()
    # Another coordinator dies, so that there is something to adopt.
    COORDINATOR_DIES = auto()


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """A failpoint, and how often it is passed before it kills."""

    name: str
    hits: int


_SIDES: Mapping[str, Side] = {
    "rpc": Side.COORDINATOR,
    "log": Side.COORDINATOR,
    "call": Side.COORDINATOR,
    "recovery": Side.COORDINATOR,
    "check_back": Side.COORDINATOR,
    "participant": Side.PARTICIPANT,
    "barrier": Side.PARTICIPANT,
    "client": Side.INITIATOR,
}
# The only participant that passes a failpoint, if not every one does.
_ONLY_AT: Mapping[str, str] = {
    "participant.check.before": ORDER,
    "participant.check.after": ORDER,
}
_PROVOCATIONS: Mapping[str, Provocation] = {
    "log.release.before": Provocation.SIGTERM,
    "log.release.after": Provocation.SIGTERM,
    "log.leave.before": Provocation.SIGTERM,
    "log.leave.after": Provocation.SIGTERM,
    "log.claim.after": Provocation.PARTICIPANT_DIES,
    "recovery.claimed": Provocation.PARTICIPANT_DIES,
    "recovery.adopted": Provocation.COORDINATOR_DIES,
}
# What is passed seldom must kill soon.
_HITS_MAX: Mapping[str, int] = {
    "log.release.before": 1,
    "log.release.after": 1,
    "log.leave.before": 1,
    "log.leave.after": 1,
    "log.claim.after": 1,
    "log.claim.before": 4,
    "log.purge.before": 2,
    "log.purge.after": 2,
    "log.heartbeat.before": 4,
    "log.heartbeat.after": 4,
    "log.take.before": 3,
    "log.take.after": 3,
    "recovery.adopted": 1,
    "recovery.claimed": 1,
    "client.call.send": 5,
    "client.call.answered": 5,
    # Calls are made only while no stream can be opened.
    "client.execute.send": 5,
    "client.execute.answered": 5,
    # A plan of 60 orders has about six that are local first, and some of them are refused.
    "client.local.registered": 1,
    "client.local.commit.before": 1,
    "client.local.committed": 1,
    "participant.check.before": 2,
    "participant.check.after": 2,
    "check_back.decided": 5,
}
_HITS_MAX_DEFAULT = 12


def failpoints() -> list[str]:
    """Every name in the source, sorted."""
    sources = (path for root in ("tcc", "coordinator") for path in (_PROJECT / root).rglob("*.py"))
    return sorted({name for path in sources for name in _CALL.findall(path.read_text())})


def side(name: str) -> Side:
    """Return the process that reaches a failpoint. Raises KeyError if none does."""
    return _SIDES[name.partition(".")[0]]


def provocation(name: str) -> Provocation:
    return _PROVOCATIONS.get(name, Provocation.NOTHING)


def deal(
    names: Iterable[str], members: Mapping[Side, Sequence[str]], *, times: int, chance: random.Random
) -> dict[str, deque[Rule]]:
    """Each member's rules: every failpoint `times` times, spread evenly over the members that pass it."""
    hands: dict[str, deque[Rule]] = {member: deque() for each in members.values() for member in each}
    rules = [rule(name, chance) for name in names for _ in range(times)]
    chance.shuffle(rules)
    # What one member alone passes comes first, so that the others even it out.
    rules.sort(key=lambda each: each.name not in _ONLY_AT)
    for each in rules:
        only = _ONLY_AT.get(each.name)
        candidates = members[side(each.name)] if only is None else [only]
        least = min(candidates, key=lambda member: len(hands[member]))
        hands[least].append(each)
    return hands


def rule(name: str, chance: random.Random) -> Rule:
    return Rule(name=name, hits=chance.randint(1, _HITS_MAX.get(name, _HITS_MAX_DEFAULT)))
