"""Where the site has what a page links: another page, or a file of the repository.

Pages link by relative paths, which also work where the repository is browsed. What a page links
outside `docs/` is part of the site, too: some texts become pages, everything else is copied.
"""

import posixpath
import re
from collections.abc import Iterator

# Texts outside docs/ that are pages of the site.
PAGES = {
    "CHANGELOG.md": "CHANGELOG.md",
    "CODE_OF_CONDUCT.md": "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
    "deploy/README.md": "DEPLOY.md",
}
# The README says the same as the site's first page. A folder stands for its page.
_ALIASES = {"README.md": "README.md", "deploy": "DEPLOY.md"}
# Where the site keeps copies of other files.
COPIES = "repository"

_LINK = re.compile(r"\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
_FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def source_of(site_path: str) -> str:
    """Return the path in the repository of a page of the site."""
    sources = {page: source for source, page in PAGES.items()}
    return sources.get(site_path, f"docs/{site_path}")


def site_path_of(path: str) -> str:
    """Return the site's path of a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return PAGES.get(path) or _ALIASES.get(path) or f"{COPIES}/{path}"


def linked(source: str, markdown: str) -> Iterator[str]:
    """Yield the paths in the repository that a text links; `source` is the path of the text."""
    for found in _links(markdown):
        yield _resolve(source, found["target"])


def rewritten(source: str, markdown: str) -> str:
    """Return a text whose links lead to the site's places, from the place of its page."""
    here = posixpath.dirname(site_path_of(source))
    parts, end = [], 0
    for found in _links(markdown):
        target = posixpath.relpath(site_path_of(_resolve(source, found["target"])), here or ".")
        parts += [markdown[end : found.start()], f"]({target}{found['anchor'] or ''})"]
        end = found.end()
    return "".join([*parts, markdown[end:]])


def _links(markdown: str) -> Iterator[re.Match[str]]:
    """Yield the relative links outside blocks of code."""
    fences = [found.span() for found in _FENCE.finditer(markdown)]
    for found in _LINK.finditer(markdown):
        is_code = any(start <= found.start() < end for start, end in fences)
        if not is_code and "://" not in found["target"] and not found["target"].startswith("mailto:"):
            yield found


def _resolve(source: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
