"""Every limit and every address, in one typed place: a TOML file, overridden by the environment.

Environment variables start with `TCC_`; `__` goes one table down:
`TCC_LOG__URL`, `TCC_PARTICIPANTS__INVENTORY__TARGET`.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from coordinator.core.model import RetryPolicy
from coordinator.engine.breaker import BreakerPolicy
from coordinator.engine.engine import EngineLimits
from coordinator.engine.participant_lane import ParticipantPolicy
from coordinator.recovery import RecoverySettings
from coordinator.rpc.participant_client import ParticipantAddress
from coordinator.rpc.requests import RequestLimits

_ADDRESS = re.compile(r"(\[[^\s\[\]]+\]|[^\s:\[\]/]+):([0-9]{1,5})")
_PORT_MAX = 65_535


class ConfigurationError(Exception):
    """The configuration has mistakes; the message has a line for each."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LogSettings(_Table):
    """Where the transaction log is."""

    # None: a PostgreSQL of its own, in `data_dir`.
    url: SecretStr | None = None
    data_dir: Path = Path("var/tcc")
    connections: int = Field(default=4, ge=2, le=64)
    retention_s: float = Field(default=7 * 24 * 3600.0, gt=0)

    @field_validator("url")
    @classmethod
    def _postgresql(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not _is_log_url(url.get_secret_value()):
            raise PydanticCustomError("log_url", "must be postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
        return url


class ListenSettings(_Table):
    """Where initiators find the coordinator."""

    address: str = "127.0.0.1:50050"
    # Calls under way at once; more are refused with RESOURCE_EXHAUSTED.
    calls_max: int = Field(default=8_192, ge=1)

    @field_validator("address")
    @classmethod
    def _host_and_port(cls, address: str) -> str:
        found = _ADDRESS.fullmatch(address)
        if found is None or int(found[2]) > _PORT_MAX:
            raise PydanticCustomError("address", "must be HOST:PORT, with a port from 0 to 65535")
        return address


class LimitSettings(_Table):
    """Bounds on requests and on what one worker keeps in memory."""

    branches_max: int = Field(default=64, ge=1, le=1_000)
    payload_bytes_max: int = Field(default=256 * 1024, ge=0)
    transaction_bytes_max: int = Field(default=1024 * 1024, ge=0)
    live_max: int = Field(default=20_000, ge=1)
    call_max_s: float = Field(default=300.0, gt=0)
    expiry_default_s: float = Field(default=30.0, gt=0)
    expiry_max_s: float = Field(default=3_600.0, gt=0)


class RecoveryTable(_Table):
    """How often the scheduler's jobs run."""

    lease_s: float = Field(default=3.0, gt=0)
    heartbeat_every_s: float = Field(default=1.0, gt=0)
    sweep_every_s: float = Field(default=0.2, gt=0)
    poll_every_s: float = Field(default=1.0, gt=0)
    adopt_every_s: float = Field(default=1.0, gt=0)
    purge_every_s: float = Field(default=10.0, gt=0)


class ParticipantSettings(_Table):
    """One participant: where it is and how it is treated."""

    target: str = Field(min_length=1)
    batched: bool = True
    call_timeout_s: float = Field(default=5.0, gt=0)
    concurrency_max: int = Field(default=2_048, ge=1)
    backlog_max: int = Field(default=8_192, ge=1)
    batch_max: int = Field(default=256, ge=1, le=4_096)
    retry_first_s: float = Field(default=0.1, gt=0)
    retry_max_s: float = Field(default=30.0, gt=0)
    attempts_before_stuck: int = Field(default=10, ge=1)
    breaker_failures: int = Field(default=5, ge=1)
    breaker_open_first_s: float = Field(default=0.5, gt=0)
    breaker_open_max_s: float = Field(default=10.0, gt=0)
    cancel_in_stage_order: bool = False

    def address(self) -> ParticipantAddress:
        return ParticipantAddress(
            target=self.target, batched=self.batched, call_timeout_s=self.call_timeout_s
        )

    def policy(self) -> ParticipantPolicy:
        return ParticipantPolicy(
            retry=RetryPolicy(
                delay_first_s=self.retry_first_s,
                delay_max_s=self.retry_max_s,
                attempts_before_stuck=self.attempts_before_stuck,
            ),
            breaker=BreakerPolicy(
                failures_to_open=self.breaker_failures,
                open_first_s=self.breaker_open_first_s,
                open_max_s=self.breaker_open_max_s,
            ),
            concurrency_max=self.concurrency_max,
            backlog_max=self.backlog_max,
            batch_max=self.batch_max,
            cancel_in_stage_order=self.cancel_in_stage_order,
        )


class Settings(BaseSettings):
    """The whole configuration of a coordinator."""

    model_config = SettingsConfigDict(
        env_prefix="TCC_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    listen: ListenSettings = ListenSettings()
    workers: int = Field(default=1, ge=1, le=64)
    # How long a coordinator that is told to stop may finish its work.
    drain_s: float = Field(default=10.0, ge=0)
    log: LogSettings = LogSettings()
    limits: LimitSettings = LimitSettings()
    recovery: RecoveryTable = RecoveryTable()
    participants: dict[str, ParticipantSettings] = Field(default_factory=dict)

    def engine_limits(self) -> EngineLimits:
        return EngineLimits(live_max=self.limits.live_max)

    def request_limits(self) -> RequestLimits:
        return RequestLimits(
            branches_max=self.limits.branches_max,
            payload_bytes_max=self.limits.payload_bytes_max,
            transaction_bytes_max=self.limits.transaction_bytes_max,
            call_max_s=self.limits.call_max_s,
            expiry_default_s=self.limits.expiry_default_s,
            expiry_max_s=self.limits.expiry_max_s,
        )

    def recovery_settings(self) -> RecoverySettings:
        return RecoverySettings(retention_s=self.log.retention_s, **self.recovery.model_dump())


def load(path: Path | None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Reads the configuration: the file, above it the environment, above that `overrides`.

    Raises:
        ConfigurationError: there is no file at `path`, or something is wrong.
    """
    if path is not None and not path.is_file():
        raise ConfigurationError(f"there is no configuration file {path}")

    class FileSettings(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=path)

    try:
        return Settings.model_validate(FileSettings(**overrides or {}).model_dump(exclude_unset=True))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    except SettingsError as error:
        raise ConfigurationError(f"the environment: {str(error).partition(' from source')[0]}") from error
    except ValidationError as error:
        raise ConfigurationError("\n".join(map(_line, error.errors()))) from error


def _line(mistake: ErrorDetails) -> str:
    """One mistake in words, without what was given: that may be a secret."""
    # Pydantic would name the class here; who writes TOML knows a table.
    said = "Input should be a table" if mistake["type"] == "model_type" else mistake["msg"]
    return f"{'.'.join(map(str, mistake['loc']))}: {said}"


def _is_log_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port  # looking at it checks it
    except ValueError:
        return False
    scheme, _, _driver = parts.scheme.partition("+")
    # A password with a bare @ would be taken for a part of the host, and said in errors.
    return scheme in {"postgresql", "postgres"} and "://" in url and parts.netloc.count("@") <= 1
