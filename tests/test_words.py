"""Words of a private dialect stay out: where one comes back, the test says what to write instead.

A name that a senior engineer from elsewhere would have to ask about is wrong, however well it
fits. The tables are the project's own history: each entry was a name here once.
"""

import ast
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
# Generated from the contract, locked by pip, or about words.
ALLOWED = (
    "tcc/common/v1/",
    "tcc/transaction/v1/",
    "tcc/participant/v1/",
    "tcc/admin/v1/",
    "protos/baseline.binpb",
    "requirements.lock",
    "requirements.lowest",
    "docs/GLOSSARY.md",
    "docs/notebook/",
)
BINARY = (".png", ".binpb", ".ico", ".xz")

# Identifiers, log events and metrics: banned wherever they stand as whole words.
IDENTIFIERS = {
    "_ACTS_SHOWN_MAX": "_OPERATOR_ACTIONS_SHOWN_MAX",
    "_again": "_retry_once",
    "_apart": "_check_distinct_ports",
    "_ask_books": "_list_barrier",
    "_batch_senders": "_max_batches_in_flight",
    "_bury": "_reap",
    "_cancel_by_order": "_cancel_by_operator",
    "_check_colour": "_check_async_matches",
    "_check_room": "_check_admission",
    "_conservation_of_books": "_conservation_of_stock",
    "_Diary": "_BestEffortStderr",
    "_FAREWELL_S": "STOP_GRACE_S",
    "_fitting": "_check_answers",
    "_fly": "_send_batch",
    "_FULL_SHARE": "_SATURATED_SHARE",
    "_hear_all": "_poll_children",
    "_is_about_unsettled": "_is_about_unfinished",
    "_is_driven_by": "_is_owned_by",
    "_is_lawful": "_is_valid_transition",
    "_laid_over": "_merge",
    "_LEASH": "_CHILD_LIFETIME",
    "_let_go": "_detach",
    "_log_away": "_log_unavailable",
    "_look_at": "_next_run_at",
    "_lose": "_on_ownership_lost",
    "_MANNERS": "_INITIATOR_FAULTS",
    "_MistakeError": "_FilterError",
    "_not_shown": "_restart_required",
    "_on_inserted": "_on_begun",
    "_on_the_books": "_is_listed",
    "_open_lane": "_open_dispatcher",
    "_open_ways": "_grant_traverse",
    "_ORDER_COLUMNS": "_COMMAND_COLUMNS",
    "_ORDERS_AFTER_DECISION": "_COMMANDS_AFTER_DECISION",
    "_ORDERS_AFTER_END": "_COMMANDS_AFTER_END",
    "_pace_s": "_linger_s",
    "_PLACE_BITS": "_WORLD_STATE_BITS",
    "_Reaper": "_ProcessKiller",
    "_resume_in_bites": "_resume_in_chunks",
    "_resurrect": "_await_restart",
    "_say_listening": "_log_listening",
    "_say_ready": "_notify_ready",
    "_SeenParticipants": "TracedParticipants",
    "_send_lanes": "_send_partitions",
    "_SHELF_AT": "_BRANCH_ROWS_AT",
    "_storm_unless_failed": "_run_load_unless_failed",
    "_STRANGERS_CPUS_MAX": "_FOREIGN_CPUS_MAX",
    "_tell_findings": "_print_counterexamples",
    "_tell_of_refusal": "_notify_refusal",
    "_tell_outdated": "_notify_stale",
    "_try_by_itself": "_try_directly",
    "_Twin": "_SyncProxy",
    "_under_way": "_in_flight",
    "_unsettled_counts": "_backlog_counts",
    "_unsettled_marked": "_backlog_capped",
    "_unsettled_oldest": "_backlog_oldest",
    "_unsorted": "_restore_order",
    "_verdict_record": "_chain_check_record",
    "_verdict_words": "_chain_check_text",
    "_wait_for_news": "_wait_for_event",
    "_Way": "_Channel",
    "_WHEN_FULL": "_WHEN_SATURATED",
    "_WHEN_FULL_OF_MANY": "_WHEN_SATURATED_WITH_MANY",
    "_withheld": "_not_sent",
    "_withhold": "_reject",
    "_wrong_in_books": "_wrong_in_totals",
    "answering_id": "responder_id",
    "AsyncDoor": "AsyncBarrierExecutor",
    "audit_position": "audit_sequence",
    "batch_senders": "max_batches_in_flight",
    "books_agree": "listing_agrees",
    "BOOKS_NOT_OFFERED": "RECONCILIATION_UNSUPPORTED",
    "BooksNotOffered": "ReconciliationUnsupported",
    "BooksPage": "BarrierPage",
    "BooksQuery": "BarrierQuery",
    "BooksRow": "ListedRow",
    "BranchOutcome": "CallResult",
    "BranchResolved": "OperatorResolve",
    "CALLS_IN_FLIGHT": "MAX_CALLS_IN_FLIGHT",
    "CancelOrdered": "OperatorCancel",
    "checked_act": "checked_operator_context",
    "claim_pause_max_s": "throttle_max_s",
    "claim_pause_s": "throttle_s",
    "claim_pauses": "busy_throttle",
    "claim_pauses_alone": "idle_throttle",
    "claims_max": "chunks_max",
    "coordinator_ask_to_drain": "coordinator_request_drain",
    "coordinator_driving": "coordinator_owned",
    "COORDINATOR_DRIVING": "COORDINATOR_OWNED",
    "expect_due": "schedule_due",
    "failures_in_a_row": "consecutive_failures",
    "floor_per_second": "baseline_per_second",
    "forget_due": "pop_due",
    "give_to": "execute",
    "HELD_UNTIL": "HELD",
    "HISTORY_KIND_LEFT_OUT": "HISTORY_KIND_OMITTED",
    "HoldOrdered": "OperatorHold",
    "hurried": "as_quick",
    "IllegalTransitionError": "InvalidTransitionError",
    "is_elsewhere": "address_changed",
    "IS_FAR": "IS_HELD",
    "is_full": "is_saturated",
    "is_gone": "is_cancelled",
    "is_inserted": "is_begun",
    "is_lawful": "is_valid_transition",
    "lane_of": "partition_of",
    "LaneOutbox": "PartitionedBatcher",
    "LAW": "DECISIONS or TRANSITIONS",
    "left_out": "omitted",
    "LOG_AWAY": "LOG_UNAVAILABLE",
    "LOG_BACK": "LOG_RECOVERED",
    "long_pace": "long_linger",
    "LOOKED_AT_MAX": "ROWS_SCANNED_MAX",
    "looked_at_max": "rows_scanned_max",
    "lose_stale": "evict_stale",
    "NO_SPANS": "NULL_SPANS",
    "obey": "serve_commands",
    "oldest_unsettled_age": "oldest_unfinished_age",
    "oldest_unsettled_gid": "oldest_unfinished_gid",
    "on_inserted": "on_begun",
    "open_door": "open_executor",
    "Outbox": "Batcher",
    "PACE_MAX_S": "LINGER_MAX_S",
    "PACE_MIN_S": "LINGER_MIN_S",
    "parked_until": "next_attempt_at",
    "ParticipantLane": "ParticipantDispatcher",
    "QuietBooks": "QuietBarrier",
    "read_books": "read_snapshot",
    "readdress": "update_addresses",
    "RECONCILIATION_OUTCOME_NOT_OFFERED": "RECONCILIATION_OUTCOME_UNSUPPORTED",
    "ReleaseOrdered": "OperatorRelease",
    "RetryOrdered": "OperatorRetry",
    "run_storm": "run_load",
    "ScriptedBooks": "ScriptedBarrier",
    "SENDERS": "MAX_IN_FLIGHT",
    "SimulatedDoor": "SimulatedBarrierExecutor",
    "somebody_asks": "is_busy",
    "spoil_the_network": "degrade_network",
    "start_floor": "start_baseline",
    "start_holder": "start_live_load",
    "strangers_cpus": "foreign_cpus",
    "SyncDoor": "SyncBarrierExecutor",
    "tcc_calls_withheld": "tcc_calls_not_sent",
    "tcc_calls_withheld_total": "tcc_calls_not_sent_total",
    "tcc_oldest_unsettled_seconds": "tcc_oldest_unfinished_seconds",
    "tcc_unsettled_transactions": "tcc_unfinished_transactions",
    "TccOldestUnsettled": "TccOldestUnfinished",
    "tccoldestunsettled": "tccoldestunfinished",
    "ThreadLoad": "LoopLoad",
    "transaction_count_unsettled": "transaction_count_backlog",
    "transaction_insert": "transaction_begin",
    "transaction_oldest_unsettled": "transaction_oldest_backlog",
    "transaction_order": "transaction_command",
    "TRANSACTION_ORDER": "TRANSACTION_COMMAND",
    "under_way": "in_flight",
    "UNSEEN_MAX_S": "QUEUE_TIMEOUT_S",
    "UNSETTLED_COUNTS": "BACKLOG_COUNTS",
    "UNSETTLED_MARKED": "BACKLOG_CAPPED",
    "UNSETTLED_OLDEST": "BACKLOG_OLDEST",
    "whereabouts": "status_metadata",
    "Wishes": "OperatorDirectives",
    "withheld": "not_sent",
}

