"""docs/ERRORS.md names every reason that the code gives, with its status, and no other."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

import coordinator.process.worker
import tcc.errors
from coordinator.core import errors as core_errors
from tcc.barrier.decisions import BarrierDecision, BarrierState, OutcomeCode
from tcc.barrier.plans import Row, _answer
from tcc.client.outcome import CancelReason

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "ERRORS.md").read_text()
INVALID = "INVALID_ARGUMENT"

T = TypeVar("T")
Function = ast.FunctionDef | ast.AsyncFunctionDef


# --- the page -------------------------------------------------------------


def section(title: str) -> str:
    """The text below a heading, up to the next heading of its level or above."""
    found = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#{{2,3}} |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found, title
    return found.group(2)


def table(*titles: str) -> dict[str, str]:
    """The second column of the tables in these sections, by the first."""
    rows = [
        row for title in titles for row in re.findall(r"^\| `(\w+)` \| (\w+)", section(title), re.MULTILINE)
    ]
    assert len(rows) == len(dict(rows)), "a reason stands in two rows"
    return dict(rows)


def classes() -> dict[str, tuple[str, str]]:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (\w+) \|", section("Classes"), re.MULTILINE)
    return {name: (reason, status) for name, reason, status in rows}


# --- the code -------------------------------------------------------------


def trees(*folders: str) -> Iterator[ast.Module]:
    """The modules below these folders; not what protoc generates."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.parent.name != "v1":
                yield ast.parse(path.read_text())


def calls(tree: ast.AST, *names: str) -> Iterator[ast.Call]:
    """The calls of functions and classes with these names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            yield node


def texts(node: ast.expr | None) -> list[str]:
    """The constant strings that an expression can be."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.IfExp(body=body, orelse=other):
            return texts(body) + texts(other)
        case _:
            return []


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((each.value for each in call.keywords if each.arg == name), None)


def functions(tree: ast.AST) -> dict[str, Function]:
    return {node.name: node for node in ast.walk(tree) if isinstance(node, Function)}


def passes_first_argument(function: Function, to: set[str]) -> bool:
    """Whether a function names the reason by its first argument: in a text or to another such function."""
    first = function.args.args[0].arg if function.args.args else ""
    for call in calls(function, "InvalidRequest", *to):
        named = call.args[0] if call.args else None
        inner = ast.walk(named) if isinstance(named, ast.JoinedStr | ast.Name) else ()
        if any(isinstance(node, ast.Name) and node.id == first for node in inner):
            return True
    return False


def naming_functions(tree: ast.AST) -> set[str]:
    """The functions of a module that make the reason INVALID_X of their first argument X."""
    found: set[str] = set()
    while True:
        more = {name for name, each in functions(tree).items() if passes_first_argument(each, found)}
        if more == found:
            return found
        found = more


def invalid_reasons() -> set[str]:
    modules = list(trees("coordinator"))
    found = {
        text for tree in modules for call in calls(tree, "InvalidRequest") for text in texts(call.args[0])
    }
    naming = set().union(*map(naming_functions, modules))
    named = (text for tree in modules for call in calls(tree, *naming) for text in texts(call.args[0]))
    return found | {f"INVALID_{text.upper()}" for text in named}


def subclasses(kind: type[T]) -> Iterator[type[T]]:
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


def coordinator_errors() -> dict[str, str]:
    """The status by the reason of everything that the coordinator refuses."""
    assert coordinator.process.worker, "it imports all that can raise"
    kinds = [
        each
        for each in subclasses(core_errors.Refused)
        if each.__module__.startswith("coordinator.") and each is not core_errors.InvalidRequest
    ]
    pairs = {(each.reason, each.code) for each in kinds}
    found = dict(pairs)
    assert len(found) == len(pairs), "one reason has two statuses"
    return found | dict.fromkeys(invalid_reasons(), INVALID)


def client_reasons() -> dict[str, str]:
    """The status by the reason of what the client raises without asking the coordinator."""
    kinds = {each.__name__: each for each in subclasses(tcc.errors.TccError)}
    found: dict[str, str] = {}
    for tree in trees("tcc/client"):
        for call in calls(tree, *kinds):
            assert isinstance(call.func, ast.Name)
            kind = kinds[call.func.id]
            found |= dict.fromkeys(texts(keyword(call, "reason")), kind.default_code.name)
            if kind is tcc.errors.ClientClosed:
                found[kind.default_reason] = kind.default_code.name
    return found


