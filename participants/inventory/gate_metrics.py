"""The metrics of the gate in Redis, for Prometheus: what this process asked and corrected."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from participants.inventory.redis_gate import Answer

_BYPASSED = "bypassed"
_OUTCOMES = ("admitted", "sold_out", "unknown_sku", _BYPASSED)


class GateMetrics:
    """Counts of one process."""

    def __init__(self) -> None:
        # True while Redis is left alone, and the database decides about all Trys.
        self.is_open = False
        self._trys: Counter[str] = Counter()
        self._too_few = 0
        self._too_many = 0

    def tried(self, answer: "Answer | None") -> None:
        """Count a Try; None: it passed without the gate."""
        self._trys[_BYPASSED if answer is None else answer.value] += 1

    def corrected(self, units: int) -> None:
        """Count what a comparison has added or taken away."""
        if units > 0:
            self._too_few += units
        else:
            self._too_many -= units

    async def text(self) -> str:
        """Return all metrics in Prometheus' text format."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield "# TYPE tcc_stock_gate_open gauge"
        yield f"tcc_stock_gate_open {int(self.is_open)}"
        yield "# TYPE tcc_stock_gate_trys_total counter"
        for outcome in _OUTCOMES:
            yield f'tcc_stock_gate_trys_total{{outcome="{outcome}"}} {self._trys[outcome]}'
        yield "# TYPE tcc_stock_gate_drift_units_total counter"
        yield f'tcc_stock_gate_drift_units_total{{tokens="too_few"}} {self._too_few}'
        yield f'tcc_stock_gate_drift_units_total{{tokens="too_many"}} {self._too_many}'
