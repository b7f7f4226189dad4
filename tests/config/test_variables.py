"""Environment variables that no setting reads."""

import pytest

from coordinator.config.configuration import ConfigurationError, load
from coordinator.config.settings import Settings
from coordinator.config.variables import unknown_variables, variables


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("TCC_LOG_URL", "TCC_LOG__URL"),
        ("tcc_log_url", "TCC_LOG__URL"),
        ("TCC_WORKER", "TCC_WORKERS"),
        ("TCC_WORKERS__MAX", "TCC_WORKERS"),
        ("TCC_LISTEN_ADDRESS", "TCC_LISTEN__ADDRESS"),
        ("TCC_PARTICIPANTS_STOCK_TARGET", "TCC_PARTICIPANTS__NAME__TARGET"),
        ("TCC_PARTICIPANT__NAME__TARGET", "TCC_PARTICIPANTS__NAME__TARGET"),
        ("TCC_RECOVERY_LEASE_S", "TCC_RECOVERY__LEASE_S"),
        # No service link: the value is no address.
        ("TCC_ADMIN_LISTEN_PORT", "TCC_ADMIN__LISTEN"),
    ],
)
def test_an_unknown_variable_is_an_error_that_names_the_nearest(
    name: str, nearest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigurationError) as caught:
        load(None)
    assert str(caught.value) == f"{name}: unknown variable; did you mean {nearest}?"


def test_a_variable_like_no_other_is_an_error_without_a_suggestion() -> None:
    assert dict(unknown_variables(Settings, {"TCC_QQQQQQQQQQ": ""})) == {"TCC_QQQQQQQQQQ": "unknown variable"}


def test_every_mistake_is_reported_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TCC_LOG_URL", "postgresql://h/d")
    monkeypatch.setenv("TCC_WORKERS", "0")
    with pytest.raises(ConfigurationError) as caught:
        load(None)
    assert [issue.location for issue in caught.value.issues] == ["TCC_LOG_URL", "TCC_WORKERS"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TCC_TEST_DATABASE", "x"),
        # Kubernetes sets these for a service named tcc, and for one named tcc-coordinator.
        ("TCC_SERVICE_HOST", "10.0.0.1"),
        ("TCC_SERVICE_PORT", "50050"),
        ("TCC_COORDINATOR_SERVICE_PORT_GRPC", "50050"),
        ("TCC_PORT", "tcp://10.0.0.1:50050"),
        ("TCC_COORDINATOR_PORT_50050_TCP", "tcp://10.0.0.1:50050"),
        ("TCC_COORDINATOR_PORT_50050_TCP_ADDR", "10.0.0.1"),
        # Other programs' variables.
        ("TCCCTL_ADDRESS", "127.0.0.1:7091"),
        ("PATH", "/bin"),
    ],
)
def test_what_is_not_ours_is_allowed(name: str, value: str) -> None:
    assert not list(unknown_variables(Settings, {name: value}))


def test_every_setting_has_a_variable() -> None:
    found = list(variables(Settings))
    assert {"TCC_WORKERS", "TCC_LOG", "TCC_LOG__URL", "TCC_LISTEN__TLS__KEY_FILE"} < set(found)
    assert "TCC_PARTICIPANTS__NAME__TLS__CA_FILE" in found
    assert not list(unknown_variables(Settings, dict.fromkeys(found, "")))
