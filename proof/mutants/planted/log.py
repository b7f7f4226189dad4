"""Bugs of the log: its statements, its rows, and what it makes of lost answers."""

from functools import partial

from proof.mutants.mutant import Mutant, selection

_statements = partial(Mutant, file="coordinator/log/statements.py")
_store = partial(Mutant, file="coordinator/log/store.py")
_rows = partial(Mutant, file="coordinator/log/rows.py")
_STORE = "tests/log/test_store.py"
_UNKNOWN = "tests/log/test_outcome_unknown.py"

MUTANTS = (
    _statements(
        name="save without compare-and-set",
        breaks="a write names the version that it was computed from",
        old="            t.version == new.c.version,\n",
        new="",
        check=selection(f"{_STORE}::test_a_stale_version_is_refused_though_the_law_allows_its_state"),
    ),
    _statements(
        name="save without looking at the owner",
        breaks="only the owner writes",
        old='            t.owner == text("owner"),\n            # Ours',
        new="            # Ours",
        check=selection(f"{_STORE}::test_only_the_owner_saves"),
    ),
    _statements(
        name="parked row written by its former owner",
        breaks="a parked transaction belongs to nobody",
        old="            func.coalesce(t.next_attempt_at, t.ended_at).is_(None),\n",
        new="",
        check=selection(f"{_STORE}::test_a_parked_one_belongs_to_nobody_until_it_is_due"),
    ),
    _statements(
        name="database lets a decision flip",
        breaks="one decision per transaction, never changed afterwards",
        old="            is_valid_transition(new.c.state),\n",
        new="",
        check=selection(f"{_STORE}::test_the_database_refuses_what_the_law_refuses"),
    ),
    _statements(
        name="adoption from the living",
        breaks="only a dead coordinator's work is taken over",
        old="coordinators.c.lease_until <= func.now(), coordinators.c.id",
        new="coordinators.c.id",
        check=selection(f"{_STORE}::test_adopting_takes_from_the_dead_alone"),
    ),
    _statements(
        name="adoption without a claim",
        breaks="who takes a transaction over becomes its owner",
        old='            owner=text("owner"),\n            claim=',
        new="            claim=",
        check=selection(f"{_STORE}::test_adopting_takes_from_the_dead_alone"),
    ),
    _statements(
        name="taking without compare-and-set",
        breaks="who takes a transaction names the version that it knows",
        old='t.version == number("version"), t.ended_at.is_(None)',
        new="t.ended_at.is_(None)",
        check=selection(f"{_STORE}::test_taking_needs_the_version_that_the_row_has"),
    ),
    _statements(
        name="taking over leaves the version as it was",
        breaks="a former owner's write is refused",
        old="            version=t.version + constant(1),\n            next_attempt_at=null(),",
        new="            next_attempt_at=null(),",
        check=selection(f"{_STORE}::test_claiming_takes_what_is_due_within_each_participants_limit"),
    ),
    _statements(
        name="claim of what is not due",
        breaks="a failed branch is repeated when it is due",
        old=".where(t.next_attempt_at <= func.now(), t.waiting_on",
        new=".where(t.next_attempt_at.is_not(None), t.waiting_on",
        check=selection(f"{_STORE}::test_a_parked_one_belongs_to_nobody_until_it_is_due"),
    ),
    _statements(
        name="park loses its due time",
        breaks="a parked transaction is due at its next attempt",
        old='changes["next_attempt_at"] = func.to_timestamp(new.c.next_attempt_at)',
        new='changes["next_attempt_at"] = null()',
        check=selection(f"{_STORE}::test_a_parked_one_belongs_to_nobody_until_it_is_due"),
    ),
    _statements(
        name="release forgets",
        breaks="who leaves gives its work to others",
        old=".values(version=t.version + constant(1), next_attempt_at=func.now(), waiting_on=NO_TEXT)",
        new=".values(version=t.version + constant(1), waiting_on=NO_TEXT)",
        check=selection(f"{_STORE}::test_what_is_released_can_be_claimed_at_once"),
    ),
    _statements(
        name="purge deletes stuck ones",
        breaks="a stuck transaction is never deleted",
        old='            t.ended_at < _ago("ended_before_s"),\n',
        new="",
        check=selection(f"{_STORE}::test_purge_is_bounded_oldest_first_and_never_touches_the_living"),
    ),
    _statements(
        name="heartbeat renews no lease",
        breaks="a living coordinator keeps its work",
        old='set_={"lease_until": statement.excluded.lease_until}',
        new='set_={"name": statement.excluded.name}',
        check=selection(f"{_STORE}::test_a_heartbeat_renews_the_lease_of_its_sender_alone"),
    ),
    _statements(
        name="who leaves ends the leases of all",
        breaks="a living coordinator keeps its work",
        old='.values(lease_until=func.now()).where(coordinators.c.id == text("owner")),',
        new=".values(lease_until=func.now()),",
        check=selection(f"{_STORE}::test_who_leaves_ends_its_own_lease_alone"),
    ),
    _store(
        name="unknown commit of a save treated as failed",
        breaks="a commit whose outcome is unknown is read again, never guessed",
        old="return [tx.gid in stored and is_saved(tx, stored[tx.gid], self._owner) for tx in changed]",
        new="return [False for tx in changed]",
        check=selection(f"{_UNKNOWN}::test_every_kind_of_save_is_repeated_safely[Fault.LOSE_REPLY]"),
    ),
    _store(
        name="unknown commit of a begin treated as another's",
        breaks="a commit whose outcome is unknown is read again, never guessed",
        old="if row is None or is_begun(tx, row, self._owner):",
        new="if row is None:",
        check=selection(f"{_STORE}::test_inserting_again_is_recognised_as_ours"),
    ),
    _store(
        name="lost claim forgotten",
        breaks="what was taken in a call whose answer was lost is found again",
        old="            self._lost_claims.add(claim)\n",
        new="",
        check=selection(f"{_UNKNOWN}::test_what_a_lost_claim_took_is_handed_out_by_the_next"),
    ),
    _store(
        name="every write of a partly refused batch taken for done",
        breaks="a refused write changes nothing and is said",
        old="if saved.count == len(rows):",
        new="if saved.count:",
        check=selection(f"{_STORE}::test_a_batch_with_a_refused_one_writes_the_others"),
    ),
    _rows(
        name="results are not written",
        breaks="what Try returned survives every process",
        old="        and _is_implied(tx)\n",
        new="",
        check=selection(f"{_STORE}::test_results_are_kept_where_nothing_else_is_odd"),
    ),
    _rows(
        name="what our own taking left is taken for our save",
        breaks="a write is done only if the row holds what it would have written",
        old='    return stored["owner"] == owner and all(',
        new='    return (stored["owner"], stored["version"]) == (owner, wanted["version"]) or all(',
        check=selection(f"{_STORE}::test_a_save_behind_our_own_taking_is_not_taken_for_done"),
    ),
)
