"""The end of every transaction, read from the coordinator."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import grpc

from tcc._internal.channel_options import client_options
from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb, transaction_pb2_grpc as pb_grpc

_PAGE_SIZE = 1_000


class End(StrEnum):
    """The state of a transaction for the audit."""

    CONFIRMED = "CONFIRMED"
    CANCELLED = "CANCELLED"
    OPEN = "OPEN"


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditedTransaction:
    """A transaction of the coordinator. `branches` are pairs (participant, branch_id)."""

    gid: str
    end: End
    branches: tuple[tuple[str, str], ...]


_ENDS = {
    common.TRANSACTION_STATE_CONFIRMED: End.CONFIRMED,
    common.TRANSACTION_STATE_CANCELLED: End.CANCELLED,
}


def list_transactions(coordinator: str) -> Iterator[AuditedTransaction]:
    """Yield every transaction of the coordinator at HOST:PORT. Raises grpc.RpcError."""
    with grpc.insecure_channel(coordinator, options=client_options()) as channel:
        yield from read_transactions(channel)


def read_transactions(
    channel: grpc.Channel, metadata: Sequence[tuple[str, str]] = ()
) -> Iterator[AuditedTransaction]:
    """Yield every transaction that a caller with this metadata may see. Raises grpc.RpcError."""
    service = pb_grpc.TransactionServiceStub(channel)
    page_token, more = "", True
    while more:
        request = pb.ListTransactionsRequest(page_size=_PAGE_SIZE, page_token=page_token)
        page = service.ListTransactions(request, metadata=tuple(metadata))
        yield from map(_audited, page.transactions)
        page_token = page.next_page_token
        more = bool(page_token)


def _audited(transaction: common.Transaction) -> AuditedTransaction:
    return AuditedTransaction(
        gid=transaction.gid,
        end=_ENDS.get(transaction.state, End.OPEN),
        branches=tuple((branch.spec.participant, branch.spec.branch_id) for branch in transaction.branches),
    )
