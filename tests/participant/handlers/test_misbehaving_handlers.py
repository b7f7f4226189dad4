"""Whatever a handler does, the participant answers what its database did, and goes on serving."""

import math
import zlib
from collections.abc import Callable
from itertools import count
from time import monotonic

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from .oracle import Finding
from .programs import Program, programs
from .rig import Rig

PROGRAMS = 12
# How many the long tests generate at a time.
MANY = 400
# How long each of the long tests takes, about.
MANY_S = 15.0
# How long to look for further and for simpler failures once there is one: calls that hang take their time.
SHRINKING_S = 15.0


class Hunt:
    """Runs each program once, and after a time no new ones."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._results: dict[Program, Finding | None] = {}
        self._ends_at = math.inf

    @property
    def ran(self) -> int:
        return len(self._results)

    def check(self, program: Program) -> None:
        if program not in self._results and monotonic() < self._ends_at:
            self._results[program] = self._finding(program)
        found = self._results.get(program)
        if found is not None:
            raise type(found)(*found.args)

    def _finding(self, program: Program) -> Finding | None:
        try:
            self._rig.check(program)
        except Finding as found:
            self._ends_at = min(self._ends_at, monotonic() + SHRINKING_S)
            return found
        return None

    def report(self) -> str:
        """The simplest program of each kind of finding."""
        found = [
            (program.size, str(finding), type(finding))
            for program, finding in self._results.items()
            if finding
        ]
        simplest = {kind: words for _, words, kind in sorted(found, key=lambda one: one[0], reverse=True)}
        ran = f"{self._rig.dialect}: {self.ran} programs ran, {len(simplest)} kinds of findings"
        return "\n".join([ran, *simplest.values()])


def _hunt(rig: Rig, name: str, *, is_batch: bool, examples: int) -> int:
    """Run generated programs; return how many."""
    hunt = Hunt(rig)

    @seed(zlib.crc32(name.encode()))
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(programs(is_batch=is_batch))
    def check(program: Program) -> None:
        hunt.check(program)

    if _finds(check):
        pytest.fail(f"{name}: {hunt.report()}", pytrace=False)
    return hunt.ran


def _finds(check: Callable[[], None]) -> bool:
    """Return whether there are findings. Any other error goes through."""
    try:
        check()
    except Finding:
        return True
    except ExceptionGroup as group:
        others = group.split(Finding)[1]
        if others is not None:
            raise others from None
        return True
    return False


FORMS = pytest.mark.parametrize("is_batch", [False, True], ids=["single", "batch"])


@FORMS
def test_generated_handlers(rig: Rig, kind: str, is_batch):
    _hunt(rig, f"{kind} {is_batch}", is_batch=is_batch, examples=PROGRAMS)


@pytest.mark.slow
@FORMS
def test_many_generated_handlers(rig: Rig, kind: str, is_batch):
    ends_at = monotonic() + MANY_S
    ran = 0
    for number in count():
        ran += _hunt(rig, f"{kind} {is_batch} {number}", is_batch=is_batch, examples=MANY)
        if monotonic() > ends_at:
            break
    print(f"{ran} generated handlers ran on {kind}")
