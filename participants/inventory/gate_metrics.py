"""The metrics of the gate in Redis, for Prometheus: what this process asked and corrected."""

from collections import Counter
from collections.abc import Iterator

from participants.inventory import tokens

_OUTCOMES: dict[int | str, str] = {
    tokens.REFUSED: "sold_out",
    tokens.TAKEN: "admitted",
    tokens.PASSED: "bypassed",
    tokens.UNKNOWN: "unknown_sku",
}


class GateMetrics:
    """Counts of one process."""

    def __init__(self) -> None:
        # True while Redis is left alone, and the database decides about all Trys.
        self.is_open = False
        # Trys by the answer of the script. One that is not asked for passes.
        self.tried: Counter[int | str] = Counter()
        self._too_few = 0
        self._too_many = 0

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
        for answer, outcome in _OUTCOMES.items():
            yield f'tcc_stock_gate_trys_total{{outcome="{outcome}"}} {self.tried[answer]}'
        yield "# TYPE tcc_stock_gate_drift_units_total counter"
        yield f'tcc_stock_gate_drift_units_total{{tokens="too_few"}} {self._too_few}'
        yield f'tcc_stock_gate_drift_units_total{{tokens="too_many"}} {self._too_many}'
