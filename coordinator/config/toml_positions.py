"""Find the line of each key in a TOML file. `tomllib` reads only the values.

The text must be valid TOML: the caller has parsed it with `tomllib` before.
"""

import re
import tomllib
from collections.abc import Mapping

Path = tuple[str, ...]

_TOKEN = re.compile(
    r'''(?P<space>[ \t\r]+|\#[^\n]*)
    |(?P<newline>\n)
    |(?P<text>"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*')
    |(?P<mark>[\[\]{}=,.])
    |(?P<bare>[^\s\[\]{}=,.\#"']+)''',
    re.VERBOSE | re.DOTALL,
)


def key_lines(text: str) -> Mapping[Path, int]:
    """Return the line (from 1) of every table and key, by path. The first mention of a table counts."""
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {}
        self._tokens: list[tuple[str, str, int]] = []
        line = 1
        for found in _TOKEN.finditer(text):
            if found.lastgroup != "space":
                self._tokens.append((found.lastgroup or "", found[0], line))
            line += found[0].count("\n")
        self._at = 0

    def document(self) -> None:
        table: Path = ()
        while self._at < len(self._tokens):
            if self._skip("\n"):
                continue
            if self._skip("["):
                self._skip("[")
                table = self._key(())
                while self._skip("]"):
                    pass
            else:
                self._pair(table)

    def _pair(self, table: Path) -> None:
        path = self._key(table)
        self._skip("=")
        self._value(path)

    def _key(self, table: Path) -> Path:
        """Read a key that may be dotted, and record the line of each of its parts."""
        path = table
        while self._at < len(self._tokens):
            kind, word, line = self._next()
            path = (*path, _plain(word) if kind == "text" else word)
            self.lines.setdefault(path, line)
            if not self._skip("."):
                break
        return path

    def _value(self, path: Path) -> None:
        if self._skip("{"):
            while not self._skip("}"):
                if not (self._skip(",") or self._skip("\n")):
                    self._pair(path)
        elif self._skip("["):
            while not self._skip("]"):
                if not (self._skip(",") or self._skip("\n")):
                    self._value(path)
        else:
            while self._peek() not in {"", "\n", ",", "]", "}"}:
                self._at += 1  # 1.5 is three tokens

    def _peek(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def _next(self) -> tuple[str, str, int]:
        token = self._tokens[self._at]
        self._at += 1
        return token

    def _skip(self, mark: str) -> bool:
        if self._peek() != mark:
            return False
        self._at += 1
        return True


def _plain(quoted: str) -> str:
    """Return a quoted key without quotes, as `tomllib` reads it."""
    return next(iter(tomllib.loads(f"{quoted} = 0")))
