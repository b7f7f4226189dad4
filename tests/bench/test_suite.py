"""Scenarios are run in order, and what they find is kept at once."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench import results
from bench.__main__ import _options, _parser
from bench.children import ChildError
from bench.options import Options
from bench.report import machine
from bench.results import Results
from bench.scenarios import SCENARIOS
from bench.suite import command_line, run_scenarios
from tests.bench import measured


@dataclass(frozen=True, kw_only=True)
class Found:
    name: str
    failed: bool = False

    def as_json(self) -> dict[str, Any]:
        return {"scenario": self.name, "per_second": 7.0}

    def print_to(self, console: Console) -> None:
        console.print(self.name)


def finds(name: str, *, failed: bool = False) -> Callable[[Options], Found]:
    return lambda _options: Found(name=name, failed=failed)


def breaks(_options: Options) -> Found:
    raise ChildError("it ended")


def run(keep_in: Path | None = None, **scenarios: Callable[[Options], Found]) -> tuple[Results, bool, str]:
    paper = io.StringIO()
    found, failed = run_scenarios(
        scenarios, Options(), command="python -m bench all", console=Console(file=paper), keep_in=keep_in
    )
    return found, failed, paper.getvalue()


def test_scenarios_run_in_the_order_of_the_registry_and_are_told_to_people() -> None:
    found, failed, said = run(second=finds("second"), first=finds("first"))
    assert list(found.scenarios) == ["second", "first"]
    assert said.split() == ["second", "first"]
    assert not failed


def test_one_that_failed_fails_the_run_and_stops_nobody() -> None:
    found, failed, _ = run(a=finds("a", failed=True), b=finds("b"))
    assert failed
    assert list(found.scenarios) == ["a", "b"]


def test_what_is_kept_says_how_it_came_about(tmp_path: Path) -> None:
    run(tmp_path / "new", a=finds("a"))
    kept = json.loads((tmp_path / "new" / results.FILE).read_text())["scenarios"]["a"]
    assert kept["found"] == {"scenario": "a", "per_second": 7.0}
    assert kept["command"] == "python -m bench all"
    assert kept["machine"] == machine()
    assert kept["measured_at"].endswith("+00:00")


def test_one_that_breaks_costs_only_itself(tmp_path: Path) -> None:
    with pytest.raises(ChildError):
        run(tmp_path, a=finds("a"), b=breaks, c=finds("c"))
    assert list(results.read(tmp_path).scenarios) == ["a"]


def test_measuring_again_replaces_one_entry_and_leaves_the_others(tmp_path: Path) -> None:
    before = Results(scenarios={"a": measured.entry({"scenario": "a"}), "b": measured.idle()})
    results.write(before, tmp_path)
    run(tmp_path, a=finds("a"))
    kept = results.read(tmp_path).scenarios
    assert list(kept) == ["a", "b"]
    assert kept["a"].found["per_second"] == 7.0
    assert kept["b"] == before.scenarios["b"]


def test_targets_are_kept_with_their_verdicts(tmp_path: Path) -> None:
    results.write(measured.everything(), tmp_path)
    targets = json.loads((tmp_path / results.FILE).read_text())["targets"]
    (half,) = [each for each in targets if each["name"] == "coordinator, batched, to its baseline"]
    assert (half["at_least"], half["measured"], half["met"]) == (0.6, 0.5, False)
    assert {each["met"] for each in targets} == {True, False, None}


def test_each_scenario_and_all_of_them_are_commands() -> None:
    for name in (*SCENARIOS, "all"):
        arguments = _parser().parse_args([name, "--json"])
        assert (arguments.command, arguments.json) == (name, True)
        assert _options(arguments) == Options()


def test_a_quick_run_is_shorter_and_says_that_it_is() -> None:
    asked = Options(rounds=5, wait_for="completion")
    quick = asked.as_quick()
    assert quick.quick
    assert quick.rounds * (quick.seconds + quick.warm_up_s) < asked.rounds * asked.seconds
    assert replace(quick, quick=False).wait_for == "completion"
    assert _options(_parser().parse_args(["all", "--quick"])).quick


def test_the_command_is_kept_as_one_would_type_it() -> None:
    assert command_line(["idle", "--save", "a b"]) == "python -m bench idle --save 'a b'"
