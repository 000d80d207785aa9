"""What `fastopt.parallel` gives out is documented: docstrings, examples that run on any ranks, the page of the API."""

import doctest
import inspect
import re
from pathlib import Path

import pytest

from fastopt import parallel

ROOT = Path(__file__).parents[2]


def test_the_page_of_the_api_lists_every_name():
    section = (
        (ROOT / "docs" / "api.md").read_text().partition("currentmodule:: fastopt.parallel")[2].partition("```")[0]
    )
    assert sorted(re.findall(r"^   (\w+)$", section, re.MULTILINE)) == sorted(parallel.__all__)


@pytest.mark.parametrize("name", parallel.__all__)
def test_docstrings_have_an_example_that_prints_what_it_says(name):
    text = getattr(parallel, name).__doc__
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    report = []
    runner = doctest.DocTestRunner()
    runner.run(test, out=report.append)
    assert test.examples
    assert not runner.failures, "".join(report)


@pytest.mark.parametrize("name", parallel.__all__)
def test_every_public_method_has_a_docstring(name):
    given = getattr(parallel, name)
    for member, value in vars(given).items():
        assert member.startswith("_") or not callable(value) or inspect.getdoc(getattr(given, member)), member
