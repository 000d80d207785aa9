"""Every example in a docstring, in the README and in the pages runs and prints what it says; what pages name exists."""

import doctest
import importlib.util
import inspect
import re
from pathlib import Path

import pytest
import topics

import fastopt as fo

ROOT = Path(__file__).parents[1]
PUBLIC = ("estimators", "functional", "lowrank", "metrics", "newton", "nn", "optim", "schedules", "threads")
MODULES = {"fastopt": fo, **{name: getattr(fo, name) for name in PUBLIC}, "nn.models": fo.nn.models}


def public_objects():
    """(name, object) of everything public, methods included."""
    for prefix, module in MODULES.items():
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.ismodule(thing) or isinstance(thing, str):
                continue
            yield f"{prefix}.{name}", thing
            if inspect.isclass(thing):
                for member, value in vars(thing).items():
                    if not member.startswith("_") and (callable(value) or isinstance(value, property)):
                        yield f"{prefix}.{name}.{member}", value


OBJECTS = dict(public_objects())
EXAMPLES = {name: thing.__doc__ for name, thing in OBJECTS.items() if ">>>" in (thing.__doc__ or "")}
WRITTEN = [p for p in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if p.exists()]
PAGES = [p for p in WRITTEN if ">>>" in p.read_text()]


NEEDS = {">>> import pandas": "pandas", "to_onnx(": "onnx"}  # what examples with these words need


def run(text, name):
    for words, module in NEEDS.items():
        if words in text:
            pytest.importorskip(module, reason=f"the example needs {module}")
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    report = []
    runner.run(test, out=report.append)
    assert test.examples
    assert runner.summarize(verbose=False).failed == 0, "".join(report)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_in_a_docstring_prints_what_it_says(name):
    run(EXAMPLES[name], name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_an_example_on_a_page_prints_what_it_says(page):
    blocks = re.findall(r"^```(?:python|pycon)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    blocks = [block for block in blocks if ">>>" in block]
    if importlib.util.find_spec("torch") is None:  # blocks that need it name it, and no other block needs them
        blocks = [block for block in blocks if "torch" not in block]
    examples = "\n".join(blocks)
    run(examples, page.name)


@pytest.mark.parametrize("name", OBJECTS)
def test_everything_public_has_a_docstring(name):
    assert inspect.getdoc(OBJECTS[name])


@pytest.mark.parametrize("name", fo.functional.__all__)
def test_every_kernel_documents_arguments_errors_and_an_example(name):
    text = getattr(fo.functional, name).__doc__
    for section in ("Parameters", "Returns", "Raises", "Examples"):
        assert f"    {section}\n    {'-' * len(section)}\n" in text


@pytest.mark.parametrize("page", sorted({topic.page for topic in topics.taking_part("page")}))
def test_the_page_of_a_topic_exists_and_the_page_of_topics_names_it(page):
    assert (ROOT / "docs" / f"{page}.md").exists()
    table, tree = (ROOT / "docs" / "topics.md").read_text().split("```{toctree}")
    assert f"]({page}.md)" in table
    assert f"\n{page}\n" in tree


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page):
    text = page.read_text()
    paths = re.findall(r"(?<![\w./])((?:fastopt|tests|asv_benchmarks|examples|findings)/[\w./]*|docs/\w+\.md)", text)
    links = [f"{page.parent.relative_to(ROOT)}/{link}" for link in re.findall(r"\]\(([\w/]+\.md)", text)]
    missing = {path for path in paths + links if not (ROOT / path.rstrip(".")).exists()}
    for name in re.findall(r"`([\w/]+\.(?:pxi|pyx|h|py))`", text):
        if not any(ROOT.glob(name)) and not any((ROOT / "fastopt").rglob(name)):
            missing.add(name)
    assert not missing


def test_the_page_of_the_api_lists_every_public_name_once():
    listed, module = [], None
    page = (ROOT / "docs" / "api.md").read_text()
    for section, name in re.findall(r"^\.\. currentmodule:: ([\w.]+)$|^   (\w+)$", page, re.MULTILINE):
        module = section or module
        listed += [f"{module}.{name}"] if name and module != "fastopt.parallel" else []  # see tests/mpi/test_public.py
    names = [name for name in OBJECTS if name.rpartition(".")[0] in MODULES.keys() - {"threads"}]
    assert sorted(listed) == sorted(f"fastopt.{name.removeprefix('fastopt.')}" for name in names)


def test_every_test_that_the_page_of_promises_names_exists():
    page = (ROOT / "docs" / "reliability.md").read_text()
    named = re.findall(r"^((?:mpi/)?test_\w+\.py)(?:::(test_\w+))?$", page, re.MULTILINE)
    assert named
    for file, test in named:
        text = (ROOT / "tests" / file).read_text()
        assert not test or f"def {test}(" in text, f"{file}::{test}"
