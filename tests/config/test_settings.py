"""The configuration: file, environment, mistakes."""

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel, ValidationError

from coordinator.config.configuration import ConfigurationError, Source, load
from coordinator.config.settings import (
    ListenSettings,
    LogSettings,
    MetricsSettings,
    ParticipantSettings,
    Settings,
)
from coordinator.process.log_cells import cell_places

DEPLOYED = Path(__file__).parents[2] / "deploy" / "tcc.toml"


def test_the_deployed_example_has_the_defaults() -> None:
    settings = load(DEPLOYED)
    inventory = ParticipantSettings(target="dns:///inventory:50051")
    assert settings == Settings(
        log=LogSettings(data_dir=Path("/var/lib/tcc")),
        participants={"inventory": inventory},
    )


def test_the_deployed_example_names_every_setting() -> None:
    told = load(DEPLOYED).model_dump(exclude_unset=True)
    # Files that must exist if they are named: commented out.
    told["listen"]["tls"] = told["participants"]["inventory"]["tls"] = None
    told["participants"]["inventory"]["token_file"] = None
    # Not on by default.
    told["tracing"]["endpoint"] = None
    told["events"] |= {"url": None, "token_file": None, "ca_file": None}
    for table in ("listen", "metrics", "tracing", "events", "limits", "recovery"):
        assert told[table].keys() == Settings().model_dump()[table].keys()
    assert told["participants"]["inventory"].keys() == ParticipantSettings(target="x:1").model_dump().keys()


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
    """Return the mistakes of a configuration, without the name of the file."""
    path = directory / "tcc.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    return [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("worker = 2", "1: worker: unknown key; did you mean 'workers'?"),
        ("[listen]\nlease_s = 2", "2: listen.lease_s: unknown key; did you mean 'recovery.lease_s'?"),
        ("workers = 0", "1: workers: must be an integer from 1 to 64"),
        ("\n[participants.a]\nbatched = true", "2: participants.a.target: is missing"),
        ('[log]\nurls = "x"', "2: log.urls: unknown key; did you mean 'url'?"),
        ("[recovery]\n# so\nlease_s = -1", "3: recovery.lease_s: must be a number from 0.1 to 86400"),
        ("listen = 3", "1: listen: must be a table"),
        (
            '[participants.a]\ntarget = "a:1"\nkeepalive_s = 1',
            "3: participants.a.keepalive_s: must be 0, or at least 2",
        ),
        ("participants = 3", "1: participants: must be a table"),
        (
            "[recovery]\nlease_s = 1",
            "2: recovery.lease_s: lease_s must be at least twice heartbeat_every_s",
        ),
        (
            '[participants.a]\ntarget = "a:1"\nretry_max_s = 0.01',
            "1: participants.a.retry_first_s: retry_first_s must not be more than retry_max_s",
        ),
        (
            '[participants.a]\ntarget = "a"',
            "2: participants.a.target: must be HOST:PORT or dns:///HOST:PORT, or another gRPC target",
        ),
        (
            '[participants.a]\ntarget = "a:1"\ntls = {ca_file = "/no/such"}',
            "3: participants.a.tls.ca_file: cannot read /no/such: No such file or directory",
        ),
        (
            '[listen]\naddress = "0.0.0.0:7091"\n[admin]\nlisten = "127.0.0.1:7091"',
            "4: admin.listen: 127.0.0.1:7091 is already used by listen.address, 0.0.0.0:7091",
        ),
        (
            'workers = 3\n[listen]\naddress = "h:9001"\n[metrics]\nlisten = "h:9000"',
            "5: metrics.listen: h:9001 is already used by listen.address, h:9001",
        ),
        (
            'workers = 2\n[metrics]\nlisten = "h:65535"',
            "3: metrics.listen: needs a port for each of 2 workers, from this one up to 65535",
        ),
    ],
)
def test_a_mistake_is_one_line_with_its_location(tmp_path: Path, text: str, said: str) -> None:
    assert mistakes(tmp_path, text) == [said]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[limits]\npayload_bytes_max = 2000000",
            "2: limits.payload_bytes_max: payload_bytes_max must not be more than transaction_bytes_max",
        ),
        (
            "[limits]\ntransaction_bytes_max = 9000000",
            "listen.request_bytes_max: must be at least 9053440 for the largest transaction",
        ),
        (
            "[listen]\nrequest_bytes_max = 1000000",
            "2: listen.request_bytes_max: must be at least 1102016 for the largest transaction",
        ),
        (
            (
                "[limits]\npayload_bytes_max = 9000000\ntransaction_bytes_max = 9000000\n"
                "[listen]\nrequest_bytes_max = 20000000\n"
                '[participants.p]\ntarget = "a:1"\nrequest_bytes_max = 18000000'
            ),
            "8: participants.p.request_bytes_max: must be at least 18004096 for the largest payload",
        ),
        (
            "[limits]\ntransaction_bytes_max = 1000000000",
            "2: limits.transaction_bytes_max: must be an integer from 0 to 67108864",
        ),
    ],
)
def test_limits_that_contradict_each_other_are_refused(tmp_path: Path, text: str, said: str) -> None:
    assert mistakes(tmp_path, text) == [said]


