"""A participant: a service that owns resources and serves Try, Confirm and Cancel.

    inventory = Participant("inventory", database=engine)

    @inventory.action("reserve_stock", ReserveStock)
    class Reserve:
        async def try_(self, branch, request, db): ...
        async def confirm(self, branch, request, db): ...
        async def cancel(self, branch, request, db): ...

    asyncio.run(inventory.serve("127.0.0.1:50051"))

The handlers run inside the barrier's own database transaction (tcc.barrier.plans) and
write business tables through `db`, which refuses to commit or roll back.
docs/WRITING_A_PARTICIPANT.md describes what a handler may do and the effect of each outcome.
"""

import asyncio
import inspect
import logging
import random
import re
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from tcc import payload
from tcc._internal.channel_options import BRANCH_CALLS_BYTES_MAX
from tcc._internal.extras import missing_extra
from tcc._internal.local_address import is_local
from tcc._internal.ports import check_port
from tcc._internal.server_options import CONNECTION_AGE_MAX_MS, server_options
from tcc._internal.tls import Tls, server_credentials
from tcc.barrier.decisions import BarrierDecision, BranchKind, Operation
from tcc.barrier.executor import open_executor
from tcc.barrier.failures import error_text
from tcc.barrier.plans import Plan, decide_one, digest_of
from tcc.branch import LOCAL_ACTION, Branch
from tcc.participant.action import NAME_BYTES_MAX, Action, Message, build_action
from tcc.participant.callers import CallerCheck, check_address
from tcc.participant.inbox import Once
from tcc.participant.sealing import Opener
from tcc.participant.service import SERVICE, ParticipantServicer
from tcc.participant.supervision import TaskSupervisor
from tcc.participant.work import ParticipantWork
from tcc.payload import PayloadCodec

try:
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine
except ModuleNotFoundError as error:
    raise missing_extra("a participant", "sql", error) from error

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from tcc.participant.tracing import ParticipantTracing

logger = logging.getLogger("tcc.participant")

H = TypeVar("H")

_DAY_S = 24 * 3600.0
# Of coordinators and health checks.
_CONNECTIONS_MAX = 4_096
_BIND_ADDRESS = re.compile(r"unix(-abstract)?:.+|\S+:[0-9]+")


