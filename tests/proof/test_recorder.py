"""Histories on disk: by several processes, in order of time, torn by a kill."""

from pathlib import Path

import pytest
from msgspec import DecodeError

from proof.history.events import Call, Effect, Fault, Operation, Settled
from proof.history.narrative import story
from proof.history.recorder import FileRecorder, read, write

CALL = Call(at=1.5, gid="g", branch_id="b", participant="p", operation=Operation.TRY)
EFFECT = Effect(at=2.25, gid="g", branch_id="b", participant="p", operation=Operation.TRY, quantity=3)
FAULT = Fault(at=2.0, kind="kill", target="coordinator 1")


def test_files_are_read_in_order_of_time(tmp_path: Path) -> None:
    with FileRecorder(tmp_path / "a") as a, FileRecorder(tmp_path / "b") as b:
        b.record(EFFECT)
        a.record(CALL)
        a.record(FAULT)
    assert read([tmp_path / "a", tmp_path / "b"]) == [CALL, FAULT, EFFECT]


def test_equal_times_keep_the_order_of_recording(tmp_path: Path) -> None:
    events = [Settled(at=1.0), CALL, Fault(at=1.5, kind="z"), Fault(at=1.5, kind="a")]
    write(tmp_path / "history", events)
    assert read([tmp_path / "history"]) == events


def test_recorders_share_a_file(tmp_path: Path) -> None:
    with FileRecorder(tmp_path / "history") as one, FileRecorder(tmp_path / "history") as other:
        one.record(CALL)
        other.record(FAULT)
        one.record(EFFECT)
    assert read([tmp_path / "history"]) == [CALL, FAULT, EFFECT]


def test_a_torn_last_line_is_left_out_and_any_other_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "history"
    write(path, [CALL, FAULT])
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert read([path]) == [CALL]
    path.write_bytes(whole[:-5] + b"\n")
    with pytest.raises(DecodeError):
        read([path])


def test_a_narrative_has_one_transaction_and_all_faults() -> None:
    other = Effect(at=3.0, gid="h", branch_id="b", participant="p", operation=Operation.TRY)
    lines = list(story([CALL, FAULT, EFFECT, other], {"g"}))
    assert [line.split()[2] for line in lines] == ["call", "fault", "effect"]
    assert "branch_id=b" in lines[0]
