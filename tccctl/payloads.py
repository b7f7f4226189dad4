"""Payloads and Try results as values: JSON, and protobuf messages that descriptor sets describe.

Redaction is by path, and a path needs a decoded value. If paths are configured, a payload
that cannot be decoded is therefore not shown at all.
"""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError, Message

from tccctl.failures import UsageFailure
from tccctl.redaction import redacted

_TYPE_PARAMETERS = ("type", "messagetype", "proto")


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadReader:
    """Decode and redact payloads.

    - `messages`: the full message name by "participant/action", and by
    "participant/action/result" for the result of its Try.
    - `redact`: paths, see `tccctl.redaction`.
    """

    types: Mapping[str, type[Message]]
    messages: Mapping[str, str]
    redact: Sequence[str]

    def read(self, data: bytes, content_type: str, *, key: str) -> Any:
        """Return a JSON-like value. `messages` is looked up by `key`. Return None for an empty payload."""
        if not data:
            return None
        try:
            return redacted(self._decoded(data, content_type, key), self.redact)
        except (DecodeError, ValueError, RecursionError):
            return self._opaque(data, content_type)

    def _decoded(self, data: bytes, content_type: str, key: str) -> Any:
        name = self.messages.get(key) or _named_type(content_type)
        kind = self.types.get(name or "")
        if kind is not None and not _is_json(content_type):
            return json_format.MessageToDict(kind.FromString(data), preserving_proto_field_name=True)
        return json.loads(data)

    def _opaque(self, data: bytes, content_type: str) -> dict[str, Any]:
        described: dict[str, Any] = {"content_type": content_type or None, "bytes": len(data)}
        if not self.redact:
            described["base64"] = b64encode(data).decode()
        return described


def payload_reader(
    descriptor_sets: Sequence[Path], messages: Mapping[str, str], redact: Sequence[str]
) -> PayloadReader:
    """Return a reader that uses these descriptor sets (`protoc --include_imports -o FILE`).

    Raises UsageFailure: a file cannot be read, or a named message is in none of them.
    """
    types = _message_types(descriptor_sets)
    for key, name in messages.items():
        if name not in types:
            raise UsageFailure(
                f"no descriptor set has the message {name} (for {key})",
                advice="give the set with --descriptor-set, or with descriptor_sets in the configuration",
            )
    return PayloadReader(types=types, messages=messages, redact=redact)


def _message_types(paths: Sequence[Path]) -> dict[str, type[Message]]:
    pool = descriptor_pool.DescriptorPool()
    names: list[str] = []
    for path in paths:
        try:
            files = descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes())
            for file in files.file:
                pool.Add(file)
                names += [f"{file.package}.{kind.name}".lstrip(".") for kind in file.message_type]
        except (OSError, DecodeError, TypeError) as error:
            raise UsageFailure(
                f"{path} is not a descriptor set: {error}",
                advice="create one with `protoc --include_imports --descriptor_set_out=FILE ...`",
            ) from error
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in names}


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def _named_type(content_type: str) -> str | None:
    """Return the message that a content type names: `application/x-protobuf; type=shop.v1.Reserve`."""
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() in _TYPE_PARAMETERS:
            return value.strip().strip('"')
    return None
