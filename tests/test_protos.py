"""The contract: its lint, its compatibility, and the generated code that is committed."""

import subprocess
import sys
from enum import IntEnum
from pathlib import Path

import pytest

from coordinator.core import model, reconciliation
from proof.history import events
from tcc import branch
from tcc.barrier import decisions
from tcc.common.v1 import common_pb2 as common

ROOT = Path(__file__).parent.parent
BUF = Path(sys.executable).parent / "buf"


def test_the_generated_code_is_fresh(tmp_path: Path) -> None:
    protos = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("protos/tcc/*/v1/*.proto"))
    generate = [sys.executable, "-m", "grpc_tools.protoc", "-Iprotos", f"--python_out={tmp_path}"]
    generate += [f"--pyi_out={tmp_path}", f"--grpc_python_out={tmp_path}", *protos]
    subprocess.run(generate, check=True, cwd=ROOT)
    generated = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("tcc/*/v1/*"))
    committed = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("tcc/*/v1/*_pb2*") if path.is_file())
    assert generated == committed
    for name in generated:
        fresh, present = (_descriptor(folder / name) for folder in (tmp_path, ROOT))
        assert fresh == present, f"{name} is stale: make protos"


def _descriptor(path: Path) -> list[str]:
    """Return what a generated file says of its contract. The rest differs with the generator's version."""
    return [line for line in path.read_text().splitlines() if line.startswith("DESCRIPTOR = ")]


@pytest.mark.parametrize("check", [["lint"], ["breaking", "--against", "protos/baseline.binpb"]])
def test_the_contract_passes(check: list[str]) -> None:
    subprocess.run([BUF, *check], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("own", "name"),
    [
        (model.Operation, "Operation"),
        (decisions.Operation, "Operation"),
        (model.OutcomeCode, "OutcomeCode"),
        (decisions.OutcomeCode, "OutcomeCode"),
        (reconciliation.BarrierState, "BarrierState"),
        (decisions.BarrierState, "BarrierState"),
        (model.TransactionState, "TransactionState"),
        (model.CancelReason, "CancelReason"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__module__,
)
def test_the_enums_of_both_sides_equal_those_of_the_contract(own: type[IntEnum], name: str) -> None:
    prefix = "".join(f"_{letter}" if letter.isupper() else letter.upper() for letter in name).lstrip("_")
    values = common.DESCRIPTOR.enum_types_by_name[name].values
    contract = {value.name.removeprefix(f"{prefix}_"): value.number for value in values if value.number}
    assert {member.name: member.value for member in own if member} == contract


def test_both_sides_reserve_the_same_action_for_local_branches() -> None:
    assert reconciliation.LOCAL_ACTION == branch.LOCAL_ACTION


def test_a_history_names_the_operations_of_the_contract() -> None:
    assert [operation.name for operation in events.Operation] == [one.name for one in model.Operation]
