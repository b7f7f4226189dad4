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
