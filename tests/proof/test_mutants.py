"""The planted bugs fit the source, and the program tells one that is caught from one that is not."""

import json
from dataclasses import replace

import pytest

from proof.mutants.mutant import Mutant, Program, Selection, StaleMutantError, mutated, selection
from proof.mutants.planted import MUTANTS
from proof.mutants.program import main
from proof.mutants.trial import PROJECT, checks, judged

DECISIONS_TEST = "tests/barrier/test_barrier.py::test_decisions_cover_every_operation_in_every_state"
CAUGHT = Mutant(
    name="a cell of the law is missing",
    breaks="the law has every cell",
    file="tcc/barrier/decisions.py",
    old="    (Operation.TRY, BarrierState.TRIED): BarrierDecision.REPLAY,\n",
    new="",
    check=selection(DECISIONS_TEST),
)
HARMLESS = replace(
    CAUGHT,
    name="other words in a comment",
    old="# The state that a claim or a move",
    new="# What a claim or move",
)


def source(mutant: Mutant) -> str:
    return (PROJECT / mutant.file).read_text()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_bug_fits_the_source_and_is_python(mutant: Mutant) -> None:
    compile(mutated(source(mutant), mutant), mutant.file, "exec")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_tests_that_are_to_catch_it_are_there(mutant: Mutant) -> None:
    match mutant.check:
        case Selection(nodes=nodes):
            for node in nodes:
                file, _, name = node.partition("::")
                assert f"def {name.partition('[')[0]}" in (PROJECT / file).read_text()
        case Program(module=module):
            assert (PROJECT / module.replace(".", "/") / "__main__.py").is_file()


def test_there_are_many_and_each_is_its_own() -> None:
    assert len(MUTANTS) >= 30
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert len({mutated(source(mutant), mutant) for mutant in MUTANTS}) == len(MUTANTS)
    assert {mutant.file.split("/")[-1] for mutant in MUTANTS} >= {
        "machine.py", "engine.py", "statements.py", "store.py", "retry.py", "decisions.py", "plans.py",
    }  # fmt: skip


@pytest.mark.parametrize("old", ["no such words", "Verdict", ""])
def test_an_old_text_that_is_not_there_exactly_once_is_stale(old: str) -> None:
    with pytest.raises(StaleMutantError, match="a cell of the law is missing is stale"):
        mutated(source(CAUGHT), replace(CAUGHT, old=old))


def test_a_change_that_changes_nothing_is_stale() -> None:
    with pytest.raises(StaleMutantError):
        mutated(source(CAUGHT), replace(CAUGHT, new=CAUGHT.old))


def test_a_stale_one_fails_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], [CAUGHT, replace(CAUGHT, old="no such words")]) == 1
    assert "is stale: its old text is 0 times in tcc/barrier/decisions.py" in capsys.readouterr().out


@pytest.mark.timeout(300)
@pytest.mark.slow
def test_what_is_caught_and_what_survives(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--jobs", "2"], [CAUGHT]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"caught    {CAUGHT.name}: by {DECISIONS_TEST}")
    figures = json.loads(said[-1])
    assert (figures["planted"], figures["caught"], figures["by"]) == (1, 1, {"tests/barrier": 1})

    assert main(["--jobs", "2", "--unchecked"], [HARMLESS, CAUGHT]) == 1
    said = capsys.readouterr().out.splitlines()
    [survivor] = [line for line in said if line.startswith("SURVIVED")]
    assert HARMLESS.name in survivor
    figures = json.loads(said[-1])
    assert (figures["planted"], figures["caught"]) == (2, 1)


@pytest.mark.timeout(300)
def test_a_check_that_fails_by_itself_catches_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], [replace(CAUGHT, check=selection("tests/barrier/test_barrier.py::test_no_such"))]) == 1
    assert "fails where nothing is planted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("check", "status", "words", "caught_by"),
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
def test_only_what_a_check_says_counts(
    check: Selection | Program, status: int, words: str, caught_by: str | None
) -> None:
    result = judged(check, status, words)
    assert bool(result.void) is (caught_by is None)
    assert result.caught_by == (caught_by or "")


def test_all_tests_are_run_once_where_nothing_is_planted() -> None:
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
