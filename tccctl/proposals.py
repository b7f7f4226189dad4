"""Command lines that are shown to be pasted: others' words in them are neither the shell's nor options."""

import shlex
from collections.abc import Sequence


def command_line(*words: str, arguments: Sequence[str] = (), options: Sequence[str] = ()) -> str:
    """Return a line of the shell: the command's words, its arguments, its options with their values.

    Where an argument begins with a dash, all of them stand last, behind `--`.
    """
    if any(argument.startswith("-") for argument in arguments):
        return shlex.join([*words, *options, "--", *arguments])
    return shlex.join([*words, *arguments, *options])
