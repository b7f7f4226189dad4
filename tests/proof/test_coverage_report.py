"""The table of `make coverage`."""

import msgspec
import pytest

from proof.coverage_report import PARTS, MissingPartError, Summary, coverage_of, read, table

ALL = Summary(num_statements=10, covered_lines=10, num_branches=4, covered_branches=4)
NONE = Summary(num_statements=10, covered_lines=0, num_branches=4, covered_branches=0)


def test_files_of_a_part_count_by_their_size() -> None:
    large = Summary(num_statements=90, covered_lines=81, num_branches=16, covered_branches=14)
    coverage = coverage_of("a/", {"a/one.py": ALL, "a/two.py": large, "b/a/three.py": NONE})
    # 91 of 100 lines; 18 of 20 branches.
    assert (coverage.lines, coverage.branches) == (91.0, 90.0)


def test_a_part_without_branches_lacks_none() -> None:
    summary = Summary(num_statements=1, covered_lines=1, num_branches=0, covered_branches=0)
    assert coverage_of("a/", {"a/one.py": summary}).branches == 100.0


def test_a_part_that_was_not_measured_is_an_error() -> None:
    with pytest.raises(MissingPartError, match="coordinator/core/"):
        table({"coordinator/kernel/machine.py": ALL})


def test_what_misses_a_goal_is_marked_and_never_rounded_up() -> None:
    summaries = dict.fromkeys((f"{prefix}/file.py" for prefix in PARTS.values()), ALL)
    summaries["coordinator/log//file.py"] = Summary(
        num_statements=100_000, covered_lines=94_999, num_branches=10, covered_branches=9
    )
    assert table(summaries).splitlines() == [
        "part        lines (goal 95 %)   branches (goal 90 %)",
        "core                  100.0 %                100.0 %",
        "engine                100.0 %                100.0 %",
        "log                    94.9 %                 90.0 %  below",
        "barrier               100.0 %                100.0 %",
    ]


def test_a_report_is_read_by_path() -> None:
    summary = {"num_statements": 10, "covered_lines": 10, "num_branches": 4, "covered_branches": 4}
    report = {
        "meta": {"format": 3},
        "files": {"a.py": {"summary": summary, "missing_lines": []}},
        "totals": {},
    }
    assert read(msgspec.json.encode(report)) == {"a.py": ALL}


@pytest.mark.parametrize("prefix", PARTS.values())
def test_every_part_has_a_file(prefix: str, pytestconfig: pytest.Config) -> None:
    assert [*pytestconfig.rootpath.glob(f"{prefix}*.py"), *pytestconfig.rootpath.glob(f"{prefix}/*.py")]
