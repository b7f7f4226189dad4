"""The rows that the baseline writes to the log: the coordinator's own, encoded once.

All transactions of a round have the same branches, but for the payloads and for
what their Trys return; only those are encoded for each of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from coordinator.core.model import Branch, BranchSpec, Transaction, TransactionState, TryState
from coordinator.log import statements
from coordinator.log.rows import full_columns, insert_columns, is_plain, plain_columns
from coordinator.log.statements import Statement
from tcc.common.v1 import common_pb2 as common

# What a Try returned, and its content type.
Result = tuple[bytes, str]
Columns = dict[str, Sequence[Any]]

_encode = msgspec.msgpack.Encoder().encode


class Rows:
    """The log's rows of transactions that have the branches of one that is like them."""

    def __init__(self, like: Sequence[common.BranchSpec]) -> None:
        self._specs = [_spec(branch) for branch in like]
        branches = tuple(Branch(spec=spec) for spec in self._specs)
        # A fingerprint is the price of telling a repetition from another transaction.
        like_new = Transaction(gid="", expires_at=0.0, fingerprint=bytes(16), branches=branches)
        self._new = {name: values[0] for name, values in insert_columns((like_new,)).items()}
        self._saved: dict[tuple[object, ...], _Saved] = {}

    def insert(
        self, gids: Sequence[str], branches: Sequence[Sequence[common.BranchSpec]], expires_at: float
    ) -> Columns:
        """The parameters of `statements.INSERT`."""
        count = len(gids)
        columns: Columns = {name: [value] * count for name, value in self._new.items()}
        payloads = [_encode([branch.payload for branch in each]) for each in branches]
        return columns | {"gid": gids, "payloads": payloads, "expires_at": [expires_at] * count}

    def save(
        self, gids: Sequence[str], results: Sequence[Sequence[Result]], version: int, state: TransactionState
    ) -> tuple[Statement, Columns]:
        """The statement for a change of state, and its parameters."""
        like = self._saved_like(results[0], version, state)
        columns: Columns = {name: [value] * len(gids) for name, value in like.row.items()}
        columns["gid"] = gids
        if like.statement is statements.SAVE_FULL:
            columns["progress"] = [like.progress(each) for each in results]
        return like.statement, columns

    def _saved_like(self, results: Sequence[Result], version: int, state: TransactionState) -> "_Saved":
        key = (version, state, *((len(result), content_type) for result, content_type in results))
        if key not in self._saved:
            self._saved[key] = _Saved(self._specs, results, version, state)
        return self._saved[key]


class _Saved:
    """A row that is written when all branches have answered; results have one length a branch."""

    def __init__(
        self, specs: Sequence[BranchSpec], results: Sequence[Result], version: int, state: TransactionState
    ) -> None:
        branches = [
            Branch(
                spec=spec,
                tried=TryState.SUCCEEDED,
                result=_placeholder(position, len(result)),
                result_content_type=content_type,
                done=state.ended,
            )
            for position, (spec, (result, content_type)) in enumerate(zip(specs, results, strict=True))
        ]
        transaction = Transaction(
            gid="",
            expires_at=0.0,
            branches=tuple(branches),
            state=state,
            version=version,
            saved_branches=len(branches),
        )
        plain = is_plain(transaction)
        self.statement = statements.SAVE_PLAIN if plain else statements.SAVE_FULL
        columns = (plain_columns if plain else full_columns)((transaction,))
        self.row: Mapping[str, Any] = {name: values[0] for name, values in columns.items()}
        self._with_results = [
            (position, branch.result) for position, branch in enumerate(branches) if branch.result
        ]

    def progress(self, results: Sequence[Result]) -> bytes:
        progress: bytes = self.row["progress"]
        for position, placeholder in self._with_results:
            result, _ = results[position]
            assert len(result) == len(placeholder), "results of one branch have one length"
            progress = progress.replace(placeholder, result, 1)
        return progress


def _placeholder(position: int, length: int) -> bytes:
    """Not to be found by chance in what else a row holds."""
    return bytes([0xF0 + position]) * length


def _spec(branch: common.BranchSpec) -> BranchSpec:
    return BranchSpec(
        branch_id=branch.branch_id,
        participant=branch.participant,
        action=branch.action,
        payload=branch.payload,
        content_type=branch.content_type,
        stage=branch.stage,
    )
