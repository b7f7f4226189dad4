"""docs/GLOSSARY.md is in order, and every term has one sentence."""

import re
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "GLOSSARY.md").read_text()
ROWS = re.findall(r"^\| \*\*(.+?)\*\* \| (.+) \|$", PAGE, re.MULTILINE)


def test_the_terms_are_alphabetical_and_stand_once() -> None:
    terms = [term.casefold() for term, _ in ROWS]
    assert len(terms) > 40
    assert terms == sorted(set(terms))


def test_every_term_has_one_sentence() -> None:
    assert [term for term, meaning in ROWS if not re.fullmatch(r"[A-Z].*[^.]\.", meaning)] == []
    assert [term for term, meaning in ROWS if re.search(r"\. [A-Z]", meaning)] == []


def test_the_readme_links_it() -> None:
    assert "(docs/GLOSSARY.md)" in (Path(__file__).parents[2] / "README.md").read_text()
