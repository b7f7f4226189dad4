"""The job that states where the audit chain ends."""

from coordinator.engine.auditor import Auditor


class StateAuditHead:
    """Logs, and signs, the end of the audit chain."""

    name = "audit"

    def __init__(self, auditor: Auditor, *, every_s: float, cell: int = 0) -> None:
        self.cell = cell
        self.every_s = every_s
        self._auditor = auditor

    async def run_once(self) -> int:
        await self._auditor.state_head()
        return 1
