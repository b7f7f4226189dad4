"""The schema of the log, made by repeating the statements of the migrations, in half the time."""

from typing import Any

import psycopg
from sqlalchemy import Engine, event

from coordinator.log.migration import migrate


class LogSchema:
    """Migrates one empty database, and repeats its statements on others."""

    def __init__(self, url: str) -> None:
        self._sent: list[tuple[str, Any]] = []
        event.listen(Engine, "before_cursor_execute", self._note)
        try:
            migrate(url)
        finally:
            event.remove(Engine, "before_cursor_execute", self._note)

    @property
    def statements(self) -> list[str]:
        """All statements that were sent, in order."""
        return [statement for statement, _ in self._sent]

    def make(self, url: str) -> None:
        with psycopg.connect(url, options="-c search_path=tcc") as db, db.cursor() as cursor:
            for statement, parameters in self._sent:
                cursor.execute(statement, parameters)

    def _note(self, _connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        self._sent.append((statement, parameters))