def test_message_limits_follow_the_limits() -> None:
    """A transaction with the largest payloads and results can be read, and its request be sent."""
    mib = 2**20
    limits = {"payload_bytes_max": 30 * mib, "transaction_bytes_max": 60 * mib, "branches_max": 1_000}
    settings = Settings.model_validate({"limits": limits, "listen": {"request_bytes_max": 64 * mib}})
    assert settings.server_limits().response_bytes_max >= (60 + 60 + 10) * mib
    # An operator's repair carries a payload.
    assert settings.admin_limits().request_bytes_max > 30 * mib
    assert settings.admin_limits().response_bytes_max == settings.server_limits().response_bytes_max


def test_every_mistake_is_reported_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = '[log]\nurls = "x"\n[listen]\ncalls_max = 0\n[participants.p]\ntarget = "a:1"\nbatch_max = 0\n'
    assert mistakes(tmp_path, text) == [
        "2: log.urls: unknown key; did you mean 'url'?",
        "4: listen.calls_max: must be an integer from 1 to 1000000",
        "7: participants.p.batch_max: must be an integer from 1 to 4096",
    ]


def test_a_mistake_in_the_environment_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TCC_LIMITS__LIVE_MAX", "-1")
    monkeypatch.setenv("TCC_RECOVERY", '{"lease_s": 0}')
    said = mistakes(tmp_path, "[limits]\nlive_max = 3")
    assert said == [
        "TCC_LIMITS__LIVE_MAX: limits.live_max: must be an integer from 1 to 1000000",
        "TCC_RECOVERY: recovery.lease_s: must be a number from 0.1 to 86400",
    ]


def plain_settings(
    model: type[BaseModel] = Settings, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], type]]:
    """Every setting that is a number or a flag."""
    for name, field in model.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]
        inner = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
        if inner is not None:
            yield from plain_settings(inner, (*path, name, "n") if str in kinds else (*path, name))
        elif field.annotation in {bool, int, float}:
            yield (*path, name), field.annotation


@pytest.mark.parametrize(
    ("path", "kind"), [pytest.param(path, kind, id=".".join(path)) for path, kind in plain_settings()]
)
def test_a_setting_of_another_type_is_refused(tmp_path: Path, path: tuple[str, ...], kind: type) -> None:
    *tables, key = path
    wanted = {int: "must be an integer from", float: "must be a number from", bool: "must be true or false"}
    for value in ('"1"', "1" if kind is bool else "true"):
        text = f"[{'.'.join(tables)}]\n{key} = {value}" if tables else f"{key} = {value}"
        found = [issue for issue in mistakes(tmp_path, text) if f"{'.'.join(path)}: " in issue]
        assert len(found) == 1
        assert found[0].startswith(f"{2 if tables else 1}: {'.'.join(path)}: {wanted[kind]}")