# Ordinary words: banned as the name of a class, a function, an argument, a variable or an attribute.
NAMES = {
    "Answer": "CallResult",
    "Answers": "CallResults",
    "Door": "BarrierExecutor",
    "Floor": "Baseline",
    "Judge": "Verifier",
    "Look": "ScanResult",
    "Manner": "InitiatorFault",
    "Mistake": "ConfigIssue",
    "Orders": "AdminCommands",
    "Pace": "FlushPolicy",
    "Placed": "OrderResult",
    "Shelf": "BranchRows",
    "Stand": "Testbed",
    "Storm": "LoadResult",
    "Unsettled": "Backlog",
    "Verdict": "a name that says of what: OutcomeCode, CheckResult, TrialResult, …",
    "Weather": "NetworkConditions",
    "Wishes": "OperatorDirectives",
    "Words": "TextBlock",
    "act": "operator_context",
    "bite": "batch or chunk",
    "bites": "batches or chunks",
    "door": "executor",
    "floor": "baseline",
    "lanes": "dispatchers or partitions",
    "law": "decisions or transitions",
    "luck": "rng or jitter",
    "outbox": "batcher",
    "pace": "flush_policy",
    "rivals": "conflicting_waiters",
    "seeing": "traced",
    "senders": "max_in_flight",
    "shelf": "branch_rows",
    "storm": "load",
    "threaten": "arm",
    "twin": "proxy",
    "weather": "conditions",
}

