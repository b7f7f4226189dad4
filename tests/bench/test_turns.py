"""The order in which systems are measured."""

from typing import Any

from bench.scenarios.coordinator import _turn
from bench.stage import Load

SYSTEMS: Any = ("secured", "mutual TLS", "open")


class Here:
    """A stage that notes what it measures."""

    def __init__(self) -> None:
        self.order: list[str] = []

    def measure(self, system: Any, _load: Load) -> Any:
        self.order.append(system)
        return system


def test_each_system_is_once_in_each_place_of_a_turn() -> None:
    orders = []
    for first in range(3):
        here: Any = Here()
        assert _turn(here, SYSTEMS, Load(mode="unary", in_flight=1), first=first) == [*SYSTEMS]
        orders.append(here.order)
    assert [set(place) for place in zip(*orders, strict=True)] == [set(SYSTEMS)] * 3
