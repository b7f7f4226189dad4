"""Text of unknown origin, made fit for a message, a log line and a screen."""

TEXT_CHARACTERS_MAX = 500


def plain_text(text: str, characters_max: int = TEXT_CHARACTERS_MAX) -> str:
    """Return the text bounded; what is not printable (newlines, lone surrogates, …) is escaped."""
    text = text[:characters_max]
    if text.isprintable():
        return text
    return "".join(map(_escaped, text))[:characters_max]


def _escaped(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()
