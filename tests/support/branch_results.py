"""The results of a batch of branch calls, all of them at once."""

import asyncio
from collections.abc import Sequence

from coordinator.core.model import BranchCall
from coordinator.ports.participants import CallResults, Participants


async def branch_results(
    participants: Participants, participant: str, calls: Sequence[BranchCall]
) -> CallResults:
    """Send a batch; return each call with its result, in the order in which they came."""
    found: CallResults = []
    complete = asyncio.Event()

    def on_results(results: CallResults) -> None:
        found.extend(results)
        assert len(found) <= len(calls), "a call has one result"
        if len(found) == len(calls):
            complete.set()

    participants.execute(participant, calls, on_results)
    await complete.wait()
    return found
