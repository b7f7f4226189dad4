"""Targets are judged on both sides of their line."""

from typing import Any

import pytest

from bench.targets import TARGETS, Target, check_targets

AT_LEAST = Target(name="fast", scenario="s", key="per_second", at_least=100)
AT_MOST = Target(name="small", scenario="s", key="p99_ms", at_most=15)


@pytest.mark.parametrize(
    ("target", "measured", "met"),
    [
        (AT_LEAST, 99.9, False),
        (AT_LEAST, 100, True),
        (AT_LEAST, 101, True),
        (AT_MOST, 14.9, True),
        (AT_MOST, 15, True),
        (AT_MOST, 15.1, False),
        (AT_MOST, 0.0, True),
        (AT_LEAST, 0.0, False),
    ],
)
def test_the_line_itself_is_met(target: Target, measured: float, *, met: bool) -> None:
    (result,) = check_targets({"s": {target.key: measured}}, [target])
    assert (result.measured, result.met) == (measured, met)
    assert result.word == ("met" if met else "missed")


@pytest.mark.parametrize("found", [{}, {"s": {}}, {"s": {"per_second": None}}])
def test_what_was_not_measured_is_neither_met_nor_missed(found: dict[str, dict[str, Any]]) -> None:
    (result,) = check_targets(found, [AT_LEAST])
    assert (result.met, result.word) == (None, "not measured")


def test_one_configuration_is_picked_by_its_values() -> None:
    rows = [
        {"mode": "batched", "in_flight": 1, "ratio": 0.9},
        {"mode": "unary", "in_flight": 256, "ratio": 0.8},
        {"mode": "batched", "in_flight": 256, "ratio": 0.7},
    ]
    target = Target(
        name="t", scenario="s", key="ratio", where={"mode": "batched", "in_flight": 256}, at_least=0.6
    )
    (result,) = check_targets({"s": {"ratio": 0.1, "configurations": rows}}, [target])
    assert result.measured == 0.7
    (nothing,) = check_targets({"s": {"ratio": 0.1, "configurations": rows[:2]}}, [target])
    assert nothing.measured is None


def test_every_target_has_one_bound() -> None:
    assert all((target.at_least is None) != (target.at_most is None) for target in TARGETS)
