"""The failures of a branch, kept for operators: few notes, however often it fails.

The same failure again is counted. Beyond NOTES_MAX the oldest but the first few are
left out, and a note in their place counts the calls they stood for.
"""

from msgspec.structs import replace

from coordinator.core.model import Branch, Note

NOTES_MAX = 16
FIRST_KEPT = 4
NOTE_CHARACTERS_MAX = 300


def noted(notes: tuple[Note, ...], new: Note) -> tuple[Note, ...]:
    """Return the notes with one more."""
    new = replace(new, text=new.text[:NOTE_CHARACTERS_MAX], last_at=new.last_at or new.at)
    if notes and _is_same(notes[-1], new):
        last = replace(notes[-1], count=notes[-1].count + new.count, last_at=new.last_at)
        return (*notes[:-1], last)
    return _bounded((*notes, new))


def with_stuck(branch: Branch) -> Branch:
    """Return the branch whose last failure made its transaction stuck; that note's count is final."""
    if not branch.notes:
        return branch
    return replace(branch, notes=(*branch.notes[:-1], replace(branch.notes[-1], stuck=True)))


def _is_same(one: Note, other: Note) -> bool:
    return (one.operation, one.text, one.stuck) == (other.operation, other.text, other.stuck)


def _bounded(notes: tuple[Note, ...]) -> tuple[Note, ...]:
    if len(notes) <= NOTES_MAX:
        return notes
    first, middle, rest = notes[:FIRST_KEPT], notes[FIRST_KEPT:-1], notes[-1:]
    # One goes for the newcomer, and one for the note that speaks for them, the first time.
    gone = middle[:1] if middle[0].omitted else ()
    gone += middle[len(gone) : len(gone) + len(notes) - NOTES_MAX + (0 if gone else 1)]
    stand_in = Note(
        at=gone[0].at,
        operation=gone[-1].operation,
        text="",
        count=sum(note.count for note in gone),
        last_at=gone[-1].last_at,
        omitted=True,
    )
    return (*first, stand_in, *middle[len(gone) :], *rest)
