"""The configuration: file, environment, mistakes."""

from pathlib import Path

import pytest

from coordinator.settings import (
    ConfigurationError,
    ListenSettings,
    LogSettings,
    ParticipantSettings,
    Settings,
    load,
)

DEPLOYED = Path(__file__).parent.parent / "deploy" / "tcc.toml"


def test_the_deployed_example_says_the_defaults() -> None:
    settings = load(DEPLOYED)
    inventory = ParticipantSettings(target="dns:///inventory:50051")
    assert settings == Settings(
        listen=ListenSettings(address="0.0.0.0:50050"),
        log=LogSettings(data_dir=Path("/var/lib/tcc")),
        participants={"inventory": inventory},
    )


def test_the_deployed_example_names_every_setting() -> None:
    told = load(DEPLOYED).model_dump(exclude_unset=True)
    for table in ("listen", "limits", "recovery"):
        assert told[table].keys() == Settings().model_dump()[table].keys()
    assert told["participants"]["inventory"].keys() == ParticipantSettings(target="x").model_dump().keys()


def test_the_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tcc.toml"
    path.write_text('[log]\nurl = "postgresql://file/x"\n[participants.a]\ntarget = "a:1"\n')
    monkeypatch.setenv("TCC_LOG__URL", "postgresql://environment/x")
    monkeypatch.setenv("TCC_PARTICIPANTS__A__CALL_TIMEOUT_S", "7")
    settings = load(path)
    assert settings.log.url is not None
    assert settings.log.url.get_secret_value() == "postgresql://environment/x"
    assert settings.participants["a"] == ParticipantSettings(target="a:1", call_timeout_s=7)


def mistakes(directory: Path, text: str) -> list[str]:
    """What is said about a configuration that is wrong."""
    path = directory / "tcc.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("worker = 2", "worker: Extra inputs are not permitted"),
        ("workers = 0", "workers: Input should be greater than or equal to 1"),
        ("[participants.a]\nbatched = true", "participants.a.target: Field required"),
        ('[log]\nurls = "x"', "log.urls: Extra inputs are not permitted"),
        ("[recovery]\nlease_s = -1", "recovery.lease_s: Input should be greater than 0"),
        ("listen = 3", "listen: Input should be a table"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    assert mistakes(tmp_path, text) == [said]


def test_every_mistake_has_its_line(tmp_path: Path) -> None:
    said = mistakes(tmp_path, 'worker = 2\n[log]\nurls = "x"')
    assert said == ["log.urls: Extra inputs are not permitted", "worker: Extra inputs are not permitted"]


def test_broken_toml_is_one_line_with_the_place(tmp_path: Path) -> None:
    (said,) = mistakes(tmp_path, "workers = 2\nlisten here")
    assert said.startswith(f"{tmp_path / 'tcc.toml'}: ")
    assert said.endswith("(at line 2, column 8)")


def test_a_broken_environment_variable_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TCC_LOG", "not a table")
    with pytest.raises(ConfigurationError) as caught:
        load(None)
    assert str(caught.value) == 'the environment: error parsing value for field "log"'


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no configuration file"):
        load(tmp_path / "tcc.toml")


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:65535", "[::1]:50050", "coordinator.local:1"])
def test_an_address_is_host_and_port(address: str) -> None:
    assert load(None, {"listen": {"address": address}}).listen.address == address


@pytest.mark.parametrize("address", ["", "50050", ":50050", "h:", "h:65536", "h:-1", "h:http", "::1:50050"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(None, {"listen": {"address": address}})
    assert str(caught.value) == "listen.address: must be HOST:PORT, with a port from 0 to 65535"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:secret@h:5432/d",
        "postgresql+psycopg://h/d",
        "postgresql://u@/d?host=%2Frun%2Fpostgresql",
    ],
)
def test_the_log_is_postgresql(url: str) -> None:
    log = load(None, {"log": {"url": url}}).log
    assert log.url is not None
    assert log.url.get_secret_value() == url


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:secret@h/d",
        "secret",
        "postgresql:secret",
        "postgresql://u:secret@h:port/d",
        "postgresql://u:se@cret@h/d",
        "postgresql://u:secret@[h/d",
    ],
)
def test_a_malformed_log_url_is_refused_and_not_said(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(None, {"log": {"url": url}})
    assert str(caught.value) == "log.url: must be postgresql://USER:PASSWORD@HOST:PORT/DATABASE"


def test_the_command_line_overrides_single_settings(tmp_path: Path) -> None:
    path = tmp_path / "tcc.toml"
    path.write_text('[listen]\naddress = "h:1"\ncalls_max = 7')
    settings = load(path, {"listen": {"address": "h:2"}, "workers": 3})
    assert (settings.listen, settings.workers) == (ListenSettings(address="h:2", calls_max=7), 3)


def test_secrets_are_not_printed() -> None:
    assert "secret" not in repr(load(None, {"log": {"url": "postgresql://u:secret@h/d"}}))
