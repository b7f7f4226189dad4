"""Text of unknown origin, made safe for messages, log lines and terminals."""

TEXT_CHARACTERS_MAX = 500


def plain_text(text: str, characters_max: int = TEXT_CHARACTERS_MAX) -> str:
    """Return at most `characters_max` characters; unprintable ones (such as newlines) are escaped."""
    text = text[:characters_max]
    if text.isprintable():
        return text
    return "".join(map(_escaped, text))[:characters_max]


def _escaped(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def message_of(error: BaseException) -> str:
    """Return `str(error)`, or why it has none."""
    try:
        return str(error)
    except BaseException as unprintable:  # noqa: BLE001 - an author's __str__ may raise anything
        return f"(its text is not available: {type(unprintable).__name__})"
