"""Generated handlers, as values: what the misbehaving item's handler does, and how it is called."""

from dataclasses import dataclass
from enum import Enum

from hypothesis import strategies as st

from .endings import (
    BATCH_REJECTIONS,
    BATCH_VALUES,
    ENCODABLE,
    EXCEPTIONS,
    REJECTIONS,
    RETURNS_NOTHING,
    UNENCODABLE,
    VALUES,
    Ending,
    Raise,
    Return,
)
from .steps import CALLS, STATEMENTS, Call, Savepoint, SavepointEnd, Sql, Step, Violate, Wait, Write

TRY, CONFIRM, CANCEL = "TRY", "CONFIRM", "CANCEL"


TCC, SAGA, MESSAGE = "TCC", "SAGA", "MESSAGE"
# The calls of each kind of branch.
OPERATIONS_OF = {TCC: (TRY, CONFIRM, CANCEL), SAGA: (TRY, CANCEL), MESSAGE: (CONFIRM,)}
CALLS_OF_KINDS = [(kind, operation) for kind, operations in OPERATIONS_OF.items() for operation in operations]


class Caller(Enum):
    PATIENT = "waits for the answer"
    DEADLINE = "gives up at its deadline"
    HANGS_UP = "hangs up"


@dataclass(frozen=True, kw_only=True)
class Program:
    """One item's handler, among healthy items, in one operation."""

    kind: str = TCC
    operation: str = TRY
    is_batch: bool = False
    steps: tuple[Step, ...] = ()
    ending: Ending = RETURNS_NOTHING
    # How many items the call carries, and which of them misbehaves.
    items: int = 1
    culprit: int = 0
    caller: Caller = Caller.PATIENT

    def __str__(self) -> str:
        form = f"{self.kind} {self.operation}{' in a batch' if self.is_batch else ''}"
        place = f", item {self.culprit} of {self.items}" if self.items > 1 else ""
        style = "" if self.caller is Caller.PATIENT else f", its caller {self.caller.value}"
        return f"{form}{place}{style}: {'; '.join(map(str, (*self.steps, self.ending)))}"

    @property
    def size(self) -> tuple[int, ...]:
        """How simple it is, for choosing what to show."""
        steps = sum(1 + (len(step.body) if isinstance(step, Savepoint) else 0) for step in self.steps)
        return steps + (self.ending != RETURNS_NOTHING), self.caller is not Caller.PATIENT, self.items

    @property
    def follows_try(self) -> bool:
        """Whether its branch was tried before."""
        return self.operation != TRY and self.kind != MESSAGE

    @property
    def may_reject(self) -> bool:
        if self.operation != TRY:
            return False
        match self.ending:
            case Raise(name):
                return name in REJECTIONS
            case Return(name):
                return name in BATCH_REJECTIONS

    def may_succeed(self) -> bool:
        """Whether a run that gets to its end may be answered SUCCEEDED."""
        match self.ending:
            case Raise():
                return False
            case Return(name):
                if name in BATCH_VALUES:
                    # Whether one answer per item may come from a generator is not said.
                    return name == "a generator"
                return self.operation != TRY or name not in UNENCODABLE

    def must_succeed(self, dialect: str) -> bool:
        """Whether it does only what a handler is allowed to do."""
        legal = all(_is_legal(step, dialect) for step in self.steps)
        return legal and isinstance(self.ending, Return) and self.ending.name in ENCODABLE

    @property
    def suspect(self) -> str:
        """Return its first unusual step, by which findings are distinguished."""
        odd = (word for step in self.steps if (word := _oddness(step)))
        return next(odd, type(self.ending).__name__.lower())


def _is_legal(step: Step, dialect: str) -> bool:
    match step:
        case Write() | Wait():
            return True
        case Violate(swallows):
            # A statement that fails is undone alone, but on PostgreSQL.
            return swallows and dialect != "postgresql"
        case Savepoint(body, SavepointEnd.RELEASED):
            return all(_is_legal(inner, dialect) for inner in body)
        case Savepoint(_, SavepointEnd.ROLLED_BACK):
            return True
    return False


def _oddness(step: Step) -> str:
    match step:
        case Violate():
            return "violate"
        case Savepoint(_, end) if end is not SavepointEnd.RELEASED:
            return f"savepoint {end.value}"
        case Call(method):
            return f"db.{method}"
        case Sql(statement):
            return statement
    return ""


writes = st.just(Write())
violations = st.builds(Violate, st.booleans())
# Mostly swallowed, or nothing would come after them.
mostly = st.sampled_from((True, True, True, False))
steps = st.one_of(
    writes,
    writes,
    st.builds(Violate, mostly),
    st.builds(
        Savepoint,
        st.lists(st.one_of(writes, violations), max_size=2).map(tuple),
        st.sampled_from(SavepointEnd),
    ),
    st.builds(Call, st.sampled_from(sorted(CALLS)), mostly),
    st.builds(Sql, st.sampled_from(STATEMENTS), mostly),
)
exceptions = st.builds(Raise, st.sampled_from(sorted(EXCEPTIONS)))
values = st.builds(Return, st.sampled_from(sorted(VALUES)))
batch_values = st.builds(Return, st.sampled_from(sorted(BATCH_VALUES)))


@st.composite
def programs(draw: st.DrawFn, *, is_batch: bool) -> Program:
    """Any handler. The simplest one returns None."""
    kind, operation = draw(st.sampled_from(CALLS_OF_KINDS))
    chosen = draw(st.lists(steps, max_size=4))
    endings = [st.just(RETURNS_NOTHING), st.just(RETURNS_NOTHING), values, exceptions]
    ending = draw(st.one_of(*endings, batch_values) if is_batch else st.one_of(*endings))
    if ending.name in BATCH_REJECTIONS:
        chosen = []
    caller = draw(st.sampled_from((*[Caller.PATIENT] * 8, Caller.DEADLINE, Caller.HANGS_UP)))
    if caller is not Caller.PATIENT:
        chosen.insert(draw(st.integers(0, len(chosen))), Wait())
    items = draw(st.integers(1, 4))
    return Program(
        kind=kind,
        operation=operation,
        is_batch=is_batch,
        steps=tuple(chosen),
        ending=ending,
        items=items,
        culprit=draw(st.integers(0, items - 1)),
        caller=caller,
    )
