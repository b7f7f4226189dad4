"""A transaction and the one row of the log that is its own, driven as an engine would drive them."""

from msgspec.structs import replace

from coordinator.core.events import (
    Begun,
    BranchAdded,
    CallCompleted,
    CancelRequested,
    Effect,
    Event,
    Parked,
    Resumed,
    Save,
    Saved,
    Woken,
)
from coordinator.core.machine import step
from coordinator.core.model import (
    NEVER,
    Branch,
    BranchCall,
    BranchSpec,
    CallResult,
    Operation,
    OutcomeCode,
    RetryPolicy,
    Transaction,
    TransactionState,
)

TRY, CONFIRM, CANCEL, CHECK = Operation

# Delays of 1, 2, 4, 8 seconds: jitter is 1.
POLICY = RetryPolicy(delay_first_s=1.0, delay_max_s=8.0, attempts_before_stuck=3)
STARTED_AT = 1_000.0
EXPIRES_AFTER_S = 30.0
EXPIRES_AT = STARTED_AT + EXPIRES_AFTER_S

SUCCEEDED = CallResult(code=OutcomeCode.SUCCEEDED)
SOLD_OUT = CallResult(code=OutcomeCode.REJECTED, reason="SOLD_OUT", message="none left")
LOST = CallResult(code=OutcomeCode.FAILED, reason="UNAVAILABLE", unreachable=True)
HOPELESS = CallResult(code=OutcomeCode.FAILED, reason="NO_SUCH_ACTION", permanent=True)
NOT_CONFIGURED = CallResult(
    code=OutcomeCode.FAILED, reason="UNKNOWN_PARTICIPANT", unknown_participant=True, retry_after_s=5.0
)
WITHHELD = CallResult(code=OutcomeCode.FAILED, reason="BREAKER_OPEN", not_sent=True, retry_after_s=3.0)


def branch(branch_id: str, **fields: object) -> BranchSpec:
    return BranchSpec(branch_id=branch_id, participant=f"{branch_id}-service", action="reserve", **fields)


def transaction(*specs: BranchSpec, interactive: bool = False) -> Transaction:
    return Transaction(
        gid="g",
        branches=tuple(Branch(spec=spec) for spec in specs),
        expires_at=EXPIRES_AT,
        interactive=interactive,
    )


def as_loaded(written: Transaction) -> Transaction:
    """Return the row after `written` was saved, as the next reader finds it."""
    return replace(
        written,
        branches=tuple(replace(branch, calling=None) for branch in written.branches),
        confirm_requested=False,
        wake_at=NEVER,
        version=written.version + 1,
        saved_state=written.state,
        saved_branches=len(written.branches),
        saving=False,
        saving_state=None,
        saving_branches=0,
    )


class Driver:
    """Applies events, keeps the write in flight, and loses its memory when told to."""

    def __init__(self, tx: Transaction) -> None:
        self.tx = tx
        self.now = STARTED_AT
        self.in_flight: Transaction | None = None
        self.row: Transaction | None = None
        self.effects: tuple[Effect, ...] = ()

    def send(self, event: Event) -> tuple[Effect, ...]:
        self.tx, self.effects = step(self.tx, event, self.now)
        for effect in self.effects:
            if isinstance(effect, Save):
                assert self.in_flight is None, "two writes in flight"
                self.in_flight = self.tx
        return self.effects

    def begin(self) -> tuple[Effect, ...]:
        return self.send(Begun())

    def saved(self) -> tuple[Effect, ...]:
        assert self.in_flight is not None, "nothing is being written"
        self.row, self.in_flight = as_loaded(self.in_flight), None
        return self.send(Saved())

    def answer(
        self, operation: Operation, branch_id: str, answer: CallResult = SUCCEEDED
    ) -> tuple[Effect, ...]:
        return self.send(CallCompleted(self.index(branch_id), operation, answer, POLICY, 1.0))

    def add(
        self, spec: BranchSpec, branches_max: int = 64, transaction_bytes_max: int = 1_000
    ) -> tuple[Effect, ...]:
        return self.send(BranchAdded(spec, branches_max, transaction_bytes_max))

    def crash(self, *, write_lands: bool = False) -> None:
        """Forgets everything but the row; a write in flight may have landed or not."""
        if write_lands and self.in_flight is not None:
            self.row = as_loaded(self.in_flight)
        self.in_flight = None
        assert self.row is not None, "nothing was ever written"
        self.tx = self.row

    def resume(self) -> tuple[Effect, ...]:
        return self.send(Resumed())

    def index(self, branch_id: str) -> int:
        return [b.spec.branch_id for b in self.tx.branches].index(branch_id)

    def branch(self, branch_id: str) -> Branch:
        return self.tx.branches[self.index(branch_id)]

    def called(self) -> list[str]:
        """The calls among the latest effects, for example ["TRY stock"]."""
        return [
            f"{effect.operation.name} {effect.spec.branch_id}"
            for effect in self.effects
            if isinstance(effect, BranchCall)
        ]

    def to_end(self, answer: CallResult = SUCCEEDED) -> TransactionState:
        """Goes on fairly: writes land, what is under way is answered, time passes. Returns the last state."""
        for _ in range(500):
            if self.tx.state.ended and self.in_flight is None:
                return self.tx.state
            self._go_on(answer)
        raise AssertionError(f"it does not end: {self.tx}")

    def _go_on(self, answer: CallResult) -> None:
        if self.in_flight is not None:
            if any(isinstance(effect, Parked) for effect in self.saved()):
                self.now = max(self.now, self.tx.next_attempt_at)
                self.crash()
                self.resume()
            return
        calls_in_flight = [(i, b.calling) for i, b in enumerate(self.tx.branches) if b.calling]
        if calls_in_flight:
            index, operation = calls_in_flight[0]
            self.send(CallCompleted(index, operation, answer, POLICY, 1.0))
        else:
            assert self.tx.wake_at != NEVER, f"nothing will ever happen to it: {self.tx}"
            self.now = max(self.now, self.tx.wake_at)
            self.send(Woken())


def begun(*branch_ids: str | BranchSpec, interactive: bool = False) -> Driver:
    """A transaction that has just become durable."""
    specs = [spec if isinstance(spec, BranchSpec) else branch(spec) for spec in branch_ids]
    driver = Driver(transaction(*specs, interactive=interactive))
    driver.begin()
    driver.saved()
    return driver


def confirming(*branch_ids: str | BranchSpec) -> Driver:
    """A transaction whose Confirms have just left."""
    driver = begun(*branch_ids)
    while driver.tx.state is TransactionState.TRYING:
        driver.answer(TRY, next(b.spec.branch_id for b in driver.tx.branches if b.calling))
    driver.saved()
    return driver


def cancelling(*branch_ids: str | BranchSpec) -> Driver:
    """A transaction whose Cancels have just left; the initiator asked for that."""
    driver = begun(*branch_ids)
    driver.send(CancelRequested("changed my mind"))
    driver.saved()
    return driver
