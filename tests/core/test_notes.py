"""Notes of failed calls: the same again is counted, and they never grow beyond their bound."""

from coordinator.core.model import Branch, BranchSpec, Note, Operation
from coordinator.core.notes import FIRST_KEPT, NOTE_CHARACTERS_MAX, NOTES_MAX, noted, with_stuck


def note(text: str, at: float = 1.0) -> Note:
    return Note(at=at, operation=Operation.CONFIRM, text=text)


def test_the_same_again_is_counted() -> None:
    notes = noted(noted(noted((), note("A", 1.0)), note("A", 2.0)), note("B", 3.0))
    assert [(n.text, n.count, n.at, n.last_at) for n in notes] == [("A", 2, 1.0, 2.0), ("B", 1, 3.0, 3.0)]


def test_texts_are_cut() -> None:
    (only,) = noted((), note("x" * 10_000))
    assert len(only.text) == NOTE_CHARACTERS_MAX


def test_beyond_the_bound_the_middle_is_left_out_and_counted() -> None:
    notes: tuple[Note, ...] = ()
    for number in range(100):
        notes = noted(notes, note(str(number), float(number)))
        assert len(notes) <= NOTES_MAX
        assert sum(n.count for n in notes) == number + 1
    assert [n.text for n in notes[:FIRST_KEPT]] == ["0", "1", "2", "3"]
    omitted = notes[FIRST_KEPT]
    assert omitted.omitted
    assert (omitted.at, omitted.last_at) == (4.0, 99.0 - (NOTES_MAX - FIRST_KEPT - 1))
    assert [n.text for n in notes[FIRST_KEPT + 1 :]] == [
        str(number) for number in range(100 - (NOTES_MAX - FIRST_KEPT - 1), 100)
    ]


def test_the_failure_that_made_it_stuck_is_marked_and_counted_alone() -> None:
    spec = BranchSpec(branch_id="1", participant="stock", action="reserve")
    branch = with_stuck(Branch(spec=spec, notes=noted((), note("A", 1.0))))
    notes = noted(branch.notes, note("A", 2.0))
    assert [(n.stuck, n.count) for n in notes] == [(True, 1), (False, 1)]
