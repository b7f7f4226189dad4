"""The contract: its lint, its compatibility, and the generated code that is committed."""

import subprocess
import sys
from pathlib import Path

import pytest

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
