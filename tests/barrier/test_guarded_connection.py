"""What the connection of a local transaction spares the database."""

from pathlib import Path

import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import QueuePool

from tcc.barrier.guarded_connection import GuardedConnection


def test_committed_transaction_is_not_rolled_back_by_the_pool(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'file.db'}")
    was_reset: list[bool] = []
    event.listen(
        engine, "reset", lambda _dbapi, _record, state: was_reset.append(state.transaction_was_reset)
    )
    guarded = GuardedConnection.begun(engine)
    assert guarded.run("SELECT :number + 1", {"number": 1}) == [(2,)]
    guarded.finish()
    assert was_reset == [True]
    assert guarded.closed
    assert isinstance(engine.pool, QueuePool)
    assert engine.pool.checkedout() == 0


def test_error_of_the_driver_is_raised_as_by_sqlalchemy(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'file.db'}")
    guarded = GuardedConnection.begun(engine)
    with pytest.raises(OperationalError, match="no such table: tcc_barrier") as caught:
        guarded.run("SELECT * FROM tcc_barrier")
    assert not caught.value.connection_invalidated
    guarded.abandon()
