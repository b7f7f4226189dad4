"""Lines that strangers can cause: the first of a kind at once, the rest as one line for each interval."""

from collections.abc import Callable, Iterable

from hypothesis import given, settings, strategies as st

from tcc._internal.line_limiter import INTERVAL_S, KINDS_MAX, LineLimiter


class Lines:
    """What a limiter has written: (time, kind, how many were left out)."""

    def __init__(self) -> None:
        self.now = 0.0
        self.written: list[tuple[float, object, int]] = []
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self.limiter = LineLimiter(now=lambda: self.now, call_later=self._call_later)

    def _call_later(self, seconds: float, run: Callable[[], None]) -> None:
        self._timers.append((self.now + seconds, run))

    def log(self, *kinds: object) -> None:
        for kind in kinds:
            self.limiter.write(kind, lambda count, kind=kind: self.written.append((self.now, kind, count)))

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while due := [timer for timer in self._timers if timer[0] <= until]:
            self.now, run = min(due, key=lambda timer: timer[0])
            self._timers.remove((self.now, run))
            run()
        self.now = until

    def lines_of(self, kind: object) -> list[tuple[float, int]]:
        return [(at, count) for at, one, count in self.written if one == kind]


def test_a_flood_is_one_line_at_once_and_one_for_each_interval() -> None:
    lines = Lines()
    lines.log(*["flood"] * 500)
    assert lines.written == [(0.0, "flood", 0)]
    lines.advance(INTERVAL_S)
    # The line itself stands for one of the 499.
    assert lines.written[1:] == [(60.0, "flood", 498)]
    lines.log(*["flood"] * 3)
    lines.advance(INTERVAL_S)
    assert lines.written[2:] == [(120.0, "flood", 2)]
    lines.advance(2 * INTERVAL_S)
    assert len(lines.written) == 3, "an interval without a line has none"
    lines.log("flood")
    assert lines.written[3:] == [(240.0, "flood", 0)]


def test_kinds_do_not_hide_each_other() -> None:
    lines = Lines()
    lines.log("a", "a", "b", "a")
    assert lines.written == [(0.0, "a", 0), (0.0, "b", 0)]
    lines.advance(INTERVAL_S)
    assert lines.written[2:] == [(60.0, "a", 1)]


def test_any_number_of_kinds_is_bounded() -> None:
    """By any number of names, a flood gets no more lines and no more memory."""
    lines = Lines()
    lines.log(*range(10 * KINDS_MAX))
    assert len(lines.written) == KINDS_MAX + 1
    assert len(lines.limiter._written_at) == KINDS_MAX + 1
    assert len(lines.limiter._omitted) == 1
    lines.advance(INTERVAL_S)
    # 100 had lines of their own, and one of the 900 others had a line before.
    assert lines.written[KINDS_MAX + 1 :] == [(60.0, 10 * KINDS_MAX - 1, 898)]
    lines.advance(INTERVAL_S)
    lines.log("another")
    assert lines.lines_of("another") == [(120.0, 0)]


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 90), st.integers(0, 3)), max_size=60))
def test_every_line_is_written_or_counted(steps: Iterable[tuple[float, int]]) -> None:
    lines, wanted = Lines(), dict.fromkeys(range(4), 0)
    for seconds, kind in steps:
        lines.advance(seconds)
        lines.log(kind)
        wanted[kind] += 1
    lines.advance(INTERVAL_S)
    for kind, count in wanted.items():
        assert sum(1 + omitted for _, omitted in lines.lines_of(kind)) == count
