"""The hooks of MkDocs: they complete each page before it is rendered."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docsite import diagrams, links, reference

ROOT = Path(__file__).parents[1]

_GENERATE = re.compile(r"^<!-- generate: (\w+) -->$", re.MULTILINE)
_DIAGRAM = re.compile(r"^```mermaid\n(.*?)^```$", re.DOTALL | re.MULTILINE)

_FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
_NESTED_ITEM = re.compile(r"^  (?=[-*] )", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the texts outside docs/ that are pages, and the other files that pages link."""
    for source, page in links.PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    wanted = {
        path
        for file in files.documentation_pages()
        for path in links.linked(links.source_of(file.src_uri), file.content_string)
    }
    for path in sorted(wanted):
        place = links.site_path_of(path)
        if place.startswith(links.COPIES) and (ROOT / path).is_file():
            files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Return the text of a page: links lead to the site, and what is generated is filled in."""
    text = links.rewritten(links.source_of(page.file.src_uri), markdown)
    text = _GENERATE.sub(lambda found: reference.GENERATED[found[1]](), text)
    text = _DIAGRAM.sub(lambda found: f'<figure class="diagram">\n{diagrams.draw(found[1])}\n</figure>', text)
    return with_nested_lists(text)


def with_nested_lists(markdown: str) -> str:
    """Indent the items of nested lists by four spaces: MkDocs' Markdown does not nest them with two."""
    parts = _FENCE.split(markdown)
    parts[::2] = [_NESTED_ITEM.sub("    ", part) for part in parts[::2]]
    return "".join(parts)
