"""A reference participant that counts: messages, branch calls in them, and its local transactions.

`python -m bench.counted_participant NAME --database URL` serves as
`python -m participants.NAME` does, and answers `count` (`commands.serve_commands`) as the
no-op participant does.
"""

import argparse
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import grpc
import uvloop
from sqlalchemy import MetaData, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from bench.commands import Command, serve_commands
from participants.coupon.service import coupon
from participants.coupon.store import metadata as coupon_metadata
from participants.inventory.service import inventory
from participants.inventory.store import metadata as inventory_metadata
from participants.order.service import order
from participants.order.store import metadata as order_metadata
from participants.serving import arguments, create_schema
from tcc import Participant
from tcc._internal.garbage import relax_garbage_collection

_PARTICIPANTS: Mapping[str, tuple[Callable[[AsyncEngine], Participant], MetaData]] = {
    "inventory": (inventory, inventory_metadata),
    "coupon": (coupon, coupon_metadata),
    "order": (order, order_metadata),
}
_COUNTED = "/tcc.participant.v1.ParticipantService/ExecuteBranches"

Method: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Counter(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # generic in the stubs only
    """What has come in, and how many transactions its database has committed."""

    def __init__(self, database: AsyncEngine) -> None:
        self.calls = 0
        self.items = 0
        self.commits = 0
        event.listen(database.sync_engine, "commit", self._committed)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Method]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Method:
        method = await continuation(handler_call_details)
        if handler_call_details.method != _COUNTED:
            return method
        execute: Any = method.unary_stream

        async def counted(request: Any, context: Any) -> AsyncIterator[Any]:
            self.calls += 1
            self.items += len(request.calls)
            async for response in execute(request, context):
                yield response

        return grpc.unary_stream_rpc_method_handler(
            counted,
            request_deserializer=method.request_deserializer,
            response_serializer=method.response_serializer,
        )

    def _committed(self, _connection: object) -> None:
        self.commits += 1


async def _serve(options: argparse.Namespace) -> None:
    build, metadata = _PARTICIPANTS[options.participant]
    database = create_async_engine(options.database, pool_size=options.connections, max_overflow=0)
    participant = build(database)
    await create_schema(database, metadata)
    await participant.create_schema()
    counter = Counter(database)
    port = await participant.start(options.listen, interceptors=[counter])
    relax_garbage_collection()
    print(f"listening on {options.listen.rpartition(':')[0]}:{port}", flush=True)

    async def count(_command: Command) -> Command:
        return {"calls": counter.calls, "items": counter.items, "commits": counter.commits}

    await serve_commands(count)
    await participant.stop(grace_s=0)
    await database.dispose()


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("participant", choices=sorted(_PARTICIPANTS))
    uvloop.run(_serve(parser.parse_args()))
