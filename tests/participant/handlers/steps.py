"""What a generated handler does: a small set of steps, and how they run behind sync and async engines.

A handler's steps are played by a generator that yields calls on the connection, so that they are
written once; `drive_sync` and `drive_async` perform the calls. A step records in its `Run` what it
did, not what it should have done: which calls the SDK refuses is the SDK's business, and the oracle
compares what the handler saw with what the database kept.
"""

from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any, TypeAlias

from sqlalchemy import text

INSERT = text("INSERT INTO effects VALUES (:gid, :operation, :run, :number)")
# `taken` has this row already.
VIOLATE = text("INSERT INTO taken VALUES ('taken')")
LOCK = text("UPDATE locks SET hits = hits + 1 WHERE name = :name")
TABLES = (
    "CREATE TABLE effects (gid VARCHAR(128), operation VARCHAR(8), run INTEGER, number INTEGER)",
    "CREATE TABLE taken (name VARCHAR(8) PRIMARY KEY)",
    "CREATE TABLE locks (name VARCHAR(8) PRIMARY KEY, hits INTEGER)",
    "INSERT INTO taken VALUES ('taken')",
    "INSERT INTO locks VALUES ('a', 0)",
    "INSERT INTO locks VALUES ('b', 0)",
)


@dataclass(frozen=True)
class Write:
    """Write one business row."""

    def __str__(self) -> str:
        return "write"


@dataclass(frozen=True)
class Violate:
    """Violate a unique constraint, and go on if it swallows the error."""

    swallows: bool

    def __str__(self) -> str:
        return f"violate{_swallowing(swallows=self.swallows)}"


class SavepointEnd(Enum):
    RELEASED = "released"
    ROLLED_BACK = "rolled back"
    LEFT_OPEN = "left open"


@dataclass(frozen=True)
class Savepoint:
    """Run the body in a savepoint. An error in the body is swallowed where the savepoint is rolled back."""

    body: "tuple[Write | Violate, ...]"
    end: SavepointEnd

    def __str__(self) -> str:
        return f"savepoint ({'; '.join(map(str, self.body))}) {self.end.value}"


@dataclass(frozen=True)
class Call:
    """Call a method of the connection that ends or begins a transaction."""

    method: str
    swallows: bool

    def __str__(self) -> str:
        return f"db.{self.method}{_swallowing(swallows=self.swallows)}"


@dataclass(frozen=True)
class Sql:
    """Execute a statement that ends or begins a transaction."""

    statement: str
    swallows: bool

    def __str__(self) -> str:
        return f"execute {self.statement}{_swallowing(swallows=self.swallows)}"


@dataclass(frozen=True)
class Wait:
    """Wait until the caller gave up."""

    def __str__(self) -> str:
        return "wait"


@dataclass(frozen=True)
class Lock:
    """Change a row that others change, too, and hold its lock from now on."""

    name: str

    def __str__(self) -> str:
        return f"lock {self.name}"


def _swallowing(*, swallows: bool) -> str:
    return " and swallow the error" if swallows else ""


Step: TypeAlias = Write | Violate | Savepoint | Call | Sql | Wait | Lock

# A call on the connection. Its result is awaited behind an async engine.
Action: TypeAlias = Callable[[Any], Any]

CALLS: dict[str, Action] = {
    "commit()": lambda db: db.commit(),
    "rollback()": lambda db: db.rollback(),
    "close()": lambda db: db.close(),
    "begin()": lambda db: db.begin(),
    "get_transaction().commit()": lambda db: db.get_transaction().commit(),
    "get_transaction().rollback()": lambda db: db.get_transaction().rollback(),
}
# Not every database knows all of them; then they are an error as any other.
STATEMENTS = ("COMMIT", "ROLLBACK", "BEGIN", "END", "START TRANSACTION", "/* done */ commit")


@dataclass
class Run:
    """What one invocation of a handler did for one item."""

    gid: str
    operation: str
    number: int
    # The numbers of the writes that were executed and not rolled back to a savepoint.
    written: list[int] = field(default_factory=list)
    writes: int = 0
    left_open: bool = False
    returned: bool = False

    @property
    def rows(self) -> frozenset[tuple[int, int]]:
        """The business rows of this run, if it stands."""
        return frozenset((self.number, written) for written in self.written)


Play: TypeAlias = Generator[Action, Any, None]


def play(steps: Sequence[Step], run: Run, wait: Action) -> Play:
    """Yield the calls of the steps, in order. Errors that no step swallows go through."""
    for step in steps:
        match step:
            case Write():
                yield from _write(run)
            case Violate():
                yield from _attempt(lambda db: db.execute(VIOLATE), swallows=step.swallows)
            case Savepoint():
                yield from _savepoint(step, run, wait)
            case Call(method, swallows):
                yield from _attempt(CALLS[method], swallows=swallows)
            case Sql(statement, swallows):
                yield from _attempt(
                    lambda db, statement=statement: db.execute(text(statement)), swallows=swallows
                )
            case Wait():
                yield wait
            case Lock(name):
                yield lambda db, name=name: db.execute(LOCK, {"name": name})


def _write(run: Run) -> Play:
    number, run.writes = run.writes, run.writes + 1
    parameters = {"gid": run.gid, "operation": run.operation, "run": run.number, "number": number}
    yield lambda db: db.execute(INSERT, parameters)
    run.written.append(number)


def _savepoint(step: Savepoint, run: Run, wait: Action) -> Play:
    before = list(run.written)
    savepoint = yield lambda db: db.begin_nested()
    try:
        yield from play(step.body, run, wait)
    except Exception:
        if step.end is not SavepointEnd.ROLLED_BACK:
            raise
    match step.end:
        case SavepointEnd.RELEASED:
            yield lambda _: savepoint.commit()
        case SavepointEnd.ROLLED_BACK:
            yield lambda _: savepoint.rollback()
            run.written = before
        case SavepointEnd.LEFT_OPEN:
            run.left_open = True


def _attempt(action: Action, *, swallows: bool) -> Play:
    try:
        yield action
    except Exception:
        if not swallows:
            raise


def drive_sync(playing: Play, db: Any) -> None:
    """Perform the calls on a Connection."""
    action: Action | None = next(playing, None)
    while action is not None:
        action = _step_sync(playing, action, db)


def _step_sync(playing: Play, action: Action, db: Any) -> Action | None:
    try:
        came = action(db)
    except Exception as error:  # noqa: BLE001 - the step decides what it swallows
        advance = partial(playing.throw, error)
    else:
        advance = partial(playing.send, came)
    return _next(advance)


async def drive_async(playing: Play, db: Any) -> None:
    """Perform the calls on an AsyncConnection."""
    action: Action | None = next(playing, None)
    while action is not None:
        action = await _step_async(playing, action, db)


async def _step_async(playing: Play, action: Action, db: Any) -> Action | None:
    try:
        awaitable: Awaitable[Any] = action(db)
        came = await awaitable
    except Exception as error:  # noqa: BLE001 - the step decides what it swallows
        advance = partial(playing.throw, error)
    else:
        advance = partial(playing.send, came)
    return _next(advance)


def _next(advance: Callable[[], Action]) -> Action | None:
    try:
        return advance()
    except StopIteration:
        return None
