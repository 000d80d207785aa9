"""Sphinx extension: the search of the pages finds every public name, or their build fails.

`searchindex.js`, which `search.html` loads, has the full name of every function, class and method that has a page.
"""

import importlib
import inspect
import json
import re
from pathlib import Path


def public_objects(modules):
    """(full name, object) of everything in `__all__` of modules, methods and properties of classes included."""
    public = {
        id(getattr(module, name))
        for module in modules.values()
        for name in module.__all__
    }
    for prefix, module in modules.items():
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.ismodule(thing) or isinstance(thing, str):
                continue
            yield f"{prefix}.{name}", thing
            if inspect.isclass(thing):
                for member, value in members(thing, public):
                    if not member.startswith("_") and (
                        callable(value) or isinstance(value, property)
                    ):
                        yield f"{prefix}.{name}.{member}", value


def members(cls, public):
    """(name, value) of what a class has of its own or from fastopt's bases that are not public themselves."""
    for base in cls.__mro__:
        own = base.__module__.startswith("fastopt")
        if base is cls or (own and id(base) not in public):
            yield from vars(base).items()


def indexed_names(index):
    """The full names that the text of a search index has."""
    objects = json.loads(index[index.index("(") + 1 : index.rindex(")")])[
        "objects"
    ]
    return {
        f"{prefix}.{entry[-1]}"
        for prefix, entries in objects.items()
        for entry in entries
    }


def require_every_name(app, exception):
    if exception or app.builder.name != "html":
        return
    modules = re.findall(
        r"^\.\. currentmodule:: (\S+)$",
        Path(app.srcdir, "api.md").read_text(),
        re.MULTILINE,
    )
    public = public_objects(
        {name: importlib.import_module(name) for name in modules}
    )
    missing = {name for name, _ in public} - indexed_names(
        Path(app.outdir, "searchindex.js").read_text()
    )
    if missing:
        raise RuntimeError(
            f"searchindex.js: expected every public name, got none of {', '.join(sorted(missing))}"
        )


def setup(app):
    app.connect("build-finished", require_every_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
