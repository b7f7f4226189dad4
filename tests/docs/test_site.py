"""The documentation site builds without a warning, and holds what the code holds."""

import re
import subprocess
import sys
from collections.abc import Mapping
from html import unescape
from pathlib import Path

import pytest

from coordinator.observability.metrics import COUNTERS, GAUGES, HISTOGRAMS
from docsite import diagrams, hooks, links, reference

ROOT = Path(__file__).parents[2]
# What an element loads when the page is shown; links are only followed.
_LOADED = re.compile(r'<(?:script|img|link|iframe|source)\b[^>]*?\b(?:src|href)="([^"]+)"')


def build(configuration: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", configuration, "-d", site]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def sources() -> dict[Path, int]:
    """Return the files that the site is made of, each with the time of its last change."""
    folders = (ROOT / "docs", ROOT / "docsite", ROOT / "deploy")
    files = (file for folder in folders for file in folder.rglob("*") if file.is_file())
    return {file: file.stat().st_mtime_ns for file in files if "__pycache__" not in file.parts}


def shown(page: Path) -> str:
    """Return the text of a built page."""
    return unescape(re.sub(r"<[^>]+>", "", page.read_text()))


@pytest.mark.slow
def test_the_site_builds_and_is_complete(tmp_path: Path) -> None:
    """One test, because the build takes some seconds."""
    before = sources()
    built = build(ROOT / "mkdocs.yml", tmp_path)
    assert built.returncode == 0, built.stderr
    # What is generated is in the site alone, not beside the pages.
    assert sources() == before
    check_that_nothing_is_loaded_from_elsewhere(tmp_path)
    check_that_the_reference_is_generated(tmp_path / "reference")
    states = (tmp_path / "STATES.html").read_text()
    assert "<svg" in states
    assert "stateDiagram" not in states


def check_that_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    # The links of 404.html are absolute, because its address can be any.
    pages = [page for page in site.rglob("*.html") if page.name != "404.html"]
    assert len(pages) > 20
    for page in pages:
        loaded = set(_LOADED.findall(page.read_text()))
        assert [url for url in loaded if "//" in url] == []
        assert [url for url in loaded if not (page.parent / url.partition("?")[0]).exists()] == []


def check_that_the_reference_is_generated(reference_pages: Path) -> None:
    metrics = shown(reference_pages / "METRICS.html")
    assert [spec.name for spec in (*COUNTERS, *HISTOGRAMS, *GAUGES) if spec.name not in metrics] == []
    assert "TCC_PARTICIPANTS__NAME__CALL_TIMEOUT_S" in shown(reference_pages / "CONFIGURATION.html")
    commands = shown(reference_pages / "COMMANDS.html")
    assert [name for name in ("tccd config check", "tccctl tx resolve") if name not in commands] == []
    assert "ExecuteTransactionRequest" in shown(reference_pages / "PROTOS.html")
    assert "Run a whole transaction: the coordinator calls" in shown(reference_pages / "PYTHON.html")


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "README.md").write_text("# Title\n\n[page](NO.md) [heading](README.md#no) [file](../no.py)\n")
    # Of the site's configuration only what concerns links.
    validation = (ROOT / "mkdocs.yml").read_text().partition("\nvalidation:\n")[2]
    (tmp_path / "mkdocs.yml").write_text(
        f"site_name: tcc\ntheme: {{name: material, font: false}}\nhooks: [{ROOT}/docsite/hooks.py]\n"
        f"validation:\n{validation}"
    )
    built = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert built.returncode != 0
    for target in ("NO.md", "README.md#no", "repository/no.py"):
        assert f"'{target}'" in built.stderr


