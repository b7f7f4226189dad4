"""deploy/compose.yaml: all that it configures exists. Docker runs none of it here."""

import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from coordinator.config.configuration import read
from coordinator.config.settings import Settings
from coordinator.config.variables import unknown_variables
from participants.serving import arguments

DEPLOY = Path(__file__).parents[1] / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PARTICIPANTS = ("inventory", "coupon", "order")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    directory = tmp_path_factory.mktemp("certificates")
    issue = ["sh", DEPLOY / "compose" / "issue.sh", directory]
    for _ in range(2):  # a second start changes nothing
        subprocess.run(issue, check=True, capture_output=True)
    return directory


def mounts() -> Iterator[tuple[str, str]]:
    """Return what is mounted: a file below deploy, or a volume, and where."""
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source, target, *_ = volume.split(":")
            yield source, target


def test_everything_that_is_mounted_exists() -> None:
    for source, _ in mounts():
        assert source in COMPOSE["volumes"] or (DEPLOY / source).is_file(), source


def test_what_is_waited_for_and_built_exists() -> None:
    for service in SERVICES.values():
        assert service.get("depends_on", {}).keys() <= SERVICES.keys()
        # An image without a version is on no registry.
        assert ("build" in service) != (":" in service["image"])
        if "build" in service:
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


@pytest.mark.parametrize("name", ["coordinator-1", "coordinator-2"])
def test_the_coordinators_have_settings_that_exist(
    name: str, certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = SERVICES[name]["environment"]
    assert list(unknown_variables(Settings, environment)) == []
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    text = (DEPLOY / "compose" / "tcc.toml").read_text()
    (tmp_path / "tcc.toml").write_text(text.replace("/certificates/", f"{certificates}/"))
    settings = read(tmp_path / "tcc.toml").settings
    assert settings.log.url is not None
    for participant, its in settings.participants.items():
        host, _, port = its.target.partition(":")
        assert (host, host in SERVICES) == (participant, True)
        assert f"--listen=0.0.0.0:{port}" in SERVICES[host]["command"]
    assert settings.participants.keys() == set(PARTICIPANTS)
    assert f"127.0.0.1:{settings.metrics.listen.rpartition(':')[2]}/readyz" in str(
        SERVICES[name]["healthcheck"]
    )


@pytest.mark.parametrize("name", PARTICIPANTS)
def test_the_participants_are_called_by_the_coordinator_alone(name: str, certificates: Path) -> None:
    module, *rest = SERVICES[name]["command"]
    options = arguments(None).parse_args(rest)
    assert module == name
    assert options.database.endswith(f"@postgres:5432/{name}")
    assert (options.caller, options.insecure) == (["spiffe://shop.example/tccd"], False)
    for path in (options.certificate_file, options.key_file, options.ca_file):
        assert (certificates / Path(path).name).is_file()


def test_the_checkout_may_call_the_actions_that_the_participants_have() -> None:
    calls = tomllib.loads((DEPLOY / "compose" / "tcc.toml").read_text())["clients"]["checkout"]["calls"]
    for name, actions in calls.items():
        source = (DEPLOY.parent / "participants" / name / "service.py").read_text()
        assert all(f'"{action}"' in source for action in actions), name


def test_prometheus_asks_each_coordinator() -> None:
    settings = yaml.safe_load((DEPLOY / "compose" / "prometheus.yaml").read_text())
    [scraped] = settings["scrape_configs"][0]["static_configs"]
    coordinators = {name for name in SERVICES if name.startswith("coordinator-")}
    assert {target.partition(":")[0] for target in scraped["targets"]} == coordinators
    targets = {target for _, target in mounts()}
    assert set(settings["rule_files"]) <= targets
