"""Tables on terminals of any width, and odd terminals."""

import io
import os
import pty
import subprocess
import sys
from collections.abc import Sequence

import pytest
from hypothesis import given, settings, strategies as st
from rich.cells import cell_len
from rich.console import Console

from tcc.admin.v1 import admin_pb2 as admin
from tcc.common.v1 import common_pb2 as common
from tccctl.blocks import Block, Column, Table, cell, rich_group
from tccctl.payloads import PayloadReader
from tccctl.transaction_views import transaction_blocks, transaction_table
from tests.tccctl.scripted_admin import NO_SETTINGS, scripted

GID = "019ab0c4-6f2e-7d31-9c55-3f0a8e1b2c4d"
ORDER = common.Transaction(
    gid=GID,
    state=common.TRANSACTION_STATE_CONFIRMING,
    stuck=True,
    initiator="shop-frontend",
    branches=[
        common.Branch(
            spec=common.BranchSpec(branch_id=name, participant=name, action="reserve"),
            attempts=12,
            last_error="UNAVAILABLE: failed to connect to all addresses; last error: connection refused",
        )
        for name in ("inventory", "coupon", "order")
    ],
)


def lines(blocks: Sequence[Block], width: int, *, wide: bool = False) -> list[str]:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    console.print(rich_group(blocks, width=width, wide=wide))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def titles(blocks: Sequence[Block], width: int) -> list[str]:
    header = lines(blocks, width)[0]
    known = [column.title for column in transaction_table([], 0).columns]
    return [title for title in known if title in header.split()]


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (200, ["GID", "STATE", "FLAGS", "AGE", "INITIATOR", "PARTICIPANTS"]),
        # 36 + 10 + 5 + 3 + 13 + 24 and five gaps of 2 are 101: the participants are cut to 20 characters.
        (97, ["GID", "STATE", "FLAGS", "AGE", "INITIATOR", "PARTICIPANTS"]),
        (96, ["GID", "STATE", "FLAGS", "AGE", "PARTICIPANTS"]),
        (80, ["GID", "STATE", "FLAGS", "AGE"]),
        (56, ["GID", "STATE", "FLAGS"]),
    ],
)
def test_a_list_has_as_many_columns_as_fit(width: int, shown: list[str]) -> None:
    table = transaction_table([ORDER], 0)
    assert titles([table], width) == shown
    assert len(lines([table], width)) == 2


def test_a_list_that_does_not_fit_has_a_line_for_each_value() -> None:
    table = transaction_table([ORDER, ORDER], 0)
    record = [
        f"GID           {GID}",
        "STATE         CONFIRMING",
        "FLAGS         stuck",
        "AGE           0s",
        "INITIATOR     shop-frontend",
        "PARTICIPANTS  inventory, coupon, order",
    ]
    assert [line.rstrip() for line in lines([table], 54)] == [*record, "", *record]


def test_at_80_columns_each_branch_is_a_line_with_its_error() -> None:
    payloads = PayloadReader(types={}, messages={}, redact=())
    *_, branches = transaction_blocks(admin.InspectTransactionResponse(transaction=ORDER), payloads, 0)
    header, *rows = lines([branches], 80)
    assert len(rows) == 3
    assert "LAST ERROR" in header
    assert all("UNAVAILABLE: failed" in row for row in rows)


# Also wide characters, and combining ones.
NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=0x9FFF), max_size=50)


@settings(max_examples=30)
@given(st.lists(st.tuples(NAMES, NAMES, NAMES, NAMES), min_size=1, max_size=5), st.integers(20, 160))
def test_no_row_of_a_table_wraps(rows: list[tuple[str, ...]], width: int) -> None:
    columns = [
        Column("FIRST"),
        Column("SECOND", optional=2, right=True),
        Column("THIRD", flexible=True, optional=1),
        Column("FOURTH", characters_max=10),
    ]
    table = Table(columns=columns, rows=[list(map(cell, row)) for row in rows], empty="")
    shown = lines([table], width)
    assert all(cell_len(line) <= width for line in shown)
    if "FOURTH" in shown[0]:
        assert len(shown) == 1 + len(rows)
        assert all(cell(row[0]).text in line for row, line in zip(rows, shown[1:], strict=True))


def on_terminal(address: str, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run tccctl on a terminal; return its exit status and what it shows."""
    keyboard, screen = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "tccctl", *arguments],
        stdin=screen,
        stdout=screen,
        stderr=screen,
        env=os.environ | NO_SETTINGS | {"TCCCTL_ADDRESS": address} | environment,
    )
    os.close(screen)
    shown = b""
    try:
        while chunk := os.read(keyboard, 65_536):
            shown += chunk
    except OSError:  # so Linux says that the other end is closed
        pass
    os.close(keyboard)
    return process.wait(60), shown.decode(errors="replace")


@pytest.mark.parametrize(
    ("command", "environment"),
    [
        (["tx", "list"], {"TERM": "dumb"}),
        pytest.param(["tx", "list"], {"COLUMNS": "20", "TERM": "xterm"}, marks=pytest.mark.slow),
        pytest.param(["tx", "list"], {"COLUMNS": "0", "TERM": "xterm"}, marks=pytest.mark.slow),
        pytest.param(["tx", "list"], {"COLUMNS": "80", "NO_COLOR": "1"}, marks=pytest.mark.slow),
        pytest.param(["tx", "list"], {"LC_ALL": "C", "TERM": "xterm"}, marks=pytest.mark.slow),
        pytest.param(
            ["tx", "list"], {"PYTHONIOENCODING": "latin-1", "TERM": "xterm"}, marks=pytest.mark.slow
        ),
        pytest.param(["tx", "list"], {"TERM": ""}, marks=pytest.mark.slow),
        # It could not be shown in place: it is shown once.
        (["watch"], {"TERM": "dumb"}),
    ],
)
def test_odd_terminals_get_the_answer(command: list[str], environment: dict[str, str]) -> None:
    order = common.Transaction(gid="order-ü", state=common.TRANSACTION_STATE_TRYING)
    found = admin.SearchTransactionsResponse(transactions=[order])
    stats = admin.GetStatsResponse(stuck=1)
    with scripted(SearchTransactions=found, GetStats=stats) as service:
        status, shown = on_terminal(service.address, *command, **environment)
    assert (status, "Traceback" in shown) == (0, False), shown
    assert "order-" in shown
    if environment.get("TERM") == "dumb" or "NO_COLOR" in environment:
        assert "\x1b[3" not in shown
