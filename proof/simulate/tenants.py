"""Two tenants: which one an initiator belongs to, and one who asks for the other's transactions.

The coordinators of the simulation authenticate no connection; who calls follows from the process
that does. All else that keeps tenants apart is what runs in production.
"""

import asyncio
import random
from collections.abc import Sequence

import grpc

from coordinator.security.caller import ANY, CALLER, Caller, Client
from proof.simulate.business import ACTIONS
from tcc import payload
from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb, transaction_pb2_grpc as pb_grpc

_TENANTS = ("red", "blue")
_ATTEMPTS = 6


def tenant_of(host: str) -> str:
    """Return the tenant of an initiator: they take turns."""
    return _TENANTS[int(host[1:]) % len(_TENANTS)]


def call_as(host: str) -> None:
    """Let this task go on as the caller that a host's processes are."""
    if not host.startswith("i"):
        return
    tenant = tenant_of(host)
    client = Client(
        name=tenant,
        gid_prefixes=("",),
        calls={ANY: frozenset({ANY})},
        calls_per_s=float("inf"),
        expiry_max_s=float("inf"),
    )
    CALLER.set(Caller(principal=host, method="simulated", client=client))


async def intrude(gids: Sequence[str], participants: Sequence[str], rng: random.Random) -> None:
    """Ask for branches in the transactions of another tenant, again and again."""
    stub = pb_grpc.TransactionServiceStub(grpc.aio.insecure_channel("dns:///coordinators"))
    data, content_type = payload.encode({"account": "a", "quantity": 1})
    for _ in range(_ATTEMPTS):
        for gid in gids:
            branch = common.BranchSpec(
                branch_id="intruder",
                participant=rng.choice(participants),
                action=ACTIONS["tcc"],
                payload=data,
                content_type=content_type,
            )
            try:
                await stub.TryBranch(pb.TryBranchRequest(gid=gid, branch=branch), timeout=1.0)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(rng.uniform(0.0, 0.3))
