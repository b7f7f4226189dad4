"""A real participant over real gRPC on a thread of its own, and what is checked around a program."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from itertools import count
from time import monotonic
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy import Engine, text
from sqlalchemy.ext.asyncio import AsyncEngine

from tcc import Participant
from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as pb, participant_pb2_grpc as pb_grpc

from .oracle import SUCCEEDED, Finding, finding, judge, judge_repetition, look
from .programs import CALLS_OF_KINDS, CANCEL, CONFIRM, MESSAGE, SAGA, TCC, TRY, Caller, Program
from .stage import Gate, Performance, Stage
from .steps import TABLES, Write

Database = Engine | AsyncEngine
OPERATIONS = {TRY: common.OPERATION_TRY, CONFIRM: common.OPERATION_CONFIRM, CANCEL: common.OPERATION_CANCEL}
KINDS = {
    TCC: common.BRANCH_KIND_TCC,
    SAGA: common.BRANCH_KIND_SAGA,
    MESSAGE: common.BRANCH_KIND_MESSAGE,
}

# For what hangs. After the first hang the run fails anyway, and the rest of it is to be quick.
PATIENCE_S = 20.0
PATIENCE_LOST_S = 0.5
# For a participant that a program broke, to stop.
STOP_S = 1.0
# A caller's own deadline, of whom the handler is to lose sight.
DEADLINE_S = 0.1
# Threads that come and go beside the participant: pools of threads, of gRPC's, of aiosqlite's connections.
THREADS_SPARE = 24
_gids = count()


class Host:
    """A participant on an event loop of its own, which survives what would end a process, and tells."""

    def __init__(self, engine: Database, stage: Stage) -> None:
        self.engine = engine
        self.loop = asyncio.new_event_loop()
        # What ended the loop. A process would have ended.
        self.ends: list[BaseException] = []
        self.on_end: Callable[[], None] = lambda: None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="harness-participant", daemon=True)
        self._thread.start()
        self.participant = Participant("harness", database=engine)
        for is_batch in (False, True):
            for kind, register in self._decorators().items():
                register(_action(kind, is_batch=is_batch))(stage.handlers(kind, is_batch=is_batch))
        self.port = self.call(self._start())

    def _decorators(self) -> dict[str, Callable[..., Any]]:
        return {TCC: self.participant.action, SAGA: self.participant.saga, MESSAGE: self.participant.message}

    def call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE_S)

    def stop(self) -> None:
        """End the participant as far as it can be ended."""
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._stop(), self.loop).result(STOP_S)
        self._stopping = True
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(STOP_S)

    @property
    def tasks(self) -> set[str]:
        """The tasks of the loop, as text."""
        tasks: set[str] = self.call(self._tasks())
        return tasks

    @property
    def checked_out(self) -> int:
        pool: Any = self.engine.pool
        count: int = pool.checkedout()
        return count

    async def _start(self) -> int:
        await self.participant.create_schema()
        return await self.participant.start()

    async def _stop(self) -> None:
        await self.participant.stop(0.1)
        if isinstance(self.engine, AsyncEngine):
            await self.engine.dispose()
        else:
            self.engine.dispose()

    async def _tasks(self) -> set[str]:
        return {f"{id(task)} {task!r}" for task in asyncio.all_tasks() - {asyncio.current_task()}}

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        # Tasks that end with an error are seen by what they leave undone.
        self.loop.set_exception_handler(lambda loop, context: None)
        while not self._stopping:
            try:
                self.loop.run_forever()
            except BaseException as error:  # noqa: BLE001 - an event loop ends by BaseExceptions alone
                self.ends.append(error)
                self.on_end()


def _action(kind: str, *, is_batch: bool) -> str:
    return f"{kind.lower()}_{'batch' if is_batch else 'single'}"


class Rig:
    """One participant on one database; it is replaced when a program broke it."""

    def __init__(self, make_engine: Callable[[], Database], reader: Engine, *, dialect: str) -> None:
        self._make_engine = make_engine
        self._reader = reader
        self.dialect = dialect
        self.patience_s = PATIENCE_S
        with reader.begin() as db:
            for statement in TABLES:
                db.execute(text(statement))
        self._open()

    def _open(self) -> None:
        engine = self._make_engine()
        self.stage = Stage(is_async=isinstance(engine, AsyncEngine))
        self.host = Host(engine, self.stage)
        self._channel = grpc.insecure_channel(
            f"127.0.0.1:{self.host.port}",
            options=[("grpc.max_receive_message_length", 16 * 2**20), ("grpc.use_local_subchannel_pool", 1)],
        )
        self._stub = pb_grpc.ParticipantServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)
        # So that what is made once is there.
        for is_batch in (False, True):
            for kind, operation in CALLS_OF_KINDS:
                self.check_healthy(Program(kind=kind, operation=operation, is_batch=is_batch))
        self._tasks_before = len(self.host.tasks)
        self._threads_before = threading.active_count()

    def close(self) -> None:
        self._channel.close()
        self.host.stop()

    def check(self, program: Program) -> list[common.CallResult]:
        """Run a program, twice, and raise a Finding if anything is not as it should be.

        Return the first outcomes that the caller got, in the order of the items.
        """
        try:
            return self._check(program)
        except Finding:
            if self._is_broken(program):
                self.close()
                self._open()
            raise

    def _is_broken(self, program: Program) -> bool:
        self._lose_patience()
        try:
            self.check_around(program)
        except (Finding, grpc.RpcError):
            return True
        return bool(self.host.ends)

    def _check(self, program: Program) -> list[common.CallResult]:
        with self.playing(program) as (performance, calls):
            try:
                first = self._first(program, performance, calls)
                self._settle(program)
                if first is not None:
                    self.judge(program, performance, calls, first)
                second = self._patiently(program, calls)
                self._settle(program)
                self.judge(program, performance, calls, second)
                for before, after in zip(first or (), second, strict=first is not None):
                    judge_repetition(program, before, after)
                self.check_around(program)
            finally:
                self._check_loop(program)
        return first or second

    @contextlib.contextmanager
    def playing(self, program: Program) -> Iterator[tuple[Performance, list[pb.BranchCall]]]:
        """The calls of a program, whose Tries are done where it is about what comes after."""
        token, performance = self.stage.add(program, Gate(self.host.loop))
        run = next(_gids)
        calls = [
            pb.BranchCall(
                gid=f"g{run}-{item}",
                branch_id="b",
                operation=OPERATIONS[program.operation],
                action=_action(program.kind, is_batch=program.is_batch),
                kind=KINDS[program.kind],
                payload=json.dumps({"token": token, "item": item}).encode(),
            )
            for item in range(program.items)
        ]
        try:
            if program.follows_try:
                tries = [_with_operation(call, common.OPERATION_TRY) for call in calls]
                outcomes = self._patiently(program, tries)
                if any(outcome.code != SUCCEEDED for outcome in outcomes):
                    raise finding("a healthy Try did not succeed", program, str(outcomes))
            yield performance, calls
        finally:
            performance.gate.open()
            del self.stage.performances[token]
            for answer in performance.answers:
                close = getattr(answer, "close", None)
                if close is not None:
                    close()

    def check_around(self, program: Program) -> None:
        """Raise a Finding if the program harmed what came after it, or left something over."""
        self.check_healthy(program)
        self._check_leaks(program)

    def check_healthy(self, program: Program) -> None:
        """Call the same action and operation with a handler that does nothing wrong."""
        healthy = Program(
            kind=program.kind, operation=program.operation, is_batch=program.is_batch, steps=(Write(),)
        )
        with self.playing(healthy) as (performance, calls):
            outcomes = self._patiently(program, calls, what="the next healthy call")
            if outcomes[0].code != SUCCEEDED:
                raise finding("the next healthy call failed", program, str(outcomes))
            self.judge(healthy, performance, calls, outcomes)

    def call(
        self, calls: list[pb.BranchCall], *, timeout_s: float, on_call: Callable[[Any], None] = lambda _: None
    ) -> list[common.CallResult] | None:
        """The outcomes in the order of the calls, or None if the caller gave up."""
        try:
            if len(calls) > 1:
                stream = self._stub.ExecuteBranches(pb.ExecuteBranchesRequest(calls=calls), timeout=timeout_s)
                self._begun(stream, on_call)
                outcomes = [outcome for response in stream for outcome in response.results]
                return sorted(outcomes, key=lambda outcome: outcome.index)
            future = self._unary(calls[0], timeout_s)
            self._begun(future, on_call)
            return [future.result().result]
        except (grpc.RpcError, grpc.FutureCancelledError):
            return None
        finally:
            self.host.on_end = lambda: None

    def _begun(self, call: Any, on_call: Callable[[Any], None]) -> None:
        self.host.on_end = call.cancel
        on_call(call)
        if self.host.ends:
            call.cancel()

    def _unary(self, call: pb.BranchCall, timeout_s: float) -> Any:
        match call.operation:
            case common.OPERATION_TRY:
                return self._stub.TryBranch.future(pb.TryBranchRequest(call=call), timeout=timeout_s)
            case common.OPERATION_CONFIRM:
                return self._stub.ConfirmBranch.future(pb.ConfirmBranchRequest(call=call), timeout=timeout_s)
            case _:
                return self._stub.CancelBranch.future(pb.CancelBranchRequest(call=call), timeout=timeout_s)

    def _first(
        self, program: Program, performance: Performance, calls: list[pb.BranchCall]
    ) -> list[common.CallResult] | None:
        gate = performance.gate
        match program.caller:
            case Caller.PATIENT:
                gate.open()
                return self._patiently(program, calls)
            case Caller.DEADLINE:
                outcomes = self.call(calls, timeout_s=DEADLINE_S)
            case Caller.HANGS_UP:

                def hang_up_on_arrival(call: Any) -> None:
                    gate.on_arrival = call.cancel
                    if gate.arrived:
                        call.cancel()

                outcomes = self.call(calls, timeout_s=self.patience_s, on_call=hang_up_on_arrival)
        gate.open()
        return outcomes

    def _patiently(
        self, program: Program, calls: list[pb.BranchCall], what: str = "the call"
    ) -> list[common.CallResult]:
        outcomes = self.call(calls, timeout_s=self.patience_s)
        if outcomes is None or len(outcomes) != len(calls):
            self._check_loop(program)
            self._lose_patience()
            raise finding(f"{what} was not answered", program, f"{what} got {outcomes}")
        return outcomes

    def judge(
        self,
        program: Program,
        performance: Performance,
        calls: list[pb.BranchCall],
        outcomes: list[common.CallResult],
    ) -> None:
        """Compare the outcomes with what a fresh connection finds."""
        gids = [call.gid for call in calls]
        kept = look(self._reader, gids, program.operation)
        for item, (gid, outcome, found) in enumerate(zip(gids, outcomes, kept, strict=True)):
            runs = [run for run in performance.runs_of(gid) if run.operation == program.operation]
            judge(program, self.dialect, runs, outcome, found, is_culprit=item == program.culprit)

    def _check_loop(self, program: Program) -> None:
        if self.host.ends:
            raise finding("the event loop was ended", program, repr(self.host.ends))

    def _settle(self, program: Program) -> None:
        if not self._until(lambda: self.host.participant.waiting == 0):
            raise finding(
                "calls count as waiting indefinitely", program, f"waiting is {self.host.participant.waiting}"
            )

    def _check_leaks(self, program: Program) -> None:
        self._settle(program)
        host = self.host
        if not self._until(lambda: host.checked_out == 0):
            raise finding("a connection is left over", program, f"{host.checked_out} are checked out")
        if not self._until(lambda: len(host.tasks) <= self._tasks_before):
            raise finding("a task is left over", program, "\n".join(host.tasks))
        if not self._until(lambda: threading.active_count() <= self._threads_before + THREADS_SPARE):
            raise finding("threads are left over", program, str(threading.enumerate()))
        status = self._health.Check(health_pb2.HealthCheckRequest(), timeout=self.patience_s).status
        if status != health_pb2.HealthCheckResponse.SERVING:
            raise finding("it does not serve any more", program, f"health says {status}")

    def _until(self, condition: Callable[[], bool]) -> bool:
        """Whether it comes about in time."""
        deadline, pause = monotonic() + self.patience_s, threading.Event()
        while not condition():
            if monotonic() > deadline:
                self._lose_patience()
                return False
            pause.wait(0.002)
        return True

    def _lose_patience(self) -> None:
        self.patience_s = PATIENCE_LOST_S


def _with_operation(call: pb.BranchCall, operation: "common.Operation") -> pb.BranchCall:
    copy = pb.BranchCall()
    copy.CopyFrom(call)
    copy.operation = operation
    return copy
