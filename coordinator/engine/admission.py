"""Admission: whether new work is taken on. Nothing is written for what is refused here."""

from collections.abc import Iterable

from coordinator.core.errors import (
    Overloaded,
    ParticipantPaused,
    ParticipantUnavailable,
    Refused,
    TenantLimit,
    UnknownParticipant,
)
from coordinator.core.model import BranchSpec, Transaction
from coordinator.engine.clock import LogClock
from coordinator.engine.driver import Driver
from coordinator.engine.hand_over import HandOver, draining
from coordinator.engine.limits import EngineLimits
from coordinator.engine.live import LiveTransactions, TenantUse

# New work leaves some room to what is decided already: adopted and retried transactions.
NEW_WORK_SHARE = 0.9
# How much of the live transactions' bound one participant may fill.
PARTICIPANT_SHARE = 0.5
# How long a caller of a paused participant is asked to wait.
PAUSED_RETRY_AFTER_S = 5.0
# How long a tenant that has reached its own limit is asked to wait.
TENANT_RETRY_AFTER_S = 0.5
# Of a tenant without live transactions.
_NO_USE = TenantUse()


class Admission:
    """Checks new work against the bounds, the log and the participants it needs."""

    def __init__(
        self,
        transactions: LiveTransactions,
        driver: Driver,
        hand_over: HandOver,
        *,
        limits: EngineLimits,
        clock: LogClock,
    ) -> None:
        self.limits = limits
        self.live = transactions.live
        self._transactions = transactions
        self._hand_over = hand_over
        self._writer = driver.writer
        self._dispatchers = driver.dispatchers
        self._clock = clock

    def refusal(self) -> Refused | None:
        """Return why no new transaction at all is taken on now; None: it depends on the transaction."""
        if self._hand_over.draining:
            return draining()
        if not self._writer.available:
            return self._writer.refusal()
        if len(self.live) >= self.limits.live_max * NEW_WORK_SHARE:
            return Overloaded("too many live transactions", retry_after_s=0.2)
        if self._transactions.held_bytes >= self.limits.live_bytes_max * NEW_WORK_SHARE:
            return _too_many_bytes()
        if self._writer.backlog_of_available >= self.limits.log_backlog_max:
            return Overloaded("the log cannot keep up", retry_after_s=0.2)
        return None

    def check(self, tx: Transaction) -> None:
        """Raise the refusal of a new transaction, if there is one.

        Raises:
            Refused
        """
        refusal = self.refusal()
        if refusal is not None:
            raise refusal
        self._writer.check(tx.gid)
        if (
            tx.interactive
            and self._transactions.interactive >= self.limits.live_max * self.limits.interactive_share
        ):
            raise Overloaded("too many interactive transactions are open", retry_after_s=1.0)
        self.check_bytes(sum([len(branch.spec.payload) for branch in tx.branches]), tx.tenant, new=1)
        self.check_participants(branch.spec for branch in tx.branches)

    def check_bytes(self, size: int, tenant: str, *, new: int) -> None:
        """Check that there is room for payloads of this size, and for `new` transactions of the tenant.

        Raises:
            Overloaded, TenantLimit
        """
        if self._transactions.held_bytes + size > self.limits.live_bytes_max * NEW_WORK_SHARE:
            raise _too_many_bytes()
        limits = self._transactions.tenant_limits.get(tenant)
        if limits is None:
            return
        use = self._transactions.tenants.get(tenant, _NO_USE)
        if use.live + new > limits.live_max:
            raise TenantLimit(
                f"{tenant!r} may have {limits.live_max} live transactions", retry_after_s=TENANT_RETRY_AFTER_S
            )
        if use.held_bytes + size > limits.bytes_max:
            raise TenantLimit(
                f"payloads and results of live transactions of {tenant!r} may have {limits.bytes_max} bytes",
                retry_after_s=TENANT_RETRY_AFTER_S,
            )

    def check_log(self, gid: str) -> None:
        """Raise LogUnavailable while the log, or the cell of a transaction, is unavailable."""
        self._writer.check(gid)

    def check_participants(self, specs: Iterable[BranchSpec]) -> None:
        """Raise the refusal of calls to these participants, if there is one.

        Raises:
            Refused
        """
        now = self._clock.now()
        for spec in specs:
            dispatcher = self._dispatchers.get(spec.participant)
            if dispatcher is None:
                raise UnknownParticipant(
                    f"participant {spec.participant!r} is not configured",
                    metadata={"participant": spec.participant},
                )
            if dispatcher.paused:
                raise ParticipantPaused(
                    f"participant {spec.participant!r} is paused by an operator",
                    retry_after_s=PAUSED_RETRY_AFTER_S,
                    metadata={"participant": spec.participant},
                )
            # New work may be the probe: what opened the breaker may be with another coordinator by now.
            if not dispatcher.breaker.allows(now):
                raise ParticipantUnavailable(
                    f"participant {spec.participant!r} is not answering",
                    retry_after_s=dispatcher.breaker.wait_s(now) + dispatcher.policy.breaker.open_first_s,
                    metadata={"participant": spec.participant},
                )
            too_many_live = dispatcher.live >= self.limits.live_max * PARTICIPANT_SHARE
            if too_many_live or dispatcher.backlog >= dispatcher.policy.backlog_max:
                raise Overloaded(
                    f"too much waits for participant {spec.participant!r}",
                    retry_after_s=0.2,
                    metadata={"participant": spec.participant},
                )


def _too_many_bytes() -> Overloaded:
    return Overloaded("the payloads and results of live transactions fill the memory", retry_after_s=0.2)
