"""The planted bugs fit the source, and the program tells a caught one from a survivor."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from proof.mutants.mutant import Mutant, Program, Selection, StaleMutantError, mutated, selection
from proof.mutants.planted import MUTANTS
from proof.mutants.program import main
from proof.mutants.trial import PROJECT, checks, judged, located

DECISIONS_TEST = "tests/barrier/test_barrier.py::test_decisions_cover_every_call_of_a_kind_in_every_state[1]"
CAUGHT = Mutant(
    name="a cell of the decision table is missing",
    breaks="the decision table has every cell",
    definition="TCC_DECISIONS",
    old="{(Operation.TRY, BarrierState.TRIED): BarrierDecision.REPLAY}",
    new="{(Operation.TRY, 0): BarrierDecision.REPLAY}",
    check=selection(DECISIONS_TEST),
)
HARMLESS = replace(
    CAUGHT,
    name="the same decision in other words",
    new="{(Operation.TRY, BarrierState.TRIED): BarrierDecision['REPLAY']}",
)
SOURCE = """
LIMIT = 3
class A:
    def f(self, x):
        # A comment, and odd spacing.
        if x  >  LIMIT:
            self.stop()
            return x
        return {"a": 1, "b": x, "c": 3}
class B:
    def f(self, x):
        if x > LIMIT:
            self.stop()
"""


@pytest.fixture(scope="module")
def planted() -> dict[str, tuple[str, str]]:
    """Return the file and the text with the bug, by the mutant's name."""
    return {mutant.name: (path.name, text) for mutant in MUTANTS for path, text in [located(mutant, PROJECT)]}


def test_each_planted_bug_is_python_and_unlike_the_others(planted: dict[str, tuple[str, str]]) -> None:
    assert len(planted) == len(MUTANTS) >= 40
    assert len(set(planted.values())) == len(MUTANTS)
    for name, (_, text) in planted.items():
        compile(text, name, "exec")
    assert {file for file, _ in planted.values()} >= {
        "machine.py", "driver.py", "statements.py", "store.py", "retry.py", "decisions.py", "plans.py",
    }  # fmt: skip


@pytest.mark.slow
def test_every_check_exists() -> None:
    nodes = []
    for check in checks(MUTANTS):
        match check:
            case Selection():
                nodes.extend(check.nodes)
            case Program(module=module):
                assert (PROJECT / module.replace(".", "/") / "__main__.py").is_file()
    collected = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *nodes],
        cwd=PROJECT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert collected.returncode == 0, collected.stdout[-2000:] + collected.stderr[-2000:]


@pytest.mark.parametrize(
    ("definition", "old", "new", "line"),
    [
        ("A.f", "x > LIMIT", "x >= LIMIT", "        if x >= LIMIT:"),
        ("A.f", "self.stop()", "", "            pass"),
        ("A.f", "self.stop()\nreturn x", "return None", "            return None"),
        ("A.f", '{"b": x}', '{"b": 0}', "        return {'a': 1, 'b': 0, 'c': 3}"),
        ("LIMIT", "3", "4", "LIMIT = 4"),
        ("B", "x > LIMIT", "False", "        if False:"),
    ],
)
def test_an_edit_changes_one_place_of_one_definition(definition: str, old: str, new: str, line: str) -> None:
    places, text = mutated(SOURCE, replace(CAUGHT, definition=definition, old=old, new=new))
    assert places == 1
    assert line in text.splitlines()


@pytest.mark.parametrize(
    ("definition", "old", "places"),
    [("A.f", "x < LIMIT", 0), ("f", "x > LIMIT", 0), ("A.g", "x > LIMIT", 0), ("A.f", "x", 3)],
)
def test_places_are_counted_within_the_definition(definition: str, old: str, places: int) -> None:
    assert mutated(SOURCE, replace(CAUGHT, definition=definition, old=old))[0] == places


def test_a_mutant_that_fits_no_place_is_stale() -> None:
    with pytest.raises(StaleMutantError, match="the decision table is missing is stale"):
        located(replace(CAUGHT, old="no_such_name"), PROJECT)


def test_a_stale_mutant_fails_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], [CAUGHT, replace(CAUGHT, old="no_such_name")]) == 1
    assert "is stale: `TCC_DECISIONS` holds its snippet 0 times" in capsys.readouterr().out


@pytest.mark.timeout(300)
@pytest.mark.slow
def test_caught_and_surviving_bugs_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--jobs", "2"], [CAUGHT]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith(f"caught    {CAUGHT.name}: by {DECISIONS_TEST}")
    figures = json.loads(printed[-1])
    assert (figures["planted"], figures["caught"], figures["by"]) == (1, 1, {"tests/barrier": 1})

    assert main(["--jobs", "2", "--unchecked"], [HARMLESS, CAUGHT]) == 1
    printed = capsys.readouterr().out.splitlines()
    [survivor] = [line for line in printed if line.startswith("SURVIVED")]
    assert HARMLESS.name in survivor
    figures = json.loads(printed[-1])
    assert (figures["planted"], figures["caught"]) == (2, 1)


@pytest.mark.slow
def test_a_check_that_fails_without_a_bug_catches_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], [replace(CAUGHT, check=selection("tests/barrier/test_barrier.py::test_no_such"))]) == 1
    assert "fails without a planted bug" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("check", "status", "output", "caught_by"),
    [
        (selection("t"), 0, "1 passed", ""),
        (selection("t"), 1, "FAILED tests/t.py::test_a - assert 1\n1 failed", "tests/t.py::test_a"),
        (selection("t"), 1, "ERROR tests/t.py::test_a - no database", None),
        (selection("t"), 4, "ERROR: not found", None),
        (selection("t"), 2, "FAILED to import", None),
        (Program(module="proof.explore"), 1, 'x\n{"violations": 3}', "proof.explore: 3 violations"),
        (Program(module="proof.explore"), 1, "Traceback\nKeyError", None),
        (Program(module="proof.explore"), 0, '{"violations": 0}', ""),
    ],
)
def test_only_the_output_of_a_check_counts(
    check: Selection | Program, status: int, output: str, caught_by: str | None
) -> None:
    result = judged(check, status, output)
    assert bool(result.void) is (caught_by is None)
    assert result.caught_by == (caught_by or "")


def test_all_tests_run_once_without_a_planted_bug() -> None:
    simulation = Program(module="proof.simulate")
    checked = checks(
        [
            replace(CAUGHT, check=selection("a", "b")),
            replace(CAUGHT, check=simulation),
            replace(CAUGHT, check=selection("b", "c")),
            replace(CAUGHT, check=simulation),
        ]
    )
    assert checked == [Selection(nodes=("a", "b", "c")), simulation]
