"""How setup.py builds: which levels FASTOPT_LEVELS asks for, what is Python and what are loops in Cython's C.

Pass criterion: a wish is the levels it names or one error; loops name nothing of Python's.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fastopt._kernels._cpu import levels

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    not (ROOT / "setup.py").exists(), reason="needs the source tree, not an installed package"
)


def setup_says(expression, wish):
    """What an expression on setup.py gives where FASTOPT_LEVELS is `wish`: the exit status, what it prints, errors."""
    pytest.importorskip("setuptools", reason="setuptools, which builds the package, is not installed")
    pytest.importorskip("Cython", reason="Cython, which setup.py asks for, is not installed")
    done = subprocess.run(
        [sys.executable, "-c", f"import setup; print({expression})"],
        cwd=ROOT,
        env={**os.environ, "FASTOPT_LEVELS": wish},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def every_level():
    return setup_says("*setup.LEVELS", "")[1].split()


@pytest.mark.parametrize("wish", ["", " "])
def test_without_a_wish_every_level_is_built(wish):
    assert setup_says("*setup.wanted_levels()", wish)[1].split() == every_level()


def test_levels_are_built_that_are_named():
    known = every_level()
    assert setup_says("*setup.wanted_levels()", ", ".join(known[::-1]))[1].split() == known
    assert setup_says("*setup.wanted_levels()", known[-1])[1].split() == known[-1:]


def test_native_is_the_level_that_the_package_would_choose():
    code, out, error = setup_says("*setup.wanted_levels()", "native")
    if code:
        pytest.skip(f"needs a C compiler: {error}")
    assert out == levels()[0]


@pytest.mark.parametrize("wish", ["v9", "v3;v4", "Native", "native,v4", ","])
def test_any_other_wish_is_one_error_that_names_the_choices(wish):
    code, _, error = setup_says("*setup.wanted_levels()", wish)
    assert code == 1
    assert error.startswith(f"FASTOPT_LEVELS={wish!r}: expected native, or some of ")
    assert len(error.splitlines()) == 1
    assert all(level in error for level in every_level())


GENERATED = """#include "Python.h"
/* #### Code section: module_declarations ### */
static Py_ssize_t __pyx_v_7fastopt_limit;
static PyObject *__pyx_v_7fastopt_object = 0;
static Py_ssize_t __pyx_f_7fastopt_loop(Py_ssize_t); /*proto*/
static CYTHON_INLINE Py_ssize_t __pyx_f_7fastopt_inner(Py_ssize_t); /*proto*/
static PyObject *__pyx_f_7fastopt_checked(PyObject *); /*proto*/
static void __pyx_f_7fastopt_unused(void); /*proto*/
/* #### Code section: global_var ### */
static PyObject *__pyx_m;
/* #### Code section: module_code ### */

static Py_ssize_t __pyx_f_7fastopt_loop(Py_ssize_t n) {
  return __pyx_f_7fastopt_inner(n) + __pyx_v_7fastopt_limit;
}
static CYTHON_INLINE Py_ssize_t __pyx_f_7fastopt_inner(Py_ssize_t n) {
  return 2 * n;
}
static void __pyx_f_7fastopt_unused(void) {
}
static PyObject *__pyx_f_7fastopt_checked(PyObject *n) {
  return PyLong_FromSsize_t(__pyx_f_7fastopt_loop(PyLong_AsSsize_t(n)));
}
#endif /* Py_PYTHON_H */
"""


def test_python_and_loops_are_divided_and_meet_by_names(tmp_path):
    file = tmp_path / "core.c"
    file.write_text(GENERATED)
    code, out, error = setup_says(f"*setup.split(setup.Path({str(file)!r})), sep='\\n'", "")
    assert code == 0, error
    python, loops = (Path(line).read_text() for line in out.splitlines())
    assert "extern Py_ssize_t __pyx_f_7fastopt_loop(Py_ssize_t); /*proto*/" in python
    assert "extern Py_ssize_t __pyx_f_7fastopt_loop(Py_ssize_t n) {" in loops
    assert "static CYTHON_INLINE Py_ssize_t __pyx_f_7fastopt_inner(Py_ssize_t n) {" in loops
    assert "inner" not in python
    assert "\nPy_ssize_t __pyx_v_7fastopt_limit;" in python
    assert "\nextern Py_ssize_t __pyx_v_7fastopt_limit;" in loops
    assert "checked" not in loops
    assert "unused" not in loops
    assert not re.search("PyLong", loops)


@pytest.mark.parametrize(
    ("known", "changed", "named"),
    [
        ("limit;\nstatic", "limit = 3;\nstatic", "__pyx_v_7fastopt_limit"),
        ("module_code", "code_of_the_module", "module_code"),
        ("__pyx_f_7fastopt_", "__pyx_g_7fastopt_", "either"),
    ],
)
def test_c_that_is_laid_out_otherwise_is_not_divided(tmp_path, known, changed, named):
    file = tmp_path / "core.c"
    file.write_text(GENERATED.replace(known, changed))
    code, _, error = setup_says(f"setup.split(setup.Path({str(file)!r}))", "")
    assert code == 1
    assert re.search(f"ValueError: .*core.c: expected .*{named}", error)
    assert [f.name for f in tmp_path.iterdir()] == ["core.c"]
