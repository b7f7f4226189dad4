"""Files that keep what the project produces, compared by tests and rewritten by `pytest --rewrite`."""

from pathlib import Path
from typing import NamedTuple


class GoldenFiles(NamedTuple):
    """Compares texts with files; with `rewrite`, writes the files first."""

    rewrite: bool

    def check(self, path: Path, text: str) -> None:
        """Assert that a file holds this text."""
        if self.rewrite:
            path.write_text(text, encoding="utf-8")
        kept = path.read_text(encoding="utf-8")
        assert kept == text, f"{path.name} is stale. If the change is intended: pytest --rewrite"
