"""The case `listing_agrees` of the conformance suite: correct listings pass, wrong ones are detected."""

import pytest

from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as pb
from tcc.testing import conformance

from .test_conformance import Careless, case, serving

STATES = {
    "tried": common.BARRIER_STATE_TRIED,
    "confirmed": common.BARRIER_STATE_CONFIRMED,
    "cancelled": common.BARRIER_STATE_CANCELLED,
}


class Bookkeeper(Careless):
    """Lists its barrier rows, except for one fault."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self._listing_fault = fault

    async def ListBranches(self, request, context):  # noqa: N802 - named by the contract
        fault = self._listing_fault
        rows = [
            pb.BarrierRow(gid=gid, branch_id=branch_id, action="reserve", state=STATES[state])
            for (gid, branch_id), state in self._states.items()
        ]
        if request.keys and fault != "ignores keys":
            keys = {(key.gid, key.branch_id) for key in request.keys}
            rows = [row for row in rows if (row.gid, row.branch_id) in keys]
            if fault == "makes rows up":
                rows += [pb.BarrierRow(gid=gid, branch_id=branch_id) for gid, branch_id in sorted(keys)]
        elif fault != "lists what has ended":
            wanted = set(request.states) or {common.BARRIER_STATE_TRIED}
            rows = [row for row in rows if row.state in wanted]
        if fault == "calls everything open":
            for row in rows:
                row.state = common.BARRIER_STATE_TRIED
        if request.page_size and not request.keys and fault != "ignores page_size":
            rows = rows[: request.page_size]
        return pb.ListBranchesResponse(rows=rows)


async def checked(servicer: Careless) -> str:
    """Return why the case was skipped, for a service with an open and a confirmed branch of others."""
    async with serving(servicer) as address:
        for name in ("one", "two"):
            servicer._states[f"open-{name}", "b"] = "tried"
        servicer._states["done", "b"] = "confirmed"
        return await conformance.check(address, case("listing_agrees"), action="reserve", payload=b"one")


async def test_a_correct_listing_passes() -> None:
    assert await checked(Bookkeeper()) == ""


async def test_a_service_without_a_listing_is_not_checked() -> None:
    assert "no ListBranches" in await checked(Careless())


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("ignores keys", "ListBranches with keys"),
        ("makes rows up", "ListBranches with keys"),
        ("calls everything open", "ListBranches with keys"),
        ("lists what has ended", "only open ones"),
        ("ignores page_size", "at most page_size"),
    ],
)
async def test_a_wrong_listing_is_detected(fault: str, words: str) -> None:
    with pytest.raises(conformance.ConformanceError, match=words):
        await checked(Bookkeeper(fault))