def test_a_variable_s_text_may_be_a_number_or_a_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TCC_WORKERS", "3")
    monkeypatch.setenv("TCC_PIN_WORKERS", "true")
    monkeypatch.setenv("TCC_RECOVERY", '{"lease_s": 7}')
    assert load(None).workers == 3
    assert load(None).pin_workers
    monkeypatch.setenv("TCC_RECOVERY", '{"lease_s": true}')
    assert mistakes(tmp_path, "") == ["TCC_RECOVERY: recovery.lease_s: must be a number from 0.1 to 86400"]


def test_broken_toml_is_one_line_with_the_location(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "workers = 2\nlisten here") == [
        " Expected '=' after a key in a key/value pair (at line 2, column 8)"
    ]


def test_a_broken_environment_variable_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TCC_LOG", "not a table")
    with pytest.raises(ConfigurationError) as caught:
        load(None)
    assert str(caught.value) == 'the environment: error parsing value for field "log"'


def test_a_configuration_may_come_from_a_device_or_a_pipe(tmp_path: Path) -> None:
    assert load(Path("/dev/null")) == load(None)
    read_end, write_end = os.pipe()
    try:
        os.write(write_end, b"workers = 5")
        os.close(write_end)
        assert load(Path(f"/dev/fd/{read_end}")).workers == 5
        # Nothing is left in it: reading it again would give the defaults.
        with pytest.raises(ConfigurationError, match="a pipe cannot be read again"):
            Source(path=Path(f"/dev/fd/{read_end}")).read_again()
    finally:
        os.close(read_end)
    regular = tmp_path / "tcc.toml"
    regular.write_text("workers = 6")
    assert Source(path=regular).read_again().settings.workers == 6


def test_a_path_that_is_no_file_is_named_as_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="a directory cannot be read"):
        load(tmp_path)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        with pytest.raises(ConfigurationError, match="a socket cannot be read"):
            load(tmp_path / "socket")


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not exist"):
        load(tmp_path / "tcc.toml")


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:65535", "[::1]:50050", "coordinator.local:1"])
def test_an_address_is_host_and_port(address: str) -> None:
    assert load(None, {"listen": {"address": address}, "insecure": True}).listen.address == address


def test_one_port_at_different_addresses_is_not_the_same_place() -> None:
    listeners = {"listen": {"address": "10.0.0.1:7091"}, "metrics": {"listen": "10.0.0.2:7091"}}
    settings = load(None, {"insecure": True, **listeners})
    assert settings.admin_address() == "127.0.0.1:7091"


