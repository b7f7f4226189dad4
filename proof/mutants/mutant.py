"""A planted bug: one edit of the syntax tree of one definition, and the check that must fail. Pure."""

import ast
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Tests by their pytest ids, in the order in which they run."""

    nodes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """One of the proof's own programs, with its arguments. It exits with 1 when it finds a violation."""

    module: str
    arguments: tuple[str, ...] = ()


Check: TypeAlias = Selection | Program


@dataclass(frozen=True, kw_only=True, slots=True)
class Mutant:
    """One planted bug."""

    name: str
    # The guarantee that it breaks.
    breaks: str
    # The qualified name of a function, class or constant, in whichever module it is.
    definition: str
    # An expression, a dictionary with some entries of a larger one, or statements in a row.
    old: str
    # The replacement. Empty: the statements are dropped.
    new: str
    check: Check


class StaleMutantError(Exception):
    """The source has changed, and the mutant no longer fits it."""


class _Edit(ast.NodeTransformer):
    """Replace what is structurally equal to `old`, and count the places."""

    def __init__(self, mutant: Mutant) -> None:
        self.places = 0
        old, new = ast.parse(mutant.old).body, ast.parse(mutant.new or "pass").body
        match [*old, *new]:
            case [ast.Expr(value=before), ast.Expr(value=after)]:
                self._old: Sequence[ast.AST] = [before]
                self._new: Sequence[ast.AST] = [after]
            case _:
                self._old, self._new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        if not isinstance(node, ast.stmt) and _is_equal([node], self._old):
            self.places += 1
            return self._new[0]
        if isinstance(node, ast.Dict) and isinstance(self._old[0], ast.Dict):
            self._edit_entries(node, self._old[0], self._new[0])
        self.generic_visit(node)
        for block in ("body", "orelse", "finalbody"):
            statements = getattr(node, block, None)
            if isinstance(statements, list):
                self._edit_statements(statements)
        return node

    def _edit_statements(self, statements: list[ast.AST]) -> None:
        length = len(self._old)
        for start in range(len(statements) - length, -1, -1):
            if isinstance(self._old[0], ast.stmt) and _is_equal(
                statements[start : start + length], self._old
            ):
                self.places += 1
                statements[start : start + length] = self._new

    def _edit_entries(self, node: ast.Dict, old: ast.Dict, new: ast.AST) -> None:
        assert isinstance(new, ast.Dict), "entries are replaced by entries"
        keys = [ast.dump(key) if key else "" for key in node.keys]
        wanted = [ast.dump(key) for key in old.keys if key]
        if wanted and set(wanted) <= set(keys):
            indices = [keys.index(key) for key in wanted]
            if _is_equal([node.values[index] for index in indices], old.values):
                self.places += 1
                for index, key, value in zip(indices, new.keys, new.values, strict=True):
                    node.keys[index], node.values[index] = key, value


def _is_equal(some: Sequence[ast.AST], others: Sequence[ast.AST]) -> bool:
    return [ast.dump(node) for node in some] == [ast.dump(node) for node in others]


def mutated(source: str, mutant: Mutant) -> tuple[int, str]:
    """Return how often the mutant fits a module, and the text of the module with the bug in it."""
    if mutant.definition.rpartition(".")[2] not in source:
        return 0, source
    tree = ast.parse(source)
    edit = _Edit(mutant)
    for definition in _definitions(tree.body, mutant.definition.split(".")):
        edit.visit(definition)
    if not edit.places:
        return 0, source
    return edit.places, ast.unparse(ast.fix_missing_locations(tree))


def _definitions(body: Sequence[ast.stmt], names: Sequence[str]) -> Iterator[ast.stmt]:
    """Find a definition by its qualified name."""
    for statement in body:
        match statement:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                pass
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                pass
            case _:
                continue
        if name == names[0] and len(names) == 1:
            yield statement
        elif name == names[0] and isinstance(statement, ast.ClassDef):
            yield from _definitions(statement.body, names[1:])


def selection(*nodes: str) -> Selection:
    """Return the check that runs tests, whole files (`tests/core/test_machine.py`) or folders."""
    return Selection(nodes=nodes)


def explore(scope: str) -> Program:
    """Return the check that runs one of the explorer's scopes."""
    return Program(module="proof.explore", arguments=("--scope", scope, "--jobs", "1"))


def command(check: Check) -> tuple[str, ...]:
    """Return the command that runs the check in the copy."""
    match check:
        case Selection(nodes=nodes):
            # The first failure is enough. The copy keeps no cache.
            options = (
                "-x",
                "--tb=no",
                "-rfE",
                "-p",
                "no:cacheprovider",
                "-p",
                "no:xdist",
                "-p",
                "no:randomly",
            )
            # The core's tests need no database, nor the fixtures that start one.
            is_pure = all(node.startswith("tests/core/") for node in nodes)
            return (sys.executable, "-m", "pytest", *options, *(["--noconftest"] if is_pure else []), *nodes)
        case Program(module=module, arguments=arguments):
            return (sys.executable, "-m", module, *arguments)
