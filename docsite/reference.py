"""The reference pages that are generated from the code: each function returns Markdown."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
from google.protobuf.descriptor import (
    Descriptor,
    EnumDescriptor,
    FieldDescriptor,
    FileDescriptor,
    MethodDescriptor,
)
from pydantic import AwareDatetime, BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).parents[1]


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Return a text as the cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def _code(text: str) -> str:
    return f"`{text}`"


# --- configuration --------------------------------------------------------


def configuration() -> str:
    """Return all settings, table by table."""
    from coordinator.config.settings import Settings  # noqa: PLC0415 - each page imports what it shows

    return "\n\n".join(_settings(Settings, "", "These keys stand above all tables."))


def _settings(table: type[BaseModel], place: str, explanation: str) -> Iterator[str]:
    """Yield the section of a table of settings, and those of the tables in it."""
    fields, inner = [], []
    for name, field in table.model_fields.items():
        nested = _nested(field)
        if nested is None:
            fields.append(_setting(place, name, field))
        else:
            by_name = "NAME." if get_origin(field.annotation) is dict else ""
            text = field.description or _first_paragraph(nested.__doc__ or "")
            inner.append((nested, f"{place}{name}.{by_name}", text))
    heading = f"[{place.rstrip('.')}]" if place else "Top level"
    columns = ("key", "type", "default", "meaning, environment variable")
    yield f"## {heading}\n\n{explanation}\n\n{_table(columns, fields)}"
    for nested, at, text in inner:
        yield from _settings(nested, at, text)


def _nested(field: FieldInfo) -> type[BaseModel] | None:
    kinds = _kinds(field.annotation)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _kinds(annotation: object) -> Iterator[object]:
    """Yield a type and everything that it is made of: of `Path | None`, Path and None, too."""
    yield annotation
    for part in get_args(annotation):
        yield from _kinds(part)


def _setting(place: str, name: str, field: FieldInfo) -> tuple[str, ...]:
    variable = "TCC_" + f"{place}{name}".upper().replace(".", "__")
    return (
        _code(name),
        _type(field),
        _default(field),
        f"{_cell(field.description or '')}<br>{_code(variable)}",
    )


_TYPES = {
    bool: "true or false",
    int: "integer",
    float: "number",
    str: "text",
    Path: "path",
    SecretStr: "text",
    AwareDatetime: "date and time with an offset",
}
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def _type(field: FieldInfo) -> str:
    kinds = list(_kinds(field.annotation))
    choices = [
        _code(f'"{value}"') for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)
    ]
    names = [name for kind in kinds for each, name in _TYPES.items() if kind is each] or [
        " or ".join(choices)
    ]
    bounds = [
        f"{sign} {_number(getattr(each, name))}"
        for each in field.metadata
        for name, sign in _BOUNDS.items()
        if hasattr(each, name)
    ]
    return _cell(", ".join([names[0], *bounds]))


def _number(value: float) -> str:
    return f"{value:,}".removesuffix(".0")


def _default(field: FieldInfo) -> str:
    match field.default:
        case _ if field.default is PydanticUndefined:
            return "required"
        case None:
            return "not set"
        case bool(value):
            return _code(str(value).lower())
        case Path() | str():
            return _code(f'"{field.default}"')
        case value:
            return _code(str(value))


# --- metrics --------------------------------------------------------------


def metrics() -> str:
    """Return all metrics: counters, histograms and gauges."""
    from coordinator.observability.metrics import COUNTERS, GAUGES, HISTOGRAMS  # noqa: PLC0415 - as above

    sections = []
    for title, specs, suffix in (
        ("Counters", COUNTERS, "_total"),
        ("Histograms", HISTOGRAMS, ""),
        ("Gauges", GAUGES, ""),
    ):
        rows = [
            (
                _code(spec.name + suffix),
                ", ".join(map(_code, spec.labels)),
                _cell(spec.explanation),
            )
            for spec in specs
        ]
        sections.append(f"## {title}\n\n{_table(('name', 'labels', 'meaning'), rows)}")
    return "\n\n".join(sections)


# --- command lines --------------------------------------------------------


def commands() -> str:
    """Return all commands of `tccd` and `tccctl`."""
    from coordinator.process.cli import app as tccd  # noqa: PLC0415 - as above
    from tccctl.cli import app as tccctl  # noqa: PLC0415 - as above

    return "\n\n".join([*_program("tccd", tccd), *_program("tccctl", tccctl)])


def _program(name: str, app: typer.Typer) -> Iterator[str]:
    command: Any = typer.main.get_command(app)
    context = command.context_class(command, info_name=name)
    leaves = list(_leaves(command, context))
    options = [dict(_records(leaf, at)) for leaf, at in leaves]
    common = {term: text for term, text in options[0].items() if all(term in each for each in options)}
    yield f"## {name}\n\n{_paragraphs(command.help)}"
    epilog = _paragraphs(command.epilog)
    if epilog:
        yield epilog
    if common:
        yield f"Every command takes these options:\n\n{_records_table(common)}"
    for (leaf, at), records in zip(leaves, options, strict=True):
        own = {term: text for term, text in records.items() if term not in common}
        usage = leaf.get_usage(at).removeprefix("Usage: ")
        parts = [f"### {at.command_path}", f"```text\n{usage}\n```", _paragraphs(leaf.help)]
        if own:
            parts.append(_records_table(own))
        parts.append(_paragraphs(leaf.epilog))
        yield "\n\n".join(filter(None, parts))


def _leaves(command: Any, context: Any) -> Iterator[tuple[Any, Any]]:
    """Yield all commands that are no groups, each with its context."""
    if not hasattr(command, "list_commands"):
        yield command, context
        return
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        yield from _leaves(inner, inner.context_class(inner, info_name=name, parent=context))


def _records(command: Any, context: Any) -> Iterator[tuple[str, str]]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and "--help" not in record[0]:
            yield record


def _records_table(records: Mapping[str, str]) -> str:
    rows = [(_code(_cell(term)), _prose(_cell(text))) for term, text in records.items()]
    return _table(("argument or option", "meaning"), rows)


def _paragraphs(text: str | None) -> str:
    """Return a help text: indented lines are code, as the command shows them."""
    parts = re.split(r"\n\s*\n", (text or "").strip("\n"))
    return "\n\n".join(
        _code(part.strip()) if part.startswith("  ") else _prose(" ".join(part.split())) for part in parts
    )


def _prose(text: str) -> str:
    """Return a text in which nothing but code in backquotes is markup."""
    return re.sub(r"(`[^`]*`)|([*_<\[])", lambda found: found[1] or f"&#{ord(found[2])};", text)


# --- protos ---------------------------------------------------------------


def protos() -> str:
    """Return the contract: services, messages and enums with their comments."""
    from tcc.admin.v1 import admin_pb2  # noqa: PLC0415 - as above
    from tcc.common.v1 import common_pb2  # noqa: PLC0415 - as above
    from tcc.participant.v1 import participant_pb2  # noqa: PLC0415 - as above
    from tcc.transaction.v1 import transaction_pb2  # noqa: PLC0415 - as above

    modules = (transaction_pb2, participant_pb2, admin_pb2, common_pb2)
    return "\n\n".join(section for module in modules for section in _proto_file(module.DESCRIPTOR))


def _proto_file(file: FileDescriptor) -> Iterator[str]:
    comments = proto_comments((ROOT / "protos" / file.name).read_text())
    yield f"## {file.package}\n\n{comments.get('', '')}\n\nSource: `protos/{file.name}`."
    for service in file.services_by_name.values():
        rows = [_method(method, comments) for method in service.methods]
        table = _table(("method", "meaning, request and response"), rows)
        yield f"### {service.name}\n\n{comments.get(service.name, '')}\n\n{table}"
    for message in file.message_types_by_name.values():
        yield _message(message, comments)
    for enum in file.enum_types_by_name.values():
        yield _enum(enum, comments)


def _method(method: MethodDescriptor, comments: Mapping[str, str]) -> tuple[str, ...]:
    key = f"{method.containing_service.name}.{method.name}"
    stream = "stream of " if method.server_streaming else ""
    messages = f"{_type_link(method.input_type)} → {stream}{_type_link(method.output_type)}"
    return _code(method.name), f"{_cell(comments.get(key, ''))}<br>{messages}"


def _message(message: Descriptor, comments: Mapping[str, str]) -> str:
    heading = f"### {message.name} {{ #{_anchor(message)} }}\n\n{comments.get(message.name, '')}"
    rows = [
        (_code(each.name), str(each.number), _field_type(each), _field_meaning(each, message, comments))
        for each in message.fields
    ]
    table = _table(("field", "number", "type", "meaning"), rows) if rows else "It has no fields."
    nested = [_enum(each, comments, f"{message.name}.") for each in message.enum_types]
    return "\n\n".join([heading, table, *nested])


def _field_meaning(each: FieldDescriptor, message: Descriptor, comments: Mapping[str, str]) -> str:
    text = _cell(comments.get(f"{message.name}.{each.name}", ""))
    if each.containing_oneof is not None and not each.containing_oneof.name.startswith("_"):
        return f"One of `{each.containing_oneof.name}`. {text}".strip()
    return text


def _enum(enum: EnumDescriptor, comments: Mapping[str, str], prefix: str = "") -> str:
    rows = [
        (_code(value.name), str(value.number), _cell(comments.get(f"{prefix}{enum.name}.{value.name}", "")))
        for value in enum.values
    ]
    heading = f"### {enum.name} {{ #{_anchor(enum)} }}\n\n{comments.get(prefix + enum.name, '')}"
    return f"{heading}\n\n{_table(('value', 'number', 'meaning'), rows)}"


def _anchor(kind: Descriptor | EnumDescriptor) -> str:
    return kind.full_name.lower().replace(".", "-")


def _type_link(kind: Descriptor | EnumDescriptor) -> str:
    return f"[{kind.name}](#{_anchor(kind)})" if kind.full_name.startswith("tcc.") else _code(kind.full_name)


def _field_type(each: FieldDescriptor) -> str:
    if each.message_type is not None and each.message_type.GetOptions().map_entry:
        key, value = each.message_type.fields
        return f"map of {_field_type(key)} to {_field_type(value)}"
    kind = each.message_type or each.enum_type
    name = _type_link(kind) if kind is not None else _SCALARS[each.type]
    return f"repeated {name}" if each.is_repeated else name


_SCALARS = {
    getattr(FieldDescriptor, name): name.removeprefix("TYPE_").lower()
    for name in vars(FieldDescriptor)
    if name.startswith("TYPE_")
}

_BLOCK = re.compile(r"(?:service|message|enum|oneof) (\w+) \{")
_ENTRY = re.compile(r"(?:rpc (\w+)\(|(?:optional |repeated )?[\w.<>, ]*?\b(\w+) = \d+)")


def proto_comments(source: str) -> dict[str, str]:
    """Return the comments of a .proto file by what they stand above: `Message.field`; '' for the file.

    protoc leaves comments out of the generated code.
    """
    found: dict[str, str] = {}
    comment: list[str] = []
    within: list[str] = []
    for line in map(str.strip, source.splitlines()):
        if line.startswith("//"):
            comment.append(line.removeprefix("//").strip())
            continue
        key = None
        block = _BLOCK.match(line)
        if line.startswith("package "):
            key = ""
        elif block:
            is_oneof = line.startswith("oneof")
            # The fields of a oneof are fields of its message.
            within.append("" if is_oneof else block[1])
            key = None if is_oneof else ".".join(filter(None, within))
        elif entry := _ENTRY.match(line):
            key = ".".join([*filter(None, within), entry[1] or entry[2]])
        if key is not None and comment:
            found[key] = "\n".join(comment)
        comment = []
        if line == "}" or (block and line.endswith("}")):
            within.pop()
    return found


def _first_paragraph(text: str) -> str:
    return " ".join(text.split("\n\n", maxsplit=1)[0].split())


# By the names that the pages use.
GENERATED = {
    "commands": commands,
    "configuration": configuration,
    "metrics": metrics,
    "protos": protos,
}
