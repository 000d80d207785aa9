"""Every example in a docstring, in the README and in the pages runs and prints what it says; what pages name exists."""

import ast
import doctest
import importlib.util
import inspect
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import topics

import fastopt as fo

ROOT = Path(__file__).parents[1]
WIDTH = 96  # columns of code that fit into a page, see docs/_static/fastopt.css
PUBLIC = ("estimators", "functional", "lowrank", "metrics", "newton", "nn", "optim", "schedules", "threads")
MODULES = {"fastopt": fo, **{name: getattr(fo, name) for name in PUBLIC}, "nn.models": fo.nn.models}


spec = importlib.util.spec_from_file_location("searchable", ROOT / "docs" / "searchable.py")
searchable = importlib.util.module_from_spec(spec)
spec.loader.exec_module(searchable)

OBJECTS = dict(searchable.public_objects(MODULES))
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
    run("\n".join(blocks), page.name)


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
    missing = {path for path in paths + links if "/.asv/" not in path and not (ROOT / path.rstrip(".")).exists()}
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


def lines_of_examples(text):
    """Lines of the examples of a docstring, as its page shows them."""
    for example in doctest.DocTestParser().get_examples(text):
        yield from (f">>> {line}" for line in example.source.splitlines())
        yield from example.want.splitlines()


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_code_on_a_page_fits_its_box(page):
    blocks = re.findall(r"^```(?!\{)\w*\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    assert [line for line in lines if len(line) > WIDTH and " " in line] == []  # a lone name wraps


@pytest.mark.parametrize("file", sorted((ROOT / "fastopt").rglob("*.py")), ids=lambda file: str(file.relative_to(ROOT)))
def test_examples_in_docstrings_fit_their_box(file):
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    texts = [ast.get_docstring(node) for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, documented)]
    assert [line for text in texts if text for line in lines_of_examples(text) if len(line) > WIDTH] == []


@pytest.mark.parametrize("name", fo.functional.__all__)
def test_examples_of_a_kernel_fit_their_box(name):
    text = inspect.getdoc(getattr(fo.functional, name))
    assert [line for line in lines_of_examples(text) if len(line) > WIDTH] == []


@pytest.mark.parametrize("script", sorted((ROOT / "docs" / "examples").glob("*.py")), ids=lambda script: script.stem)
def test_code_of_the_gallery_fits_its_box(script):
    assert [line for line in script.read_text().splitlines() if len(line) > WIDTH] == []


def search_index(names):
    """A search index as Sphinx writes it, of these names only."""
    objects = {}
    for name in names:
        prefix, _, last = name.rpartition(".")
        objects.setdefault(prefix, []).append([0, 1, 1, "", last])
    return f"Search.setIndex({json.dumps({'docnames': ['api'], 'objects': objects})})"


def test_pages_whose_search_lacks_a_public_name_are_not_built(tmp_path):
    app = SimpleNamespace(builder=SimpleNamespace(name="html"), srcdir=tmp_path, outdir=tmp_path)
    page = (ROOT / "docs" / "api.md").read_text()
    (tmp_path / "api.md").write_text(page.replace(".. currentmodule:: fastopt.parallel\n", ""))  # which needs mpi4py
    names = {f"fastopt.{name.removeprefix('fastopt.')}" for name in OBJECTS}
    (tmp_path / "searchindex.js").write_text(search_index(names))
    searchable.require_every_name(app, None)
    (tmp_path / "searchindex.js").write_text(search_index(names - {"fastopt.nn.Sequential.fold"}))
    with pytest.raises(RuntimeError, match=r"got none of fastopt\.nn\.Sequential\.fold$"):
        searchable.require_every_name(app, None)