# Prose, in documents, comments, docstrings and messages.
PHRASES = {
    r"\bfor ever\b": "indefinitely",
    r"\banew\b": "again",
    r"\bmeanwhile\b": "in the meantime",
    r"\bwhoever\b": "the name of who it is: the caller, the client, another coordinator",
    r"\bnobody\b": "no caller, no coordinator",
    r"\bsomebody\b": "another coordinator, a caller",
    r"\b(is|are|was|were) told\b": "is notified",
    r"\bby (itself|themselves)\b": "automatically",
    r"\bmends?\b": "fix",
    r"\b(is|was|are|were) away\b": "is unavailable",
    r"\blooked at\b": "checked",
    r"\bat most so many\b": "at most N",
}

# The same in the names of test functions, and these.
TEST_NAMES = PHRASES | {
    r"\b(any|every)body\b": "no caller, every participant",
    r"\b(tells?|told|says?|said)\b": "returns, reports, is notified, raises",
    r"\b(books?|laws?)\b": "barrier rows, decision table, transition table",
    r"\b(lanes?|outbox|bites?)\b": "partition, dispatcher, batcher, batch or chunk",
    r"\b(pace|wish|strangers?)\b": "linger, request, foreign processes",
    r"\b(what|how)ever\b": "any, for any",
    r"\b(test|and|of|two) who\b": "the name of who it is: a waiter, a client, a coordinator",
    r"\b(harms?|mended)\b": "fails, repaired",
    r"\blooked after\b": "checked",
    r"\bthe (living|dead)\b": "live coordinators, unfinished transactions, dead coordinators",
}
TEST_NAME_CHARACTERS_MAX = 70


def tracked() -> Iterator[tuple[str, str]]:
    """The tracked texts, by path."""
    listed = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=True)
    this = Path(__file__).relative_to(PROJECT).as_posix()
    for path in listed.stdout.splitlines():
        file = PROJECT / path
        if path == this or path.startswith(ALLOWED) or path.endswith(BINARY) or not file.is_file():
            continue
        yield path, file.read_text(encoding="utf-8")


def in_text(banned: dict[str, str], path: str, text: str, *, flags: int = 0) -> list[str]:
    """Where a text holds what these regular expressions find."""
    one = re.compile("|".join(f"(?:{pattern})" for pattern in banned), flags)
    if not one.search(text):
        return []
    each = [(re.compile(pattern, flags), instead) for pattern, instead in banned.items()]
    return [
        f"{path}:{number}: {found.group()!r}: write {instead}"
        for number, line in enumerate(text.splitlines(), start=1)
        if one.search(line)
        for pattern, instead in each
        for found in pattern.finditer(line)
    ]


_WORD = re.compile(r"\w+")
_TEST = re.compile(r"^\s*(?:async )?def (test_\w+)", re.MULTILINE)


