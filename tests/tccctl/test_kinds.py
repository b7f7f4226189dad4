"""Branch kinds and check-back as operators see them."""

from tcc.admin.v1 import admin_pb2 as admin
from tcc.common.v1 import common_pb2 as common
from tccctl.blocks import Table
from tccctl.transaction_views import _branch_table, next_commands


def rows_of(table: Table) -> list[str]:
    return [" ".join(str(value.text) for value in row) for row in table.rows]


def test_kinds_are_shown_if_there_are_several() -> None:
    tcc = common.Branch(spec=common.BranchSpec(branch_id="stock", kind=common.BRANCH_KIND_TCC))
    local = common.Branch(
        spec=common.BranchSpec(branch_id="order", kind=common.BRANCH_KIND_SAGA), check_back=True
    )
    assert "KIND" not in [column.title for column in _branch_table([tcc], 0.0).columns]
    table = _branch_table([tcc, local], 0.0)
    assert "KIND" in [column.title for column in table.columns]
    assert "SAGA, check-back" in rows_of(table)[1]


def test_an_unanswered_check_can_be_retried_and_resolved() -> None:
    explanation = admin.ExplainTransactionResponse(
        gid="g",
        state=common.TRANSACTION_STATE_TRYING,
        version=7,
        stuck=True,
        branches=[admin.BranchExplanation(branch_id="order", participant="orders", operation="CHECK")],
    )
    assert next_commands(explanation) == [
        "tccctl tx retry g --version 7 --reason WHY",
        "tccctl tx cancel g --version 7 --reason WHY",
        "tccctl tx resolve g order confirmed --version 7 --reason WHY",
        "tccctl tx resolve g order cancelled --version 7 --reason WHY",
    ]