@pytest.mark.parametrize("address", ["", "50050", ":50050", "h:", "h:65536", "h:-1", "h:http", "::1:50050"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(None, {"listen": {"address": address}})
    assert str(caught.value) == "command line: listen.address: must be HOST:PORT, with a port from 0 to 65535"


@pytest.mark.parametrize("target", ["a:1", "dns:///a.b:1", "dns://8.8.8.8/a:1", "[::1]:1", "unix:/run/a"])
def test_a_target_is_a_grpc_target(target: str) -> None:
    assert ParticipantSettings(target=target).address().target == target


@pytest.mark.parametrize(
    "target", ["", "a", "a:0", "dns:///a", "http://a:1", "dns:///a:70000", "a b:1", "ipv4:1.2.3.4:70000"]
)
def test_what_is_no_target_is_refused(target: str) -> None:
    with pytest.raises(ValidationError):
        ParticipantSettings(target=target)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:secret@h:5432/d",
        "postgresql+psycopg://h/d",
        "postgresql://u@/d?host=%2Frun%2Fpostgresql",
        "postgresql://u:secret@a:5432,b:5433/d?target_session_attrs=read-write",
        "postgresql://u:secret@a,[::1]:5433/d",
        "postgresql:///d?host=a,b&port=5432,5433&target_session_attrs=primary",
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
        "postgresql://u:secret@a:5432,b:port/d",
    ],
)
def test_a_malformed_log_url_is_refused_and_not_printed(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(None, {"log": {"url": url}})
    assert str(caught.value) == "command line: log.url: must be postgresql://USER:PASSWORD@HOST:PORT/DATABASE"


A, B = "postgresql://a/d", "postgresql://b/d"


def test_each_cell_is_at_a_server_or_at_the_url() -> None:
    log = load(
        None, {"log": {"url": A, "cells": 8, "servers": [{"url": B, "owner_url": B, "cells": "2-3,7"}]}}
    ).log
    places = cell_places(log, A)
    assert [place.url for place in places] == [A, A, B, B, A, A, A, B]
    assert [place.owner_url for place in places] == [None, None, B, B, None, None, None, B]
    assert [place.schema for place in places[:3]] == ["tcc", "tcc_1", "tcc_2"]


@pytest.mark.parametrize(
    ("table", "issue"),
    [
        ({"cells": 2, "servers": [{"url": B, "cells": "2"}]}, "a cell is beyond the last one, 1 (cells = 2)"),
        ({"cells": 4, "servers": [{"url": B, "cells": "0-1,1"}]}, "cell 1 is at two servers: b/d and b/d"),
        (
            {
                "cells": 4,
                "servers": [
                    {"url": B, "cells": "0-2"},
                    {"url": "postgresql://me:word@c:5433/d?sslmode=require", "cells": "3,2"},
                ],
            },
            "cell 2 is at two servers: b/d and c:5433/d",
        ),
    ],
)
def test_cells_that_are_nowhere_or_twice_are_refused(table: dict[str, object], issue: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(issue)):
        load(None, {"log": {"url": A, **table}})


def test_without_a_url_every_cell_needs_a_server() -> None:
    servers = [{"url": A, "cells": "0"}, {"url": B, "cells": "1"}]
    assert not load(None, {"log": {"cells": 2, "servers": servers}}).log.is_embedded
    with pytest.raises(ConfigurationError, match="some cells are at none of the servers"):
        load(None, {"log": {"cells": 2, "servers": servers[:1]}})


def test_a_reload_moves_cells_but_does_not_change_their_number() -> None:
    before = load(None, {"log": {"url": A, "cells": 2}})
    moved = load(None, {"log": {"url": A, "cells": 2, "servers": [{"url": B, "cells": "1"}]}})
    assert before.reloaded(moved).log.servers == moved.log.servers
    more = load(None, {"log": {"url": A, "cells": 3, "servers": [{"url": B, "cells": "1"}]}})
    assert before.reloaded(more).log == before.log


@pytest.mark.parametrize("wanted", ["standby", "read-only", "prefer-standby"])
def test_a_log_url_that_asks_for_a_standby_is_refused(wanted: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(None, {"log": {"url": f"postgresql://u@a,b/d?target_session_attrs={wanted}"}})
    assert str(caught.value) == "command line: log.url: asks for a standby, but the log needs the primary"


@pytest.mark.parametrize("password", ["50%secret", "secret%", "%zzsecret"])
def test_a_bare_percent_sign_in_the_log_url_is_refused_and_not_printed(password: str) -> None:
    """The database driver's own error would contain the password."""
    with pytest.raises(ConfigurationError) as caught:
        load(None, {"log": {"url": f"postgresql://u:{password}@h/d"}})
    assert str(caught.value) == "command line: log.url: contains a bare %; write it as %25"


@pytest.mark.parametrize("endpoint", ["http://collector:4317", "https://[::1]:4317"])
def test_traces_go_to_a_collector(endpoint: str) -> None:
    assert load(None, {"tracing": {"endpoint": endpoint}}).tracing.endpoint == endpoint


@pytest.mark.parametrize(
    "endpoint", ["", "collector:4317", "http://collector", "http://a:0", "http://a:1/v1"]
)
def test_what_is_no_collector_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(None, {"tracing": {"endpoint": endpoint}})
    said = "command line: tracing.endpoint: must be http://HOST:PORT, or https://HOST:PORT for TLS"
    assert str(caught.value) == said


def test_the_command_line_overrides_single_settings(tmp_path: Path) -> None:
    path = tmp_path / "tcc.toml"
    path.write_text('insecure = true\n[listen]\naddress = "h:1"\ncalls_max = 7')
    settings = load(path, {"listen": {"address": "h:2"}, "workers": 3})
    assert (settings.listen, settings.workers) == (ListenSettings(address="h:2", calls_max=7), 3)


def test_secrets_are_not_printed() -> None:
    assert "secret" not in repr(load(None, {"log": {"url": "postgresql://u:secret@h/d"}}))


@pytest.mark.parametrize("url", ["ftp://h/x", "h/x", "https://", ""])
def test_a_webhook_is_http_and_is_not_printed(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(None, {"alerts": {"webhook_url": url}})
    assert str(caught.value) == "command line: alerts.webhook_url: must be an http:// or https:// URL"


def test_workers_have_ports_side_by_side() -> None:
    assert [MetricsSettings(listen="h:9").bind_address(slot) for slot in (0, 2)] == [("h", 9), ("h", 11)]
    assert MetricsSettings(listen="h:0").bind_address(2) == ("h", 0)


def described(table: type[BaseModel], at: str = "") -> dict[str, str | None]:
    """Return the description of every setting that is no table, by its place."""
    found: dict[str, str | None] = {}
    for name, field in table.model_fields.items():
        kinds = [each for each in (field.annotation, *get_args(field.annotation)) if isinstance(each, type)]
        tables = [kind for kind in kinds if issubclass(kind, BaseModel)]
        for inner in tables:
            found |= described(inner, f"{at}{name}.")
        if not tables:
            found[f"{at}{name}"] = field.description
    return found


def test_every_setting_has_a_description() -> None:
    found = described(Settings)
    assert {"workers", "log.url", "listen.tls.key_file", "participants.target"} <= found.keys()
    assert [place for place, description in found.items() if not description] == []


EVENTS_REFUSED = {
    "plain text to another machine": (
        {"url": "http://archive.example/"},
        "must be an https:// URL, or an http:// URL on loopback",
    ),
    "another scheme": ({"url": "ftp://localhost/"}, "must be an https:// URL"),
    "no host": ({"url": "https:///tcc"}, "must be an https:// URL"),
    "no receiver for a token": ({"token_file": "/dev/null"}, "token_file requires url"),
    "no type": ({"participant": "stock", "types": []}, "at least one is required"),
    "an unknown type": ({"participant": "stock", "types": ["ended"]}, "events.types"),
    "an unknown participant": ({"participant": "stocks"}, "there is no [participants.stocks]"),
}


@pytest.mark.parametrize(("table", "expected"), EVENTS_REFUSED.values(), ids=EVENTS_REFUSED)
def test_events_that_cannot_be_published_are_refused(table: dict[str, object], expected: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"events": table, "participants": {"stock": {"target": "stock:1"}}})
    text = str(caught.value)
    assert expected in text, text


@pytest.mark.parametrize(
    "url", ["https://archive.example/tcc", "http://127.0.0.1:8080/", "http://[::1]/", "http://localhost"]
)
def test_events_go_over_https_or_loopback(url: str) -> None:
    assert Settings.model_validate({"events": {"url": url}}).events.is_on


def test_events_need_transactions_that_are_kept_for_an_hour() -> None:
    table = {"events": {"url": "https://archive.example"}, "log": {"retention_s": 3599}}
    with pytest.raises(ValidationError, match="must be at least 3600 with"):
        Settings.model_validate(table)
    assert not Settings.model_validate({"log": {"retention_s": 3599}}).events.is_on