def identifiers(path: str, text: str) -> list[str]:
    """Where a text holds a banned identifier."""
    words = set(re.findall(r"\w+", text))
    found = {word: new for word, new in IDENTIFIERS.items() if word in words or not _WORD.fullmatch(word)}
    return in_text({rf"(?<!\w){re.escape(word)}(?!\w)": new for word, new in found.items()}, path, text)


def names(path: str, text: str) -> list[str]:
    """Where Python code gives something a banned name."""
    if not path.endswith(".py") or NAMES.keys().isdisjoint(re.findall(r"\w+", text)):
        return []
    return [
        f"{path}:{line}: {name!r}: write {NAMES[name]}"
        for name, line in defined(ast.parse(text))
        if name in NAMES
    ]


def phrases(path: str, text: str) -> list[str]:
    """Where a text holds a banned phrase."""
    return in_text(PHRASES, path, text, flags=re.IGNORECASE)


def names_of_tests(path: str, text: str) -> list[str]:
    """Return where a test has a name that is too long, or that holds a banned phrase."""
    if not path.startswith("tests/") or not path.endswith(".py"):
        return []
    found = []
    for definition in _TEST.finditer(text):
        name = definition.group(1)
        place = f"{path}:{text.count(chr(10), 0, definition.start(1)) + 1}: {name}"
        if len(name) > TEST_NAME_CHARACTERS_MAX:
            found.append(f"{place}: write at most {TEST_NAME_CHARACTERS_MAX} characters")
        words = name.replace("_", " ")
        found += [
            f"{place}: {phrase.group()!r}: write {instead}"
            for pattern, instead in TEST_NAMES.items()
            for phrase in re.finditer(pattern, words)
        ]
    return found


def defined(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """The names that code defines, with their lines."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name, node.lineno
            case ast.arg():
                yield node.arg, node.lineno
            case ast.Name(ctx=ast.Store()):
                yield node.id, node.lineno
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr, node.lineno
            case _:
                pass


def everywhere(find: Callable[[str, str], list[str]]) -> str:
    return "\n".join(line for path, text in tracked() for line in find(path, text))


def test_no_banned_identifier_comes_back() -> None:
    assert not everywhere(identifiers), everywhere(identifiers)


def test_no_banned_name_is_defined() -> None:
    assert not everywhere(names), everywhere(names)


def test_no_banned_phrase_comes_back() -> None:
    assert not everywhere(phrases), everywhere(phrases)


def test_no_banned_test_name_comes_back() -> None:
    assert not everywhere(names_of_tests), everywhere(names_of_tests)


@pytest.mark.parametrize(
    ("find", "path", "text", "line"),
    [
        (identifiers, "a.md", "calm\nthe `Outbox` of it", "a.md:2: 'Outbox': write Batcher"),
        (names, "a.py", "def send(luck):\n    pass", "a.py:1: 'luck': write rng or jitter"),
        (names, "a.py", "x = 1\nclass Verdict:\n    pass", f"a.py:2: 'Verdict': write {NAMES['Verdict']}"),
        (
            phrases,
            "a.md",
            "It is told anew.",
            "a.md:1: 'is told': write is notified\na.md:1: 'anew': write again",
        ),
        (
            names_of_tests,
            "tests/a.py",
            "def test_nobody_starves(): pass",
            "tests/a.py:1: test_nobody_starves: 'nobody': write no caller, no coordinator",
        ),
        (
            names_of_tests,
            "tests/a.py",
            f"async def test_{'a' * 66}(): pass",
            f"tests/a.py:1: test_{'a' * 66}: write at most 70 characters",
        ),
    ],
)
def test_a_banned_word_is_reported_with_its_replacement(
    find: Callable[[str, str], list[str]], path: str, text: str, line: str
) -> None:
    assert sorted(find(path, text)) == sorted(line.splitlines())


@pytest.mark.parametrize(
    ("find", "text"),
    [
        (identifiers, "a transactional outbox is another thing; Outboxes of others"),
        (names_of_tests, f"def test_{'a' * 65}(): pass\ndef test_lawful_bookings(): pass\ndef told(): pass"),
        (names, "by_law = 1\nlucky = 2\n# luck\nprint('pace')"),
        (phrases, "the amendment, a meanwhiler, foreverness"),
    ],
)
def test_what_only_resembles_a_banned_word_is_allowed(
    find: Callable[[str, str], list[str]], text: str
) -> None:
    assert find("tests/a.py", text) == []