def test_every_relative_link_leads_to_a_file_of_the_repository() -> None:
    """Where the repository is browsed, the same links are followed without the site."""
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    sources = [source for source in listed.stdout.split() if (ROOT / source).is_file()]
    assert {"README.md", "docs/README.md", "deploy/README.md"} <= set(sources)
    broken = [
        f"{source}: {target}"
        for source in sources
        for target in links.linked(source, (ROOT / source).read_text())
        if not (ROOT / target).exists()
    ]
    assert broken == []


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        ("docs/A.md", "[b](B.md)", "[b](B.md)"),
        ("docs/A.md", "[b](B.md#c) and [d](#e)", "[b](B.md#c) and [d](#e)"),
        ("docs/A.md", "[code](../tcc/payload.py)", "[code](repository/tcc/payload.py)"),
        ("docs/A.md", "[deploy](../deploy/README.md#tls)", "[deploy](DEPLOY.md#tls)"),
        ("docs/A.md", "[deploy](../deploy/)", "[deploy](DEPLOY.md)"),
        ("docs/A.md", "[first](../README.md)", "[first](README.md)"),
        ("docs/bench/A.md", "[b](../B.md) ![c](c.png)", "[b](../B.md) ![c](c.png)"),
        ("docs/reference/A.md", "[d](../../deploy/README.md)", "[d](../DEPLOY.md)"),
        ("deploy/README.md", "[r](../docs/RUNBOOK.md)", "[r](RUNBOOK.md)"),
        ("CHANGELOG.md", "[r](docs/RUNBOOK.md)", "[r](RUNBOOK.md)"),
        ("docs/A.md", "[w](https://example.org/x.md)", "[w](https://example.org/x.md)"),
        ("docs/A.md", "```python\nf[0](../x.md)\n```", "```python\nf[0](../x.md)\n```"),
    ],
)
def test_links_lead_to_the_places_of_the_site(source: str, text: str, expected: str) -> None:
    assert links.rewritten(source, text) == expected


def test_items_of_nested_lists_are_indented_except_in_code() -> None:
    text = "- a\n  - b\n    c\n\n```yaml\nd:\n  - e\n```\n"
    assert hooks.with_nested_lists(text) == "- a\n    - b\n    c\n\n```yaml\nd:\n  - e\n```\n"


PROTO = """
// The file.
package tcc.example.v1;

// A service.
service Examples {
  // Does it.
  rpc Do(DoRequest) returns (DoResponse);
}

// A kind.
enum Kind {
  KIND_UNSPECIFIED = 0;
  // The one
  // kind.
  KIND_ONE = 1;
}

message Empty {}

message DoRequest {
  // Names it.
  map<string, string> names = 1;
  oneof choice {
    // Chosen.
    string chosen = 2;
  }
  // After it.
  repeated int64 last = 3;
}
"""


def test_comments_of_a_proto_file_are_found_by_what_they_stand_above() -> None:
    expected: Mapping[str, str] = {
        "": "The file.",
        "Examples": "A service.",
        "Examples.Do": "Does it.",
        "Kind": "A kind.",
        "Kind.KIND_ONE": "The one\nkind.",
        "DoRequest.names": "Names it.",
        "DoRequest.chosen": "Chosen.",
        "DoRequest.last": "After it.",
    }
    assert reference.proto_comments(PROTO) == expected


def test_every_comment_of_the_contract_is_in_the_reference() -> None:
    protos = " ".join(reference.protos().replace("\\|", "|").split())
    for path in (ROOT / "protos").rglob("*.proto"):
        for comment in reference.proto_comments(path.read_text()).values():
            assert " ".join(comment.split()) in protos


def test_a_sequence_diagram_has_its_participants_messages_and_notes() -> None:
    svg = diagrams.draw("""sequenceDiagram
        participant I as initiator
        participant C as coordinator
        I->>C: execute <1>
        Note over I,C: durable
        C--xI: outcome
    """)
    for text in ("initiator", "coordinator", "execute &lt;1&gt;", "durable", "outcome"):
        assert f">{text}</tspan>" in svg
    assert (svg.count('class="message"'), svg.count('class="dashed"'), svg.count('class="lost"')) == (1, 1, 1)
    assert "\n\n" not in svg


@pytest.mark.parametrize(
    "source",
    [
        "flowchart LR",
        "sequenceDiagram\nA->>B: unknown participants",
        "sequenceDiagram\nparticipant A\nA->A: unknown arrow",
        "stateDiagram-v2\nstate X {",
    ],
)
def test_a_diagram_that_cannot_be_drawn_is_refused(source: str) -> None:
    with pytest.raises(diagrams.DiagramError):
        diagrams.draw(source)