class Participant:
    """Serves actions over gRPC; each handler takes effect at most once per `(gid, branch_id, operation)`.

    Args:
        name: The participant's name.
        database: A SQLAlchemy AsyncEngine (handlers are `async def`, `db` is an
            AsyncConnection) or Engine (handlers are plain `def` and run in threads, `db` is a
            Connection), on PostgreSQL, MySQL, MariaDB or SQLite. The size of its pool limits the
            number of open transactions; further calls wait. Its connections must not be in
            AUTOCOMMIT mode.
        retention_s: Seconds for which an ended barrier row is kept after the transaction's expiry
            and after its own last change. A saga's row ends so, too, because no call follows the
            decision CONFIRM. It must be longer than any outage: later, a saga's Cancel is refused
            (ROW_PURGED), and a message that is delivered again is not recognized.
        batch_items_max: The largest number of items in a batch of a batch handler.
        max_batches_in_flight: The largest number of batches of one operation that run at once.
        waiting_max: The largest number of waiting calls. Further calls are refused with
            RESOURCE_EXHAUSTED.
        rpcs_max: The largest number of gRPC calls at once, each with many branches or one. Further
            calls are refused with RESOURCE_EXHAUSTED, unread.
        tracer_provider: A provider of OpenTelemetry (the extra [tracing]). Calls of traced
            transactions get spans, in which the handlers run. None: no spans.
        payload_codec: Opens payloads and encrypts results, for example a tcc.AesGcmCodec (the extra
            [encryption]). `name` must be the name in the coordinator's configuration.
    """

    def __init__(
        self,
        name: str,
        *,
        database: Engine | AsyncEngine,
        retention_s: float = 7 * _DAY_S,
        purge_interval_s: float = 60.0,
        purge_rows_max: int = 1_000,
        batch_items_max: int = 1_024,
        max_batches_in_flight: int = 2,
        waiting_max: int = 20_000,
        rpcs_max: int = 20_000,
        tracer_provider: "TracerProvider | None" = None,
        payload_codec: PayloadCodec | None = None,
    ) -> None:
        self.name = _checked_name(name)
        self._payload_codec = payload_codec
        self._tracing = _tracing(tracer_provider, name)
        # The port in use; 0 before `start`.
        self.port = 0
        self._executor = open_executor(database)
        self._actions: dict[str, Action] = {}
        self._retention_ms = int(retention_s * 1000)
        self._purge_interval_s = purge_interval_s
        self._purge_rows_max = purge_rows_max
        self._batch_items_max = batch_items_max
        self._max_batches_in_flight = max_batches_in_flight
        self._waiting_max = waiting_max
        self._rpcs_max = rpcs_max
        self._server: tuple[grpc.aio.Server, ParticipantServicer, ParticipantWork] | None = None
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined] # its stubs know no aio
        self._tasks = TaskSupervisor()

    def action(
        self, name: str, kind: type = dict, *, cancel_always: bool = False, needs_request: bool = True
    ) -> Callable[[H], H]:
        """Register a class (created without arguments) or an object as the handlers of an action.

        Define one of the two handlers for each operation:

        - `try_(branch, request, db)`, `confirm(...)`, `cancel(...)`: one item in
          a transaction of its own. The return value of `try_` (protobuf, pydantic, Struct,
          dataclass, dict, list, bytes or None; at most 1 MiB when encoded) is stored, returned
          to a duplicate, and available to the other two as `branch.try_result`. Any other value
          fails permanently with INVALID_RESULT. `raise Rejected(...)` in `try_` rejects. Any
          other exception is a failure (HANDLER_ERROR), which is retried.
        - `try_batch(items, db)`, `confirm_batch(...)`, `cancel_batch(...)`: many
          items `(branch, request)`, no branch twice, in one transaction. Return
          None (all done) or a sequence with one entry per item: a result, None,
          or (from `try_batch`) a Rejected, for an item that has changed nothing.
          A Try that has to wait for another transaction returns a Postponed.
          If it raises, the transaction is rolled back and each item is run alone.

        `db` is in the transaction that the barrier commits after the handler. It refuses
        `commit`, `rollback` and `close` (TransactionControlError). Savepoints by
        `begin_nested()` are allowed, and must be closed (SAVEPOINT_OPEN). If the transaction
        is lost while the handler runs, the call fails: TRANSACTION_ABORTED or TRANSACTION_ENDED.

        Further methods are optional. They run on the event loop and outside of a transaction. Those that are
        no coroutines must be quick and change nothing.

        - `screen(request)` is called for the first attempt of a Try. It may return or raise Rejected if
          the Try cannot succeed. Returning is faster. What it returns holds for all Trys of a frozen kind
          that arrived together with equal bytes.
        - `async screen_batch(items)` is called with Trys before they join a batch, and may wait while
          other batches are in their transactions. It returns None or one entry per item: None or a
          Rejected. It needs `try_batch`.
        - `async tried_batch(succeeded, unsuccessful)` is called with the Trys of a batch that passed
          `screen_batch`, after their transaction and before they are answered. What it raises is logged.
          It is not called if the process ends before.
        - `try_result(branch, request)` returns the result that a Try will have if it succeeds.
          The barrier then writes its row and the result in one statement. The Try finds the
          result as `branch.try_result` and returns None; a value that it returns is used instead.
          It is called again for a repeated Try, whose result is still that of the first one.
        - `partition_key(request)` returns an int, the request's partition, and must not raise. No
          two batches of one operation are in flight with requests of the same partition. Within
          a partition, requests are handled in order of arrival. Use one partition for requests
          that change the same row.

        Args:
            name: The action's name, 1 to 128 bytes.
            kind: The type of the payload: a protobuf message class, a pydantic model, a msgspec
                Struct, a dataclass, `dict` (a JSON object) or `bytes`; see tcc.payload for the
                JSON forms of other types within them. If the kind is frozen, calls that arrive
                together with equal bytes may share one object. A payload of another kind fails
                with INVALID_PAYLOAD, and no handler runs.
            cancel_always: True for a Try with effects outside the database. Its cancel handler
                also runs for an empty cancel, with `branch.tried` False.
            needs_request: False if Confirm and Cancel find in the branch's own rows what it
                reserved. An operator can then end an orphan, whose transaction and payload are no
                longer known (docs/OPERATIONS.md); the handler's `request` is None. It is None, too, in the
                Cancel of a `cancel_always` action whose payload cannot be decoded.

        Raises:
            TypeError: A handler is missing, has the wrong parameters or is of the wrong kind
                (`async def` with an AsyncEngine, plain `def` with an Engine), or the kind of
                payload is not supported.
            ValueError: The name is taken, empty or longer than 128 bytes.
        """
        return self._register(
            "action",
            BranchKind.TCC,
            name,
            kind,
            cancel_always=cancel_always,
            needs_request=needs_request,
        )

    def saga(
        self, name: str, kind: type = dict, *, compensate_always: bool = False, needs_request: bool = True
    ) -> Callable[[H], H]:
        """Register a class (created without arguments) or an object as the handlers of a saga's action.

        Define one of the two handlers for each call:

        - `execute(branch, request, db)`, `compensate(...)`: one item in a transaction of its own.
        - `execute_batch(items, db)`, `compensate_batch(...)`: many items in one transaction.

        `execute` does the work, visible to everyone at once, and follows the rules of `try_` in
        `action`: its result is stored, `raise Rejected(...)` rejects. If the transaction is
        confirmed, no call follows. If it is cancelled, `compensate` undoes the work, with the result
        of `execute` as `branch.try_result`; it must succeed in the end, as a Cancel must. The hooks of
        `action` (`screen`, `try_result`, `partition_key`) apply.

        Args:
            name: The action's name, 1 to 128 bytes.
            kind: The type of the payload, as in `action`.
            compensate_always: True for an `execute` with effects outside the database.
                `compensate` then also runs if `execute` was not seen to take effect, with
                `branch.tried` False.
            needs_request: As in `action`, for `compensate`.

        Raises:
            TypeError, ValueError: As `action`.
        """
        return self._register(
            "saga",
            BranchKind.SAGA,
            name,
            kind,
            cancel_always=compensate_always,
            needs_request=needs_request,
        )

    def message(self, name: str, kind: type = dict) -> Callable[[H], H]:
        """Register a function as the handler of a message's action: `deliver(branch, request, db)`.

        It is called after the decision CONFIRM, until it succeeds. A message cannot be rejected: any
        exception is a failure, and the delivery is repeated. Its effect in the database takes place
        once; an effect elsewhere may be repeated.

        A class (created without arguments) or an object may be registered instead, with
        `deliver(branch, request, db)` or `deliver_batch(items, db)`, and with `partition_key(request)` as
        in `action`.

        Args:
            name: The action's name, 1 to 128 bytes.
            kind: The type of the payload, as in `action`.

        Raises:
            TypeError, ValueError: As `action`.
        """
        return self._register("message", BranchKind.MESSAGE, name, kind)

    def _register(
        self,
        decorator: str,
        branch_kind: BranchKind,
        name: str,
        kind: type,
        *,
        cancel_always: bool = False,
        needs_request: bool = True,
    ) -> Callable[[H], H]:
        if not isinstance(name, str):
            raise TypeError(
                f'an action needs a name; write: @participant.{decorator}("{_action_name(name)}")'
            )

        def register(handlers: H) -> H:
            if name in self._actions:
                raise ValueError(f"there is an action {name!r} already")
            instance: object = handlers() if isinstance(handlers, type) else handlers
            if branch_kind is BranchKind.MESSAGE and inspect.isroutine(instance):
                instance = Message(instance)
            self._actions[name] = build_action(
                name,
                kind,
                instance,
                participant=self.name,
                is_async=self._executor.is_async,
                branch_kind=branch_kind,
                cancel_always=cancel_always,
                needs_request=needs_request,
            )
            return handlers

        return register

    def once(self, message_id: str) -> Once:
        """Return a block that takes effect once for a message of a queue or a webhook.

            async with orders.once(message.id) as db:  # with an Engine: with orders.once(…) as db
                if db is not None:
                    await db.execute(...)

        `db` is in a transaction that also holds the barrier's row of the message, and that is
        committed when the block ends, or rolled back when it raises. If the message has taken effect
        before, `db` is None. If it is being handled elsewhere, the block waits for that. Acknowledge
        the message after the block. Rows are purged as those of transactions, after `retention_s`.

        Args:
            message_id: The id of the message, unique among all messages of this participant. Of two
                queues, put the queue's name before it.

        Raises:
            TypeError, ValueError: The id is not a text, or empty; or the block is entered with
                `with` although the database is an AsyncEngine, or the other way round.
            RuntimeError: The database has no barrier table. A process that does not serve calls
                `create_schema` at its start.
            sqlalchemy.exc.DBAPIError: The database failed. Nothing has taken effect, unless the
                connection was lost during COMMIT. Handle the message again.
        """
        return Once(self.name, self._executor.block(), self._executor.sql, message_id)

    def local_block(
        self, gid: str, branch_id: str, expires_at_ms: int, fingerprint: bytes
    ) -> tuple[Any, Plan[BarrierDecision]]:
        """Return the local transaction of an initiator's branch, and the plan of its row. For `tx.local`."""
        digest = digest_of(LOCAL_ACTION, fingerprint, payload.OCTETS)
        branch = Branch(gid, branch_id, LOCAL_ACTION, expires_at_ms=expires_at_ms, digest=digest)
        plan = decide_one(self._executor.sql, Operation.TRY, branch, kind=BranchKind.SAGA)
        return self._executor.block(), plan

    @property
    def is_async(self) -> bool:
        """True if the database is an AsyncEngine, so that handlers are `async def`."""
        return self._executor.is_async

    async def create_schema(self) -> int:
        """Create or migrate the barrier's table. Every process may call this at every start.

        Returns:
            The number of migration steps that were applied.
        """
        return await self._executor.create_schema()

    async def start(
        self,
        address: str = "127.0.0.1:0",
        *,
        tls: Tls | None = None,
        callers: Sequence[str] | None = None,
        insecure: bool = False,
        interceptors: Sequence[Any] = (),
        reuse_port: bool = False,
    ) -> int:
        """Serve at the address and return the port.

        Args:
            address: HOST:PORT. Port 0 selects a free port.
            tls: The certificate of this participant, its key, and the authorities of its callers'
                certificates. Without it connections are not encrypted.
            callers: Who may call, besides health checks: names in a coordinator's certificate
                (`spiffe://…`, `uri:…`, `dns:…`, `email:…`), or `sha256:` with the SHA-256 of a
                token. Empty: every caller.
            insecure: Serve on an address that is not on loopback without `tls` and `callers`.
            interceptors: Interceptors of the gRPC server.
            reuse_port: Let several processes of this participant listen on one port (SO_REUSEPORT).

        Raises:
            OSError: The address is taken, or is not an address of this machine; or a file of
                `tls` cannot be read.
            ValueError: The database's connections are in AUTOCOMMIT mode; or the address is not
                on loopback, and strangers could call; or `tls` or `callers` is not usable.
            RuntimeError: The database has no barrier table: call `create_schema`, or `running` and
                `serve`, which do.
            sqlalchemy.exc.DBAPIError: The database cannot be reached.
        """
        assert self._server is None, "this participant has already been started"
        _check_bind_address(address)
        check_address(address, tls, callers, insecure=insecure)
        credentials = None if tls is None else server_credentials(tls)
        await self._executor.check()
        tasks = self._tasks = TaskSupervisor()
        work = ParticipantWork(
            self._executor,
            self._actions,
            tasks,
            batch_items_max=self._batch_items_max,
            max_batches_in_flight=self._max_batches_in_flight,
            waiting_max=self._waiting_max,
            retention_ms=self._retention_ms,
            tracing=self._tracing,
            opener=Opener(self._payload_codec, self.name) if self._payload_codec else None,
        )
        server = grpc.aio.server(
            interceptors=[*([CallerCheck(callers)] if callers else ()), *interceptors],
            options=(
                *server_options(reuse_port=reuse_port),
                ("grpc.max_receive_message_length", BRANCH_CALLS_BYTES_MAX),
                ("grpc.max_connection_age_ms", CONNECTION_AGE_MAX_MS),
                ("grpc.max_allowed_incoming_connections", _CONNECTIONS_MAX),
            ),
            maximum_concurrent_rpcs=self._rpcs_max,
        )
        servicer = ParticipantServicer(self.name, work)
        servicer.add_to(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if callers or is_local(address):
            names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        port = _listen(server, address, credentials)
        work.start()
        tasks.start(self._purge_regularly(work), "the purge of barrier rows", endless=True)
        tasks.start(self._report_failure(tasks), "the watch of background tasks")
        await server.start()
        self.port = port
        self._server = server, servicer, work
        await self._report(health_pb2.HealthCheckResponse.SERVING)
        logger.info("participant %s serves on port %d", self.name, port)
        return port

    async def stop(self, grace_s: float = 5.0) -> None:
        """Report NOT_SERVING, accept no new calls, finish the current ones, and stop.

        Calls that are not done after `grace_s` seconds are aborted. A local transaction that
        is still open after the same time again is rolled back. With a sync engine, whose
        threads cannot be stopped, it runs to its end.
        """
        if self._server is None:
            return
        (server, servicer, work), self._server = self._server, None
        await self._report(health_pb2.HealthCheckResponse.NOT_SERVING)
        servicer.drain()
        await server.stop(grace_s)
        await work.drain(grace_s)
        await self._tasks.stop()

    @asynccontextmanager
    async def running(
        self,
        address: str = "127.0.0.1:0",
        *,
        grace_s: float = 5.0,
        tls: Tls | None = None,
        callers: Sequence[str] | None = None,
        insecure: bool = False,
        interceptors: Sequence[Any] = (),
        reuse_port: bool = False,
    ) -> AsyncIterator["ParticipantServer"]:
        """Create the schema, serve during the block, and stop gracefully at its end.

        It installs no signal handlers, so it can run inside another server, or in the event loop
        of a thread. The arguments are those of `start` and `stop`. Raises the errors of `start`,
        and at the end of the block BackgroundTaskError if a task that serving depends on ended.
        """
        await self.create_schema()
        port = await self.start(
            address,
            tls=tls,
            callers=callers,
            insecure=insecure,
            interceptors=interceptors,
            reuse_port=reuse_port,
        )
        server = ParticipantServer(port=port, _tasks=self._tasks)
        try:
            yield server
        finally:
            await self.stop(grace_s)
        server.check()

    async def serve(
        self,
        address: str,
        *,
        grace_s: float = 5.0,
        tls: Tls | None = None,
        callers: Sequence[str] | None = None,
        insecure: bool = False,
        interceptors: Sequence[Any] = (),
        reuse_port: bool = False,
    ) -> None:
        """Serve as `running` does, until SIGTERM or SIGINT. For the main thread of a process.

        Raises the errors of `running`.
        """
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, stopped.set)
        try:
            async with self.running(
                address,
                grace_s=grace_s,
                tls=tls,
                callers=callers,
                insecure=insecure,
                interceptors=interceptors,
                reuse_port=reuse_port,
            ) as server:
                await _first_of(stopped.wait(), server.failed())
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    @property
    def waiting(self) -> int:
        """The number of accepted calls that have no result yet."""
        return self._server[2].waiting if self._server else 0

    async def purge_once(self) -> int:
        """Delete one bounded batch of barrier rows past their retention; return their number."""
        return await self._executor.purge(margin_ms=self._retention_ms, rows_max=self._purge_rows_max)

    async def _report(self, status: int) -> None:
        # Its name, so that `tccd doctor` can find out that an address is another participant's.
        for service in ("", SERVICE, self.name):
            await self._health.set(service, status)

    async def _report_failure(self, tasks: TaskSupervisor) -> None:
        await tasks.failed.wait()
        await self._report(health_pb2.HealthCheckResponse.NOT_SERVING)

    async def _purge_regularly(self, work: ParticipantWork) -> None:
        while True:
            # Processes of one participant should not all purge at the same time.
            await asyncio.sleep(self._purge_interval_s * random.uniform(0.5, 1.5))
            try:
                await self._purge_all(work)
            except Exception as error:  # noqa: BLE001 - a driver may raise anything; calls continue
                logger.warning(
                    "barrier rows were not purged; the next round tries again: %s", error_text(error)
                )

    async def _purge_all(self, work: ParticipantWork) -> None:
        purged = self._purge_rows_max
        while purged == self._purge_rows_max:
            async with work.transaction_slot():
                purged = await self.purge_once()


