"""The line of each key in a TOML file."""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

from coordinator.config.toml_positions import key_lines

TEXT = '''# a = 1
top = 1.5
a.b.c = "] = { # no comment"
[table] # one
x = """
[not.a.table]
y = 1
"""
z = [ # of several lines
  1, {inner = 2}, "]",
]
["quoted \\" key"."with.dot"]
when = 1979-05-27T07:32:00Z
inline = { one = 1, two = { three = '}' } }
[a.d]
last = \'\'\'
e = 1\'\'\'
after = true
'''


def test_each_key_has_its_line() -> None:
    assert key_lines(TEXT) == {
        ("top",): 2,
        ("a",): 3,
        ("a", "b"): 3,
        ("a", "b", "c"): 3,
        ("table",): 4,
        ("table", "x"): 5,
        ("table", "z"): 9,
        ("table", "z", "inner"): 10,
        ('quoted " key',): 12,
        ('quoted " key', "with.dot"): 12,
        ('quoted " key', "with.dot", "when"): 13,
        ('quoted " key', "with.dot", "inline"): 14,
        ('quoted " key', "with.dot", "inline", "one"): 14,
        ('quoted " key', "with.dot", "inline", "two"): 14,
        ('quoted " key', "with.dot", "inline", "two", "three"): 14,
        ("a", "d"): 15,
        ("a", "d", "last"): 16,
        ("a", "d", "after"): 18,
    }


def test_every_key_that_tomllib_reads_has_a_line() -> None:
    """Our own files, too: every key that the parser finds, the scanner finds."""
    root = Path(__file__).parents[2]
    texts = [TEXT, (root / "deploy" / "tcc.toml").read_text(), (root / "pyproject.toml").read_text()]
    for text in texts:
        assert set(paths(tomllib.loads(text))) <= key_lines(text).keys()


def paths(table: Mapping[str, object], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in table.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from paths(value, (*above, key))
