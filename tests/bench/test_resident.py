"""Memory is looked at, and its growth is told from its noise."""

import os

from bench.resident import Watch, growth, most


def test_the_most_is_that_of_any_moment() -> None:
    assert most([{"a": 1, "b": 9}, {"a": 5, "b": 2}]) == {"a": 5, "b": 9}


def test_growth_is_from_the_second_third_to_the_last() -> None:
    # What comes at first is not growth.
    samples = [{"a": used} for used in (0, 50, 100, 104, 110, 114)]
    assert growth(samples) == {"a": 10.0}


def test_what_is_flat_does_not_grow() -> None:
    assert growth([{"a": used} for used in (1, 7, 5, 6, 5, 6)]) == {"a": 0.0}


def test_a_watch_looks_at_living_processes_at_least_once() -> None:
    watch = Watch({"self": [os.getpid()]})
    watch.sleep(0.0)
    assert len(watch.samples) == 1
    assert watch.samples[0]["self"] > 2**20