@dataclass(frozen=True, slots=True)
class ParticipantServer:
    """A participant that serves, inside the block of `Participant.running`."""

    port: int
    _tasks: TaskSupervisor

    async def failed(self) -> None:
        """Wait until a task that serving depends on has ended; it should not. Then leave the block."""
        await self._tasks.failed.wait()

    def check(self) -> None:
        """Raise BackgroundTaskError if a task that serving depends on has ended."""
        if self._tasks.error is not None:
            raise self._tasks.error


async def _first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait until one of them has ended; cancel the others."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _checked_name(name: object) -> str:
    form = 'as in Participant("inventory", database=…)'
    if not isinstance(name, str):
        raise TypeError(f"a participant's name is a text, {form}, not {name!r}")
    if not (name and name.isprintable() and len(name.encode()) <= NAME_BYTES_MAX):
        raise ValueError(
            f"a participant's name has 1 to {NAME_BYTES_MAX} bytes, all printable, {form}, not {name!a}"
        )
    return name


def _check_bind_address(address: object) -> None:
    form = 'HOST:PORT, as in "127.0.0.1:50051"'
    if not isinstance(address, str):
        raise TypeError(f"the address is {form}, not {address!r}")
    if not _BIND_ADDRESS.fullmatch(address):
        raise ValueError(f"the address is {form}, not {address!a}")
    check_port(address)


def _listen(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    """Bind the server to the address; return the port. Raises OSError."""
    try:
        port = (
            server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        )
    except RuntimeError as error:
        raise OSError(
            f"cannot listen on {address}: it is taken, or not an address of this machine"
        ) from error
    return port


def _action_name(handlers: object) -> str:
    name = getattr(handlers, "__name__", type(handlers).__name__)
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _tracing(provider: "TracerProvider | None", participant: str) -> "ParticipantTracing | None":
    if provider is None:
        return None
    from tcc.participant.tracing import ParticipantTracing  # noqa: PLC0415 - OpenTelemetry is optional

    return ParticipantTracing(provider, participant)
