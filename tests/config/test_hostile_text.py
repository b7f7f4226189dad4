"""Control characters and other surprises in the configuration file, its values and its path."""

from pathlib import Path

import pytest

from coordinator.config.configuration import ConfigurationError, load

HOSTILE = ["\0", "\n", "\x1b[31m", "\x9b", "\ufeff", "\u202e", "\u2028"]


@pytest.mark.parametrize("character", HOSTILE)
@pytest.mark.parametrize(
    "text",
    [
        '[log]\ndata_dir = "a{}b"',
        '[log]\nurl = "postgresql://u:se{}cret@h/d"',
        '[listen]\naddress = "h{}:1"',
        '[listen]\ntls = {{ certificate_file = "a{}b", key_file = "/dev/null" }}',
        '[alerts]\nwebhook_url = "http://h/{}"',
        '[tracing]\nservice_name = "a{}b"',
        '[participants.stock]\ntarget = "unix:/run/{}"',
        '[participants."a{}b"]\ntarget = "h:1"',
        '[log]\n"a{}b" = 1',
    ],
)
def test_a_control_character_is_one_line_without_effect_on_a_terminal(
    tmp_path: Path, text: str, character: str
) -> None:
    escaped = "".join(f"\\u{ord(one):04x}" for one in character)
    path = tmp_path / "tcc.toml"
    path.write_text(text.format(escaped))
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:")
    assert message.isprintable()
    assert "cret" not in message


@pytest.mark.parametrize("character", ["\0", "\x1b", "\x7f"])
def test_a_raw_control_character_in_the_file_is_named(tmp_path: Path, character: str) -> None:
    path = tmp_path / "tcc.toml"
    path.write_text(f"workers = 2 # {character}\n")
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    assert str(caught.value).isprintable()
    assert "(at line 1, column 15)" in str(caught.value)


def test_a_byte_order_mark_at_the_start_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "tcc.toml"
    path.write_bytes(b"\xef\xbb\xbfworkers = 3\n")
    assert load(path).workers == 3


def test_bytes_that_are_no_text_are_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "tcc.toml"
    path.write_bytes(b"workers = 3 # \xff\n")
    with pytest.raises(ConfigurationError, match="can't decode byte 0xff"):
        load(path)


def test_tables_nested_too_deeply_are_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "tcc.toml"
    path.write_text(f"a = {'[' * 5_000}\n")
    with pytest.raises(ConfigurationError, match="recursion"):
        load(path)


def test_a_control_character_in_a_path_is_escaped(tmp_path: Path) -> None:
    for path in (tmp_path / "no\x1b[31m.toml", Path("a\0b")):
        with pytest.raises(ConfigurationError) as caught:
            load(path)
        assert str(caught.value).isprintable()


def test_a_control_character_in_the_environment_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TCC_LOG__URL", "postgresql://u:secret@h/d\n")
    with pytest.raises(ConfigurationError) as caught:
        load(None)
    assert str(caught.value) == "TCC_LOG__URL: log.url: must not contain the control character U+000A"


def test_a_participant_needs_a_name(tmp_path: Path) -> None:
    path = tmp_path / "tcc.toml"
    path.write_text('[participants.""]\ntarget = "h:1"\n')
    with pytest.raises(ConfigurationError, match="the name of a participant must not be empty"):
        load(path)
