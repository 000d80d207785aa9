"""The tests' own tools: the list of topics is whole, and pairs of values all meet."""

import itertools
import re
from pathlib import Path

import pytest
import topics
from pairs import pairs, values

HERE = Path(__file__).parent


def test_every_file_of_tests_is_a_topic_of_the_list_once():
    assert sorted(topic.name for topic in topics.TOPICS) == sorted(
        file.stem.removeprefix("test_") for file in HERE.glob("test_*.py")
    )


def test_every_page_of_the_table_of_topics_belongs_to_a_topic_of_the_list():
    pages = re.findall(r"^\| \[.*?\]\((\w+)\.md\)", (HERE.parent / "docs" / "topics.md").read_text(), re.MULTILINE)
    assert set(pages) == {topic.page for topic in topics.taking_part("page")}


@pytest.mark.parametrize("topic", topics.TOPICS, ids=lambda topic: topic.name)
def test_a_topic_that_does_not_take_part_says_why(topic):
    for what in (topic.page, topic.guard_pages, topic.determinism, topic.levels, topic.sanitizer):
        assert what or (isinstance(what, topics.No) and len(what) > 20)


@pytest.mark.parametrize(
    "sizes", [(2, 2), (3, 1, 4), (8, 3, 2), (16, 9, 3, 2), (5, 5, 5, 5), (2, 2, 2, 2, 2, 2)], ids=str
)
def test_every_two_values_of_different_factors_meet_in_few_rows_which_are_always_the_same(sizes):
    factors = [[(i, a) for a in range(n)] for i, n in enumerate(sizes)]
    rows = pairs(*factors)
    for one, other in itertools.combinations(range(len(sizes)), 2):
        assert {(row[one], row[other]) for row in rows} == set(itertools.product(factors[one], factors[other]))
    *_, second, first = sorted(sizes)
    assert len(set(rows)) == len(rows) <= 2 * first * second
    assert rows == pairs(*factors)
    assert all({row[i] for row in values(*factors)} == set(factor) for i, factor in enumerate(factors))