def barrier_results() -> dict[str, str]:
    """Whether it is permanent, by the reason of each decision of the barrier that fails a call."""
    row = Row("", "", "", BarrierState.TRIED, None, None)
    results = [_answer(decision, row) for decision in BarrierDecision]
    return {each.reason: as_word(each.permanent) for each in results if each.code is OutcomeCode.FAILED}


def as_word(permanent: object) -> str:
    return "yes" if permanent else "no"


def results_of(*folders: str, reasons: Callable[[ast.Call], list[str]]) -> dict[str, set[str]]:
    """Whether it is permanent, by the reasons in the calls of these classes."""
    found: dict[str, set[str]] = {}
    for tree in trees(*folders):
        for call in calls(tree, "CallResult", "RefusalError", "TransactionLostError"):
            permanent = keyword(call, "permanent")
            name = call.func.id if isinstance(call.func, ast.Name) else ""
            is_permanent = name == "RefusalError" or (isinstance(permanent, ast.Constant) and permanent.value)
            for reason in reasons(call):
                found.setdefault(reason, set()).add(as_word(is_permanent))
    return found


def participant_reasons(call: ast.Call) -> list[str]:
    """The reason: the first argument of an error, the second one of a result."""
    is_result = isinstance(call.func, ast.Name) and call.func.id == "CallResult"
    arguments = call.args[1:2] if is_result else call.args[:1]
    return [text for each in arguments for text in texts(each) if text]


def participant_results() -> dict[str, str]:
    found = results_of("tcc/barrier", "tcc/participant", reasons=participant_reasons)
    # The one reason that a variable holds, in `_failed_outcome`.
    assigned = {
        text
        for tree in trees("tcc/participant")
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        if node.targets[0].id == "reason"
        for text in texts(node.value)
        if text
    }
    for reason in assigned:
        found.setdefault(reason, set()).add("no")
    return {reason: of.pop() if len(of) == 1 else "depends" for reason, of in found.items()}


def coordinator_results() -> dict[str, str]:
    found = results_of("coordinator", reasons=lambda call: texts(keyword(call, "reason")))
    found[core_errors.UnknownParticipant.reason] = {"no"}  # `not_configured`: its reason is the class's
    return {reason: of.pop() for reason, of in found.items()}


# --- both ways ------------------------------------------------------------


def test_the_coordinators_errors_are_those_of_the_page() -> None:
    found = coordinator_errors()
    assert len(found) > 60
    assert found == table(
        "Invalid requests",
        "Who may do what",
        "Conflicts with a transaction",
        "Temporary errors",
        "Operator commands",
    )


def test_invalid_requests_have_one_status_and_a_section_of_their_own() -> None:
    reasons = invalid_reasons()
    assert {"INVALID_GID", "INVALID_TARGET", "INVALID_MIN_AGE", "NO_BRANCHES"} <= reasons
    assert reasons <= set(table("Invalid requests"))
    assert set(table("Invalid requests").values()) == {INVALID}


def test_the_clients_own_errors_are_those_of_the_page() -> None:
    assert client_reasons() == table("Errors that the Python client adds")


def test_the_reasons_of_a_cancel_are_those_of_the_page() -> None:
    reasons = [each.name for each in CancelReason if each is not CancelReason.NONE]
    assert dict.fromkeys(reasons, "ABORTED") == table("Cancelled transactions")


def test_the_clients_classes_are_those_of_the_page() -> None:
    kinds: list[type[tcc.errors.TccError]] = [tcc.errors.TccError, *subclasses(tcc.errors.TccError)]
    own = [each for each in kinds if each.__module__ == "tcc.errors"]
    assert {each.__name__: (each.default_reason, each.default_code.name) for each in own} == classes()


@pytest.mark.parametrize(
    ("title", "collect"),
    [
        ("From the barrier", barrier_results),
        ("From the participant", participant_results),
        ("From the coordinator", coordinator_results),
    ],
)
def test_the_results_of_branch_calls_are_those_of_the_page(
    title: str, collect: Callable[[], dict[str, str]]
) -> None:
    assert collect() == table(title)
