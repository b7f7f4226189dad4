"""Plots and their page are drawn from the kept results alone."""

import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench import page, plots, results
from bench.results import Results
from tests.bench import measured

ROOT = Path(__file__).resolve().parents[2]
ALL = {"throughput.png", "latency.png", "history.png", "cpu.png", "scaling.png"}


def png_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels, from the header."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:24])
    return width, height


def test_every_plot_is_drawn_where_there_are_figures_for_it(tmp_path: Path) -> None:
    drawn = plots.draw(measured.everything(), tmp_path)
    assert drawn.keys() == ALL
    assert {path.name for path in tmp_path.iterdir()} == ALL
    for name in ALL:
        width, height = png_size(tmp_path / name)
        assert width >= 600
        assert height >= 200


@pytest.mark.parametrize("plot", plots._PLOTS, ids=lambda plot: plot.file)
def test_nothing_is_drawn_outside_its_axes(plot: plots.Plot) -> None:
    kept = measured.everything().scenarios
    figure = plot.draw({name: kept[name] for name in plot.scenarios or kept})
    assert figure is not None
    for panel in figure.axes:
        (left, low), (right, high) = panel.dataLim.min, panel.dataLim.max
        assert min(panel.get_xlim()) <= left <= right <= max(panel.get_xlim())
        assert min(panel.get_ylim()) <= low <= high <= max(panel.get_ylim())


def test_what_was_not_measured_is_not_drawn(tmp_path: Path) -> None:
    only = Results(scenarios={"idle": measured.idle(), "history": measured.history()})
    assert plots.draw(only, tmp_path).keys() == {"history.png", "cpu.png"}
    assert plots.draw(Results(scenarios={"idle": measured.idle()}), tmp_path) == {}
    assert plots.draw(Results(scenarios={}), tmp_path) == {}


def test_a_configuration_in_which_nothing_was_done_leaves_a_gap(tmp_path: Path) -> None:
    nothing = {**measured.row(0, mode="unary", in_flight=256), "p50_ms": None, "p95_ms": None, "p99_ms": None}
    some = measured.row(100, mode="unary", in_flight=1)
    kept = Results(scenarios={"coordinator": measured.report("coordinator", some, nothing)})
    assert "latency.png" in plots.draw(kept, tmp_path)


def test_the_same_figures_make_the_same_files_and_others_make_others(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one", "same", "other"))
    for directory in (one, same, other):
        directory.mkdir()
    kept = Results(scenarios={"history": measured.history()})
    quick = Results(scenarios={"history": replace(measured.history(), quick=True)})
    for directory, drawn in ((one, kept), (same, kept), (other, quick)):
        plots.draw(drawn, directory)
    images = [(directory / "history.png").read_bytes() for directory in (one, same, other)]
    assert images[0] == images[1]
    assert images[0] != images[2]


def test_the_page_says_what_was_run_on_what_and_shows_the_plots(tmp_path: Path) -> None:
    kept = measured.everything()
    page.write(kept, {"cpu.png": "CPU time"}, tmp_path)
    said = (tmp_path / "README.md").read_text()
    assert "2 CPUs (Some CPU), 8.0 GiB, Linux 6.1, Python 3.11.7" in said
    assert "![CPU time](cpu.png)" in said
    assert "| history | `python -m bench history` | 2026-01-02T03:04:05 | 60 s | abc1234 |" in said
    # Half of its baseline, 4,000 of 8,000.
    assert "| coordinator, batched, to its baseline | ≥ 0.6 | 0.5 | missed |" in said
    assert "| drain, per second | ≥ 3,000 |  | not measured |" in said


def test_the_command_draws_what_is_kept_and_measures_nothing(tmp_path: Path) -> None:
    results.write(measured.everything(), tmp_path)
    kept = (tmp_path / results.FILE).read_bytes()
    command = [sys.executable, "-m", "bench", "plot", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {*ALL, "README.md", results.FILE}
    assert (tmp_path / results.FILE).read_bytes() == kept


@pytest.mark.parametrize("module", ["bench.__main__", "bench.suite", "bench.page", "bench.results"])
def test_who_measures_does_not_load_matplotlib(module: str) -> None:
    said = f"import sys, {module}; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", said], check=False, cwd=ROOT).returncode == 0
