"""Bulk actions: a dry run and its token, the run with its progress, and what is refused."""

import pytest

from tcc.admin.v1 import admin_pb2 as apb
from tcc.common.v1 import common_pb2 as common
from tcc.transaction.v1 import transaction_pb2 as pb
from tests.support.errors import refused
from tests.support.worker import Running

from .conftest import Stub, inspect, operator_context, until

HOLD, CANCEL, RETRY = apb.BULK_ACTION_HOLD, apb.BULK_ACTION_CANCEL, apb.BULK_ACTION_RETRY
EU = "label.region=eu state=TRYING"


async def begin(tcc: Running, *gids: str, region: str = "eu") -> None:
    for gid in gids:
        await tcc.stub.BeginTransaction(pb.BeginTransactionRequest(gid=gid, labels={"region": region}))


async def bulk(
    admin: Stub, filter_: str, action: int, token: str = "", reason: str = "incident 7"
) -> list[apb.RunBulkActionResponse]:
    request = apb.RunBulkActionRequest(
        filter=filter_,
        action=action,
        operator_context=operator_context(reason=reason),
        confirmation_token=token,
    )
    return [response async for response in admin.RunBulkAction(request)]


async def test_a_dry_run_changes_nothing_and_its_token_does_it(tcc: Running, admin: Stub) -> None:
    await begin(tcc, *(f"g{number:03}" for number in range(120)))
    await begin(tcc, "us", region="us")
    (dry,) = await bulk(admin, EU, CANCEL)
    assert (dry.dry_run, dry.matched, dry.succeeded, dry.failed) == (True, 120, 120, 0)
    assert dry.finished
    assert set(dry.sample_gids) < {f"g{number:03}" for number in range(120)}
    assert (await inspect(admin, "g000")).transaction.state == common.TRANSACTION_STATE_TRYING
    assert not (await admin.ListAuditRecords(apb.ListAuditRecordsRequest())).records
    *progress, last = await bulk(admin, EU, CANCEL, dry.confirmation_token)
    assert (last.matched, last.succeeded, last.failed, last.finished) == (120, 120, 0, True)
    assert [response.succeeded for response in progress] == [50, 100]
    for gid in ("g000", "g119"):
        assert (await tcc.settled(gid)).state == common.TRANSACTION_STATE_CANCELLED
    assert (await inspect(admin, "us")).transaction.state == common.TRANSACTION_STATE_TRYING
    records = (await admin.ListAuditRecords(apb.ListAuditRecordsRequest(page_size=1_000))).records
    assert len(records) == 120
    assert f'"bulk_filter":"{EU}"' in records[0].detail
    assert (await admin.VerifyAuditChain(apb.VerifyAuditChainRequest())).intact


async def test_a_selection_that_changed_is_refused(tcc: Running, admin: Stub) -> None:
    await begin(tcc, "g1", "g2")
    (dry,) = await bulk(admin, EU, HOLD)
    await begin(tcc, "g3")
    async with refused("ABORTED", "SELECTION_CHANGED"):
        await bulk(admin, EU, HOLD, dry.confirmation_token)
    assert not (await inspect(admin, "g1")).transaction.held


@pytest.mark.parametrize(
    ("filter_", "action"), [("label.region=us state=TRYING", HOLD), (EU, CANCEL)], ids=["filter", "action"]
)
async def test_a_token_is_for_its_own_request(tcc: Running, admin: Stub, filter_: str, action: int) -> None:
    await begin(tcc, "g1")
    await begin(tcc, "g2", region="us")
    (dry,) = await bulk(admin, EU, HOLD)
    async with refused("ABORTED", "SELECTION_CHANGED"):
        await bulk(admin, filter_, action, dry.confirmation_token)


async def test_ages_count_from_the_dry_run(tcc: Running, admin: Stub) -> None:
    await begin(tcc, "g1")

    async def matched() -> bool:
        (dry,) = await bulk(admin, "age>50ms live", HOLD)
        return dry.matched == 1

    await until(matched)
    await begin(tcc, "young")
    (dry,) = await bulk(admin, "age<1h live", HOLD)
    assert dry.matched == 2
    (last,) = await bulk(admin, "age<1h live", HOLD, dry.confirmation_token)
    assert last.succeeded == 2
    assert (await inspect(admin, "young")).transaction.held


async def test_failures_of_a_bulk_action_are_listed(tcc: Running, admin: Stub) -> None:
    await begin(tcc, "g1", "g2")
    seen = (await inspect(admin, "g1")).transaction.version
    await admin.HoldTransaction(apb.HoldTransactionRequest(gid="g1", operator_context=operator_context(seen)))
    (dry,) = await bulk(admin, EU, HOLD)
    assert (dry.succeeded, dry.failed, list(dry.sample_gids)) == (1, 1, ["g2"])
    (last,) = await bulk(admin, EU, HOLD, dry.confirmation_token)
    assert (last.succeeded, last.failed) == (1, 1)
    (failure,) = last.failures
    assert (failure.gid, failure.error.reason) == ("g1", "TRANSACTION_HELD")


async def test_what_is_refused_outright(admin: Stub) -> None:
    async with refused("INVALID_ARGUMENT", "MISSING_REASON"):
        await bulk(admin, "live", HOLD, reason="")
    async with refused("INVALID_ARGUMENT", "INVALID_FILTER"):
        await bulk(admin, " ", HOLD)
    async with refused("INVALID_ARGUMENT", "INVALID_ACTION"):
        await bulk(admin, "live", apb.BULK_ACTION_UNSPECIFIED)
    async with refused("INVALID_ARGUMENT", "INVALID_TOKEN"):
        await bulk(admin, "live", HOLD, "made up")
