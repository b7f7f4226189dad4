"""A scripted participant whose listing of barrier rows is set by a test."""

from tcc.common.v1 import common_pb2 as common
from tcc.participant.v1 import participant_pb2 as ppb
from tests.support.scripted_participant import ScriptedParticipant


class ScriptedBarrier(ScriptedParticipant):
    """Returns the pages of a listing, and the rows of a look-up by key, as set by a test."""

    def __init__(self, pages: list[list[ppb.BarrierRow]], found: list[ppb.BarrierRow]) -> None:
        super().__init__()
        self.pages = pages
        self.found = found

    async def ListBranches(self, request, context):  # noqa: N802
        if request.keys:
            keys = [(key.gid, key.branch_id) for key in request.keys]
            return ppb.ListBranchesResponse(
                rows=[row for row in self.found if (row.gid, row.branch_id) in keys]
            )
        number = int(request.page_token or 0)
        more = number + 1 < len(self.pages)
        return ppb.ListBranchesResponse(
            rows=self.pages[number], next_page_token=str(number + 1) if more else ""
        )


def tried(gid: str) -> ppb.BarrierRow:
    return ppb.BarrierRow(gid=gid, branch_id="1", action="reserve", state=common.BARRIER_STATE_TRIED)
