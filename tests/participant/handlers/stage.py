"""Where programs are played: handlers of every form that look up what to do, and keep account of it."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from .endings import BATCH_VALUES, VALUES, Raise, Return, raise_async, raise_sync
from .programs import CANCEL, CONFIRM, MESSAGE, SAGA, TCC, TRY, Program
from .steps import Action, Play, Run, Write, drive_async, drive_sync, play

HANDLER_NAMES = {
    TCC: {TRY: "try_", CONFIRM: "confirm", CANCEL: "cancel"},
    SAGA: {TRY: "execute", CANCEL: "compensate"},
    MESSAGE: {CONFIRM: "deliver"},
}
BATCH_HANDLER_NAMES = {
    TCC: {TRY: "try_batch", CONFIRM: "confirm_batch", CANCEL: "cancel_batch"},
    SAGA: {TRY: "execute_batch", CANCEL: "compensate_batch"},
    MESSAGE: {CONFIRM: "deliver_batch"},
}


class Gate:
    """Holds handlers back until the test opens it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._open, self._open_async = threading.Event(), asyncio.Event()
        self.on_arrival: Callable[[], object] | None = None
        self.arrived = False

    def open(self) -> None:
        self._open.set()
        self._loop.call_soon_threadsafe(self._open_async.set)

    def action(self, *, is_async: bool) -> Action:
        def wait(_: Any) -> Any:
            self.arrived = True
            if self.on_arrival is not None:
                self.on_arrival()
            return self._open_async.wait() if is_async else self._open.wait()

        return wait


@dataclass
class Performance:
    """One program that is played, and what its runs did."""

    program: Program
    gate: Gate
    runs: list[Run] = field(default_factory=list)
    # What was made for an answer and must be closed.
    answers: list[object] = field(default_factory=list)

    def runs_of(self, gid: str) -> list[Run]:
        return [run for run in self.runs if run.gid == gid]


class Stage:
    """The programs of one participant, by the token that payloads carry."""

    def __init__(self, *, is_async: bool) -> None:
        self.is_async = is_async
        self._tokens, self._numbers = count(1), count(1)
        self.performances: dict[int, Performance] = {}

    def add(self, program: Program, gate: Gate) -> tuple[int, Performance]:
        token, performance = next(self._tokens), Performance(program, gate)
        self.performances[token] = performance
        return token, performance

    def handlers(self, kind: str, *, is_batch: bool) -> object:
        """The handlers of an action of a kind."""
        maker = _MAKERS[self.is_async, is_batch]
        names = (BATCH_HANDLER_NAMES if is_batch else HANDLER_NAMES)[kind]
        return type("Handlers", (), {name: maker(self, operation) for operation, name in names.items()})

    def scene(self, operation: str, items: Sequence[Any]) -> "Scene":
        number = next(self._numbers)
        return Scene([self._part(operation, number, branch.gid, request) for branch, request in items])

    def _part(self, operation: str, number: int, gid: str, request: Any) -> "Part":
        performance = self.performances[request["token"]]
        run = Run(gid, operation, number)
        performance.runs.append(run)
        program = performance.program
        misbehaves = operation == program.operation and request["item"] == program.culprit
        return Part(performance, run, misbehaves)


@dataclass(frozen=True)
class Part:
    """One item in one run of a handler."""

    performance: Performance
    run: Run
    misbehaves: bool

    def play(self, *, is_async: bool) -> Play:
        program = self.performance.program
        steps = program.steps if self.misbehaves else (Write(),)
        return play(steps, self.run, self.performance.gate.action(is_async=is_async))

    @property
    def raises(self) -> Raise | None:
        ending = self.performance.program.ending
        return ending if self.misbehaves and isinstance(ending, Raise) else None

    def answer(self) -> object:
        ending = self.performance.program.ending
        if not self.misbehaves or not isinstance(ending, Return) or ending.name in BATCH_VALUES:
            return None
        answer = VALUES[ending.name]()
        self.performance.answers.append(answer)
        return answer


class Scene:
    """One run of a handler."""

    def __init__(self, parts: list[Part]) -> None:
        self.parts = parts

    def play_sync(self, db: Any) -> list[object]:
        for part in self.parts:
            drive_sync(part.play(is_async=False), db)
            if part.raises:
                raise_sync(part.raises)
        return self._answers()

    async def play_async(self, db: Any) -> list[object]:
        for part in self.parts:
            await drive_async(part.play(is_async=True), db)
            if part.raises:
                await raise_async(part.raises)
        return self._answers()

    def shaped(self, answers: list[object]) -> Any:
        """What a batch handler answers as a whole."""
        for place, part in enumerate(self.parts):
            ending = part.performance.program.ending
            if part.misbehaves and ending.name in BATCH_VALUES:
                return BATCH_VALUES[ending.name](answers, place)
        return answers

    def _answers(self) -> list[object]:
        for part in self.parts:
            part.run.returned = True
        return [part.answer() for part in self.parts]


def _single_sync(stage: Stage, operation: str) -> Any:
    def handle(self: object, branch: Any, request: Any, db: Any) -> object:
        [answer] = stage.scene(operation, [(branch, request)]).play_sync(db)
        return answer

    return handle


def _single_async(stage: Stage, operation: str) -> Any:
    async def handle(self: object, branch: Any, request: Any, db: Any) -> object:
        [answer] = await stage.scene(operation, [(branch, request)]).play_async(db)
        return answer

    return handle


def _batch_sync(stage: Stage, operation: str) -> Any:
    def handle(self: object, items: Any, db: Any) -> object:
        scene = stage.scene(operation, items)
        return scene.shaped(scene.play_sync(db))

    return handle


def _batch_async(stage: Stage, operation: str) -> Any:
    async def handle(self: object, items: Any, db: Any) -> object:
        scene = stage.scene(operation, items)
        return scene.shaped(await scene.play_async(db))

    return handle


_MAKERS = {
    (False, False): _single_sync,
    (True, False): _single_async,
    (False, True): _batch_sync,
    (True, True): _batch_async,
}
