"""Bugs of the engine, its queues, the jobs of recovery and the way in."""

from functools import partial

from proof.mutants.mutant import Mutant, Program, selection

_engine = partial(Mutant, file="coordinator/engine/engine.py")
_breaker = partial(
    Mutant, file="coordinator/engine/breaker.py", check=selection("tests/engine/test_breaker.py")
)
_dispatcher = partial(Mutant, file="coordinator/engine/dispatcher.py")
_recovery = partial(Mutant, file="coordinator/jobs/scheduler.py")
_TAKING_OVER = "tests/jobs/test_taking_over.py"
_LOOKED_AFTER = "tests/jobs/test_interrupted.py::test_others_are_looked_after_again_and_again"
_SERVICE = "tests/api/initiator/test_transaction_service.py"
# A few seeds, always the same, and those that found bugs.
_SIMULATION = Program(module="proof.simulate", arguments=("--seeds", "12", "--base", "1", "--jobs", "1"))

MUTANTS = (
    _engine(
        name="refused write taken for done",
        breaks="one decision per transaction, whoever was paused",
        old="            if not was_written:",
        new="            if not was_written and not tx.state.decided:",
        check=_SIMULATION,
    ),
    _engine(
        name="gid conflict not detected in memory",
        breaks="the same gid with different content is refused",
        old="if known.tx.fingerprint == repeated.fingerprint:",
        new="if known.tx.gid == repeated.gid:",
        check=selection(f"{_SERVICE}::test_the_same_gid_with_different_content_is_refused"),
    ),
    _engine(
        name="gid conflict not detected in the log",
        breaks="the same gid with different content is refused",
        old="if fingerprint != other.tx.fingerprint:",
        new="if fingerprint != entry.tx.fingerprint:",
        check=selection(f"{_SERVICE}::test_the_same_gid_with_different_content_is_refused"),
    ),
    _engine(
        name="who waits for a parked transaction is forgotten",
        breaks="every request is answered",
        old="self.watched.setdefault(tx.gid, []).extend(entry.waiters)",
        new="entry.waiters = []",
        check=selection(f"{_TAKING_OVER}::test_who_waits_for_the_end_is_told_though_it_was_parked_meanwhile"),
    ),
    _engine(
        name="bound of live transactions ignored",
        breaks="new work is refused before anything is written",
        old="if len(self.live) >= self.limits.live_max * NEW_WORK_SHARE:",
        new="if len(self.live) > self.limits.live_max * 2:",
        check=selection(f"{_TAKING_OVER}::test_the_bound_holds_however_the_work_is_spread"),
    ),
    _engine(
        name="one participant may fill everything",
        breaks="a participant that always fails leaves room to the others",
        old="too_many_live = dispatcher.live >= self.limits.live_max * PARTICIPANT_SHARE",
        new="too_many_live = dispatcher.live >= self.limits.live_max",
        check=selection(f"{_TAKING_OVER}::test_work_beyond_the_bound_is_refused_before_it_is_written"),
    ),
    _engine(
        name="lost transaction kept in memory",
        breaks="who lost a transaction forgets it",
        old="record.tx.version > entry.tx.version:",
        new="record.tx.version < entry.tx.version:",
        check=selection(f"{_TAKING_OVER}::test_who_waits_at_a_former_owner_learns_how_it_ended"),
    ),
    _breaker(
        name="breaker never opens",
        breaks="a dead participant is left alone",
        old="return replace(self, failures=self.failures + 1)",
        new="return replace(self, failures=1)",
    ),
    _breaker(
        name="breaker lets a crowd out as its probe",
        breaks="one call goes out as a probe",
        old="(now >= self.probe_at and not self.probing)",
        new="(now >= self.probe_at)",
    ),
    _breaker(
        name="open breaker never pauses longer",
        breaks="a dead participant is asked less and less often",
        old="open_s = min(self.open_s * 2, self.policy.open_max_s)",
        new="open_s = self.open_s",
    ),
    _dispatcher(
        name="bulkhead without walls",
        breaks="a slow participant delays only its own transactions",
        old="room = self.policy.concurrency_max - self._in_flight",
        new="room = len(batch)",
        check=selection("tests/engine/test_dispatcher.py"),
    ),
    _dispatcher(
        name="not_sent calls never answered",
        breaks="branches behind an open breaker wait and are then repeated",
        old="not_sent(self.name, len(calls))\n            self._on_answers(",
        new="not_sent(self.name, len(calls))\n            list(",
        check=selection("tests/engine/test_dispatcher.py"),
    ),
    _recovery(
        name="expiry never looked for",
        breaks="a transaction past its expiry is cancelled",
        file="coordinator/jobs/retry.py",
        old="        return self._engine.wake_due()",
        new="        return 0",
        check=_SIMULATION,
    ),
    _recovery(
        name="adopted transactions are not driven on",
        breaks="another coordinator finishes the work of a dead one",
        file="coordinator/jobs/resume.py",
        old="        resumed += engine.resume(records)",
        new="        resumed += len(records)",
        check=_SIMULATION,
    ),
    _recovery(
        name="retries of dead coordinators never looked for",
        breaks="any coordinator repeats what is due",
        file="coordinator/jobs/retry.py",
        old="        self._poll_at = now if more else now + self._poll_every_s",
        new='        self._poll_at = now if more else float("inf")',
        check=selection(_LOOKED_AFTER),
    ),
    _recovery(
        name="the dead are looked for only once",
        breaks="another coordinator finishes the work of a dead one",
        file="coordinator/jobs/adopt.py",
        old="        self._next_run_at = now if more else now + self._settings.adopt_every_s",
        new='        self._next_run_at = now if more else float("inf")',
        check=selection(_LOOKED_AFTER),
    ),
    Mutant(
        name="batch drops its last item",
        breaks="nothing that waits in a queue is lost",
        file="tcc/_internal/batcher.py",
        old="return [queue.popleft() for _ in range(count)]",
        new="return [queue.popleft() for _ in range(count)][: max(1, count - 1)]",
        check=selection("tests/_internal/test_batcher.py"),
    ),
    Mutant(
        name="unreachable log ends the write",
        breaks="a write whose outcome is unknown is written again until it is known",
        file="coordinator/engine/log_writer.py",
        old="                self.log_failed(error)\n",
        new="                self.log_failed(error)\n                raise\n",
        check=_SIMULATION,
    ),
    Mutant(
        name="fingerprint ignores the payload",
        breaks="the same gid with different content is refused",
        file="coordinator/api/initiator/requests.py",
        old="s.action, s.payload, s.content_type",
        new="s.action, s.content_type",
        check=selection("tests/api/initiator/test_requests.py"),
    ),
    Mutant(
        name="missing answers of a batch taken for success",
        breaks="what is not answered is unknown",
        file="coordinator/participant_client/client.py",
        old="yield [(position, failure) for position in sorted(missing)]",
        new="yield [(position, _DONE) for position in sorted(missing)]",
        check=selection("tests/engine/test_bad_participants.py"),
    ),
)
