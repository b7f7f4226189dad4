"""The sizes by which writes are divided into batches."""

from hypothesis import given, strategies as st

from coordinator.core.machine import ERROR_CHARACTERS_MAX
from coordinator.core.model import Branch, BranchSpec, Note, Operation, Transaction, TransactionState
from coordinator.core.notes import NOTE_CHARACTERS_MAX, NOTES_MAX
from coordinator.engine.log_writer import _size
from coordinator.log.rows import full_columns, insert_columns

_CHARACTERS = st.sampled_from(["x", "\u20ac", "\U0001f600"])


@given(
    branches=st.integers(1, 64),
    payload=st.integers(0, 1_000),
    result=st.integers(0, 1_000),
    notes=st.integers(0, NOTES_MAX),
    error=st.integers(0, ERROR_CHARACTERS_MAX),
    character=_CHARACTERS,
)
def test_a_write_is_not_larger_than_reckoned(  # noqa: PLR0917 - hypothesis gives them by name
    branches: int, payload: int, result: int, notes: int, error: int, character: str
) -> None:
    """Nothing that a participant chooses the size of is left out."""
    note = Note(at=1e9, operation=Operation.TRY, text=character * NOTE_CHARACTERS_MAX, last_at=1e9)
    spec = BranchSpec(
        branch_id="inventory",
        participant="inventory",
        action="reserve",
        payload=bytes(payload),
        content_type="x" * 255,
    )
    branch = Branch(
        spec=spec,
        result=bytes(result),
        result_content_type="x" * 255,
        last_error=character * error,
        notes=(note,) * notes,
    )
    tx = Transaction(
        gid="g" * 36,
        branches=(branch,) * branches,
        expires_at=1e9,
        state=TransactionState.CONFIRMING,
        saved_branches=branches,
    )
    columns = insert_columns([tx]), full_columns([tx])
    written = sum(
        len(value) for each in columns for (value,) in each.values() if isinstance(value, bytes | str)
    )
    assert written <= _size(tx)
