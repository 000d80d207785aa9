"""What is compiled: one Cython source, its Python once and its loops once per instruction-set level.

`_kernels/core.pyx` takes the files of its folders in and becomes one C file. Half of it are functions that use
nothing of Python: the loops. `split` puts them into a file of their own, which is compiled for every level in LEVELS;
what is left (checks, classes, the module) is compiled once and linked to the loops of each level,
`_kernels/<level>/core.*.so`. The package picks one at import. `_kernels/_cpu.pyx` is the baseline module it asks.

Environment: FASTOPT_LEVELS=native builds the level of this machine alone, FASTOPT_LEVELS=v3,v4 those named.
FASTOPT_SANITIZE=1 builds with Address- and UndefinedBehaviorSanitizer.
"""

import copy
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer_group

KERNELS = Path("fastopt/_kernels")
MACHINE = KERNELS / "machine"
X86 = platform.machine().lower() in ("x86_64", "amd64")
LEVELS = {
    "v2": ["-march=x86-64-v2"],
    "v3": ["-march=x86-64-v3"],
    "v4": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
}
if not X86:
    LEVELS = {"baseline": []}

# -ffp-contract=fast is the decision on FMA: wherever the machine has it, everywhere alike. -g0: what is linked is
# stripped, and what a debugger reads, which the flags of many Pythons ask for, takes long to write.
COMMON = ["-g0", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fvisibility=hidden"]
FLAGS = ["-O3", *COMMON]
ONCE = ["-O2", *COMMON]  # of what is Python
# Passes of gcc that copy paths and find what is computed twice: they take long on unrolled tiles, and leave no better
# innermost loops. Changes of this list want `python -m fastopt bench --earlier` beside the build's own seconds.
LEAN = [
    "-fno-thread-jumps",
    "-fno-tree-pre",
    "-fno-split-paths",
    "-fno-tree-dominator-opts",
    "-fno-tree-vrp",
    "-fno-tree-tail-merge",
    "-fno-cse-follow-jumps",
    "-fno-rerun-cse-after-loop",
    "-fno-schedule-insns2",
]
DEFINES = [("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize=alignment", "-fno-omit-frame-pointer", "-g", "-O1"]


# ---------------------------------------------------------------- what the compiler and the machine can do

OPENMP = """#include <omp.h>
int main(void) {
    int n = 0;
    #pragma omp parallel reduction(+:n)
    n += 1;
    return n < 1 %s;
}
"""
LEVEL = """#include "cpu.h"
int main(void) { return fastopt_level() < %d; }
"""


def compiler() -> list[str]:
    """The command of the C compiler."""
    return (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()


def runs(source: str, compile_flags: list[str], link_flags: list[str] | None = None) -> bool:
    """Whether a C program compiles, links and returns 0."""
    with tempfile.TemporaryDirectory() as folder:
        file, program = Path(folder, "probe.c"), Path(folder, "probe")
        file.write_text(source)
        try:
            subprocess.run(
                [*compiler(), *compile_flags, str(file), "-o", str(program), *(link_flags or [])],
                check=True,
                capture_output=True,
            )
            subprocess.run([str(program)], check=True, capture_output=True, timeout=20)
        except (OSError, subprocess.SubprocessError):
            return False
    return True


def openmp_flags() -> tuple[list[str], list[str]]:
    """Compile and link flags of the first OpenMP spelling that works; none for serial kernels."""
    for compile_flags, link_flags in [(["-fopenmp"], ["-fopenmp"]), (["-Xpreprocessor", "-fopenmp"], ["-lomp"])]:
        if runs(OPENMP % "", compile_flags, link_flags):
            if runs(OPENMP % "|| omp_pause_resource_all(omp_pause_hard)", compile_flags, link_flags):
                compile_flags = [*compile_flags, "-DFASTOPT_OPENMP_PAUSE"]
            return compile_flags, link_flags
    say("no working OpenMP found; building serial kernels")
    return [], []


def wanted_levels() -> dict[str, list[str]]:
    """The levels that FASTOPT_LEVELS asks for, with their flags; all without it."""
    wish = os.environ.get("FASTOPT_LEVELS", "").strip()
    if not wish:
        return LEVELS
    if wish == "native":
        if not X86:
            return LEVELS
        for number in (4, 3, 2):
            if f"v{number}" in LEVELS and runs(LEVEL % number, [f"-I{MACHINE}"]):
                return {f"v{number}": LEVELS[f"v{number}"]}
        raise SystemExit(f"FASTOPT_LEVELS='native': no program compiled here finds one of {', '.join(LEVELS)}")
    names = [name.strip() for name in wish.split(",")]
    if not set(names) <= set(LEVELS):
        raise SystemExit(
            f"FASTOPT_LEVELS={wish!r}: expected native, or some of {', '.join(LEVELS)}, with commas between"
        )
    return {level: flags for level, flags in LEVELS.items() if level in names}


def say(text: str) -> None:
    print(f"fastopt: {text}", file=sys.stderr, flush=True)


# ---------------------------------------------------------------- Python and loops

LOOP = r"__pyx_(?:fuse_|f_7fastopt_)"
FUNCTION = re.compile(r"^static [^(]*\b(\w+)\(.*\) \{$")
PROTOTYPE = re.compile(rf"^static [^(]*\b({LOOP}\w+)\(.*; ?/\* ?proto ?\*/$")
VARIABLE = re.compile(r"^static ((?!PyObject)[^=]*\b(__pyx_v_7fastopt_\w+)[^=]*;)$")
OF_PYTHON = re.compile(r"\b(?:_?Py(?!_ssize_t\b)[A-Z_]\w*|__Pyx_\w+|__pyx_(?:mstate|vp|vtab)\w*)")


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


def split(generated: Path) -> tuple[Path, Path]:
    """Divide the C file that Cython wrote: what is Python, compiled once, and the loops, compiled for each level.

    A loop is a `cdef` function whose text names nothing of Python's. Python calls loops by their names, which both
    files declare; loops call Python only through the pointers of kinds. What a file lacks, the compiler or linker
    tells. ValueError where the C is not laid out as expected, which may be so of a newer Cython.
    """
    lines = generated.read_text().split("\n")
    sections = [f"/* #### Code section: {name} ### */" for name in ("module_declarations", "global_var", "module_code")]
    if missing := [section for section in sections if section not in lines]:
        raise ValueError(f"{generated}: expected the C of a Cython that is known, got none of {', '.join(missing)}")
    declarations, variables, code = map(lines.index, sections)
    loops, python, at = {}, lines[variables:code], code
    while at < len(lines):
        end = lines.index("}", at) + 1 if (found := FUNCTION.match(lines[at])) else at + 1
        body = "\n".join(lines[at:end])
        if found and re.match(LOOP, found[1]) and not OF_PYTHON.search(body):
            loops[found[1]] = body
        else:
            python.append(body)
        at = end
    shared = words("\n".join(python)) & set(loops)
    used, ahead = set(shared), [*shared]
    while ahead:
        more = (words(loops[ahead.pop()]) & set(loops)) - used
        used |= more
        ahead += more
    python_declares, loops_declare, known = [], [], set()
    for line in lines[declarations:variables]:
        prototype, variable = PROTOTYPE.match(line), VARIABLE.match(line)
        if variable:
            known.add(variable[2])
            python_declares.append(variable[1])
            loops_declare.append(f"extern {variable[1]}")
        elif prototype and prototype[1] in loops:
            if prototype[1] in shared:
                python_declares.append(line.replace("static CYTHON_INLINE", "extern").replace("static", "extern", 1))
            if prototype[1] in used:
                loops_declare.append(line.replace("static", "extern", 1) if prototype[1] in shared else line)
        else:
            python_declares.append(line)
            if not (prototype or line.startswith("int ")):
                loops_declare.append(line)
    kept = [
        body.replace("static", "extern", 1) if name in shared else body for name, body in loops.items() if name in used
    ]
    unknown = {word for word in words("\n".join(kept)) if word.startswith("__pyx_v_7fastopt_")} - known
    if unknown or not kept:
        raise ValueError(f"{generated}: expected loops and their variables, got none of {sorted(unknown) or 'either'}")
    head = lines[:declarations]
    # functions of Python among the types are inline, so that what the loops do not call is not compiled, even at -O0
    types = [re.sub(r"^static (?!CYTHON_INLINE)(.*\) \{)$", r"static CYTHON_INLINE \1", line) for line in head]
    files = generated.with_name("core_python.c"), generated.with_name("core_loops.c")
    texts = (
        ["#define FASTOPT_PYTHON", *head, *python_declares, *python],
        [*types, *loops_declare, *kept, "#endif /* Py_PYTHON_H */\n"],
    )
    for file, text in zip(files, map("\n".join, texts), strict=True):
        if not file.exists() or file.read_text() != text:  # else nothing is compiled again
            file.write_text(text)
    return files


# ---------------------------------------------------------------- the build


class Level(Extension):
    """The loops of a level, to be linked with what is compiled once: the C files `once`, with flags of their own."""

    def __init__(self, name, sources, once, once_compile_args, **options):
        super().__init__(name, sources, **options)
        self.once, self.once_compile_args = once, once_compile_args


class BuildLevels(build_ext):
    """Compiles Python and the loops of levels side by side, each in a folder of its own, and says what it does."""

    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def run(self):
        levels = [ext.name.split(".")[2] for ext in self.extensions if isinstance(ext, Level)]
        kernels = Path(self.build_lib, KERNELS)
        for level in LEVELS:
            (KERNELS / level).mkdir(exist_ok=True)  # where an in-place build copies to
            if level not in levels:
                shutil.rmtree(kernels / level, ignore_errors=True)  # of an earlier build: a wheel would take it in
        start, before = time.monotonic(), os.times()
        say(f"compiling {', '.join(levels)} with {' '.join(compiler())} on {self.parallel} cores; this takes minutes")
        super().run()
        after = os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        say(f"built {', '.join(levels)} in {time.monotonic() - start:.0f} s; the compiler took {cpu:.0f} s of CPU")

    def build_extensions(self):
        if self.compiler.compiler_type == "msvc":
            raise RuntimeError("fastopt needs gcc or clang: its kernels use their vector types, which MSVC lacks")
        with ThreadPoolExecutor(1) as beside:
            self.once = beside.submit(self.compile_once)
            super().build_extensions()
            self.once.result()

    def build_extension(self, ext):
        if isinstance(ext, Level):
            file = self.get_ext_fullpath(ext.name)
            if self.out_of_date(ext):
                objects = self.compile(ext, ext.sources, ext.name, ext.extra_compile_args)
                self.compiler.link_shared_object(
                    objects + self.once.result(), file, extra_postargs=ext.extra_link_args, build_temp=self.build_temp
                )
            return
        worker = copy.copy(self)
        worker.build_temp = str(Path(self.build_temp, ext.name))
        super(BuildLevels, worker).build_extension(ext)

    def out_of_date(self, ext):
        return self.force or newer_group([*ext.sources, *ext.depends], self.get_ext_fullpath(ext.name))

    def compile_once(self):
        """What all levels share. Returns the objects."""
        levels = [ext for ext in self.extensions if isinstance(ext, Level)]
        if not any(self.out_of_date(ext) for ext in levels):
            return []
        return self.compile(levels[0], levels[0].once, "once", levels[0].once_compile_args)

    def compile(self, ext, sources, folder, flags):
        return self.compiler.compile(
            sources,
            output_dir=str(Path(self.build_temp, folder)),
            macros=ext.define_macros,
            include_dirs=ext.include_dirs,
            extra_postargs=flags,
        )


def extensions() -> list[Extension]:
    """The baseline probe, and an extension for each level that is wanted."""
    levels = wanted_levels()
    compile_openmp, link_openmp = openmp_flags()
    extra = SANITIZE if os.environ.get("FASTOPT_SANITIZE") else []
    lean = LEAN if runs("int main(void) { return 0; }", ["-Werror", *LEAN]) else []
    included = sorted(str(p) for pattern in ("*.pxi", "*.h") for p in KERNELS.rglob(pattern))
    core = Extension("fastopt._kernels.core", [str(KERNELS / "core.pyx")], depends=included)
    cpu = Extension("fastopt._kernels._cpu", [str(KERNELS / "_cpu.pyx")], depends=[str(MACHINE / "cpu.h")])
    core, cpu = cythonize([core, cpu], language_level=3, annotate=False)
    cpu.extra_compile_args = ["-O1", *extra]
    cpu.extra_link_args = list(extra)
    once, loops = [str(MACHINE / "team.c")], core.sources[0]
    try:
        python, loops = map(str, split(Path(core.sources[0])))
        once.append(python)
    except ValueError as error:
        say(f"{error}; all of it is compiled for each level, which takes longer")
    return [
        cpu,
        *(
            Level(
                f"fastopt._kernels.{level}.core",
                [loops],
                once,
                [*ONCE, *lean, *compile_openmp, *extra],
                include_dirs=[numpy.get_include(), str(KERNELS), str(MACHINE)],
                define_macros=DEFINES,
                extra_compile_args=[*FLAGS, "-Wno-unused-function", *lean, *march, *compile_openmp, *extra],
                extra_link_args=[*link_openmp, *extra, *([] if extra else ["-Wl,-s"] * (sys.platform == "linux"))],
                depends=[*once, *included, "setup.py"],
            )
            for level, march in levels.items()
        ),
    ]


if __name__ == "__main__":
    setup(ext_modules=extensions(), cmdclass={"build_ext": BuildLevels})
