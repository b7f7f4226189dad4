"""Every numeric setting has bounds, and a value beyond them is refused with the bounds in the message."""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from annotated_types import Ge, Le
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from coordinator.config.configuration import ConfigurationError, load
from coordinator.config.settings import Settings

# Wider than the bounds of any setting.
_BEYOND = ["1e300", "inf", "nan", "-inf", "-1", "1e13", "9" * 400, "9" * 4_000, "word", ""]


def settings_in(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        tables = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not tables:
            yield f"{prefix}{name}", field
        for table in tables:
            yield from settings_in(table, f"{prefix}{name}.{'stock.' * (str in kinds)}")


NUMBERS = {
    path: field
    for path, field in settings_in(Settings)
    if {int, float} & {field.annotation, *get_args(field.annotation)}
}


def refusal(path: str, value: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TCC_PARTICIPANTS__STOCK__TARGET", "stock:1")
    monkeypatch.setenv("TCC_" + path.upper().replace(".", "__"), value)
    with pytest.raises(ConfigurationError) as caught:
        load(None)
    return str(caught.value)


def test_the_numeric_settings_are_found() -> None:
    assert len(NUMBERS) > 30
    assert {"workers", "log.retention_s", "recovery.lease_s", "participants.stock.batch_max"} < NUMBERS.keys()


@pytest.mark.parametrize("path", NUMBERS)
def test_every_number_has_bounds_that_its_message_names(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (least,) = [bound.ge for bound in NUMBERS[path].metadata if isinstance(bound, Ge)]
    (most,) = [bound.le for bound in NUMBERS[path].metadata if isinstance(bound, Le)]
    for value in [*_BEYOND, repr(least - 1), repr(most + 1)]:
        message = refusal(path, value, monkeypatch)
        assert message.endswith(f" from {least:.15g} to {most:.15g}"), (value[:20], message)
        assert "\n" not in message, message


@pytest.mark.parametrize("path", NUMBERS)
def test_a_default_is_within_its_bounds(path: str) -> None:
    (least,) = [bound.ge for bound in NUMBERS[path].metadata if isinstance(bound, Ge)]
    (most,) = [bound.le for bound in NUMBERS[path].metadata if isinstance(bound, Le)]
    assert least <= NUMBERS[path].default <= most


@pytest.mark.parametrize("value", ["inf", "nan", "1e300", "-1", "9" * 4_000])
def test_a_number_in_the_file_is_refused_with_its_line(tmp_path: Path, value: str) -> None:
    path = tmp_path / "tcc.toml"
    path.write_text(f"[log]\nretention_s = {value}\n")
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    assert str(caught.value) == f"{path}:2: log.retention_s: must be a number from 1 to 315360000"


def test_a_number_that_python_does_not_read_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "tcc.toml"
    path.write_text(f"[limits]\nlive_max = {'9' * 5_000}\n")
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    assert str(caught.value) == f"{path}:2: a number of 5000 digits"


def test_a_number_that_python_does_not_read_in_the_environment_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TCC_LIMITS", f'{{"live_max": {"9" * 5_000}}}')
    with pytest.raises(ConfigurationError) as caught:
        load(None)
    assert str(caught.value) == 'the environment: error parsing value for field "limits"'


@pytest.mark.parametrize(
    ("table", "text", "message"),
    [
        (
            "recovery",
            "lease_s = 1.9\nheartbeat_every_s = 1",
            "2: recovery.lease_s: lease_s must be at least twice heartbeat_every_s",
        ),
        (
            "limits",
            "transaction_bytes_max = 99\npayload_bytes_max = 100",
            "3: limits.payload_bytes_max: payload_bytes_max must not be more than transaction_bytes_max",
        ),
        (
            "limits",
            "expiry_default_s = 31\nexpiry_max_s = 30",
            "2: limits.expiry_default_s: expiry_default_s must not be more than expiry_max_s",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    tmp_path: Path, table: str, text: str, message: str
) -> None:
    path = tmp_path / "tcc.toml"
    path.write_text(f"[{table}]\n{text}\n")
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    assert str(caught.value) == f"{path}:{message}"
