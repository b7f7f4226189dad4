"""Command lines to be pasted. Foreign text in them is neither shell syntax nor an option."""

import shlex
from collections.abc import Sequence


def command_line(*words: str, arguments: Sequence[str] = (), options: Sequence[str] = ()) -> str:
    """Return a shell line: the command's words, its arguments, its options with their values.

    If an argument begins with a dash, all arguments come last, after `--`.
    """
    if any(argument.startswith("-") for argument in arguments):
        return shlex.join([*words, *options, "--", *arguments])
    return shlex.join([*words, *arguments, *options])
