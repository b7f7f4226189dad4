"""The initiator's own change, by which its transaction is decided: `InteractiveTransaction.local`.

The branch is registered with the coordinator first, and closes the list of branches. Then a
local transaction claims the barrier's row, runs the caller's block, and commits. So whatever
happens later, the row is there exactly if the change is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, runtime_checkable

from tcc._internal.failpoint import failpoint
from tcc.client import arguments
from tcc.errors import LocalAlreadyCommitted, LocalCommitUnknown, PreconditionFailed

if TYPE_CHECKING:
    from tcc.client.interactive import InteractiveTransaction


@runtime_checkable
class LocalParticipant(Protocol):
    """A `tcc.Participant` of this process. It need not serve yet."""

    name: str

    @property
    def is_async(self) -> bool:
        """True if its database is an AsyncEngine."""

    def local_block(self, gid: str, branch_id: str, expires_at_ms: int) -> tuple[Any, Any]:
        """Return the local transaction of the branch, and the plan of its row."""


class LocalBranch:
    """A local branch, entered with `async with`. See `InteractiveTransaction.local`."""

    #: The local transaction and the plan of its row; set by `register`.
    block: Any
    plan: Any

    def __init__(
        self,
        transaction: "InteractiveTransaction",
        participant: LocalParticipant,
        branch_id: str,
        timeout_s: float | None,
    ) -> None:
        arguments.instance("participant", participant, LocalParticipant, "a tcc.Participant of this process")
        arguments.text("branch_id", branch_id, 'branch_id="order"')
        self._transaction = transaction
        self._participant = participant
        self._branch_id = branch_id
        self._timeout_s = timeout_s
        #: What became of the local transaction.
        self.is_open = False
        self.is_committed = False
        self.unknown: LocalCommitUnknown | None = None

    def check(self, *, is_async: bool) -> None:
        """Raise TypeError unless the participant's engine suits the client."""
        if self._participant.is_async is not is_async:
            wanted, client = ("AsyncEngine", "Client") if is_async else ("Engine", "SyncClient")
            raise TypeError(
                f"the local transaction of a {client} needs a participant whose database is an {wanted}; "
                f"that of {self._participant.name} is not"
            )

    async def register(self) -> None:
        """Register the branch, and prepare the local transaction."""
        context = await self._transaction.register_local(
            self, self._participant.name, self._branch_id, self._timeout_s
        )
        failpoint("client.local.registered")
        self._branch_id = context.branch_id
        self.block, self.plan = self._participant.local_block(
            context.gid, context.branch_id, context.expires_at_ms
        )

    @contextmanager
    def beginning(self) -> Iterator[None]:
        """Note an error that keeps the block from running."""
        try:
            yield
        except BaseException as error:
            if not self.is_committed:
                self._transaction.note_try(self._branch_id, error)
            raise

    def admits(self, decision: Any) -> bool:
        """Return whether the barrier lets the block run."""
        self.is_open = decision.name == "RUN"
        return self.is_open

    def refuse(self, decision: Any) -> NoReturn:
        """Raise the error of a decision that does not let the block run."""
        if decision.name == "REPLAY":
            self.is_committed = True
            raise LocalAlreadyCommitted(
                f"the local change of transaction {self._transaction.gid} is committed already",
                reason="LOCAL_ALREADY_COMMITTED",
            )
        raise PreconditionFailed(
            f"the local change of transaction {self._transaction.gid} is refused: {decision.value}",
            reason="LOCAL_REFUSED",
        )

    @contextmanager
    def ending(self, error: BaseException | None) -> Iterator[None]:
        """Note what became of the local transaction, which ends here. `error`: the block's."""
        failure: BaseException | None = error
        try:
            if error is None:
                failpoint("client.local.commit.before")
            yield
            if error is None:
                failpoint("client.local.committed")
        except BaseException as raised:
            failure = raised
            if self.block.state.name == "UNKNOWN":
                self.unknown = LocalCommitUnknown(
                    f"it is not known whether the local change of transaction {self._transaction.gid} was "
                    "committed; the coordinator asks the participant after the expiry",
                    reason="LOCAL_COMMIT_UNKNOWN",
                )
                if isinstance(raised, Exception):
                    raise self.unknown from raised
            raise
        finally:
            self.is_open = False
            self.is_committed = self.block.state.name == "COMMITTED"
            if not self.is_committed and self.unknown is None:
                self._transaction.note_try(self._branch_id, failure)

    async def __aenter__(self) -> Any:
        self.check(is_async=True)
        await self.register()
        with self.beginning():
            decision, db = await self.block.begin(self.plan)
            if not self.admits(decision):
                await self.block.roll_back()
                self.refuse(decision)
            return db

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self.ending(error):
            await (self.block.commit() if error is None else self.block.roll_back())
