"""Strings that live transactions have in common are in memory once."""

from coordinator.api.initiator.requests import RequestLimits, new_transaction
from coordinator.core.model import Transaction
from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb


def received(gid: str) -> Transaction:
    """A transaction as it comes from the wire: every string in it is new."""
    branch = common.BranchSpec(
        branch_id="inventory", participant="inventory", action="reserve", content_type="application/json"
    )
    wire = pb.ExecuteTransactionRequest(gid=gid, branches=[branch]).SerializeToString()
    return new_transaction(
        pb.ExecuteTransactionRequest.FromString(wire),
        gid="",
        now=0.0,
        time_left_s=None,
        limits=RequestLimits(),
        cancel_in_stage_order=frozenset(),
    )


def test_transactions_share_the_names_they_have_in_common() -> None:
    one, other = received("order-1").branches[0].spec, received("order-2").branches[0].spec
    assert one.participant is other.participant
    assert one.branch_id is other.branch_id
    assert one.action is other.action
    assert one.content_type is other.content_type
