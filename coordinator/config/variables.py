"""Find `TCC_*` environment variables that set nothing: a misspelt one must not be ignored."""

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import get_args

from pydantic import BaseModel

PREFIX = "TCC_"
# Not settings, but allowed: what tests need.
_EXEMPT = re.compile(r"TCC_TEST_.*")
# Kubernetes sets these in every container for a service whose name begins with "tcc".
_SERVICE_LINK = re.compile(
    r"TCC_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_LINK_ADDRESS = re.compile(r"(tcp|udp|sctp)://\S+")
_SERVICE_PORT = re.compile(r"TCC_(\w+_)?PORT")


def unknown_variables(settings: type[BaseModel], environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield each variable that no setting reads, with a message that names the nearest one.

    Keys inside a table are left to the model, which refuses unknown ones.
    """
    known = list(variables(settings))
    for name, value in sorted(environment.items()):
        upper = name.upper()
        if upper.startswith(PREFIX) and not _is_allowed(upper, value) and not _is_read(upper, known):
            near = get_close_matches(upper, known, n=1)
            yield name, f"unknown variable; did you mean {near[0]}?" if near else "unknown variable"


def variables(model: type[BaseModel], prefix: str = PREFIX) -> Iterator[str]:
    """Yield the variable of each setting. NAME stands for a participant's name."""
    for name, field in model.model_fields.items():
        variable = prefix + name.upper()
        yield variable
        kinds = (field.annotation, *get_args(field.annotation))
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from variables(kind, f"{variable}__NAME__" if str in kinds else f"{variable}__")


def _is_read(name: str, known: Sequence[str]) -> bool:
    table, nested, _ = name.partition("__")
    return name in known or any(nested and one.startswith(f"{table}__") for one in known)


def _is_allowed(name: str, value: str) -> bool:
    if _EXEMPT.fullmatch(name) or _SERVICE_LINK.fullmatch(name):
        return True
    return bool(_SERVICE_PORT.fullmatch(name) and _SERVICE_LINK_ADDRESS.fullmatch(value))
