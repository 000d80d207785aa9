"""What is compiled: one Cython source, once per instruction-set level.

`_kernels/core.pyx` takes the files of its folders in and becomes one C file; that C file
is compiled into `_kernels/<level>/core.*.so` for every level in LEVELS, and the
package picks one at import. `_kernels/_cpu.pyx` is the baseline module it asks.

Environment: FASTOPT_SANITIZE=1 builds with Address- and UndefinedBehaviorSanitizer.
"""

import copy
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

KERNELS = Path("fastopt/_kernels")
X86 = platform.machine().lower() in ("x86_64", "amd64")
LEVELS = {
    "v2": ["-march=x86-64-v2"],
    "v3": ["-march=x86-64-v3"],
    "v4": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
}
if not X86:
    LEVELS = {"baseline": []}

# -ffp-contract=fast is the decision on FMA: wherever the machine has it, everywhere alike.
FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fvisibility=hidden"]
DEFINES = [("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize=alignment", "-fno-omit-frame-pointer", "-g", "-O1"]


PROBE = """#include <omp.h>
int main(void) {
    int n = 0;
    #pragma omp parallel reduction(+:n)
    n += 1;
    return n < 1 %s;
}
"""


def runs(source: str, compile_flags: list[str], link_flags: list[str]) -> bool:
    """Whether a C program compiles, links and returns 0."""
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()
    with tempfile.TemporaryDirectory() as folder:
        file, program = Path(folder, "probe.c"), Path(folder, "probe")
        file.write_text(source)
        try:
            subprocess.run(
                [*compiler, *compile_flags, str(file), "-o", str(program), *link_flags], check=True, capture_output=True
            )
            subprocess.run([str(program)], check=True, capture_output=True, timeout=20)
        except (OSError, subprocess.SubprocessError):
            return False
    return True


def openmp_flags() -> tuple[list[str], list[str]]:
    """Compile and link flags of the first OpenMP spelling that works; none for serial kernels."""
    for compile_flags, link_flags in [(["-fopenmp"], ["-fopenmp"]), (["-Xpreprocessor", "-fopenmp"], ["-lomp"])]:
        if runs(PROBE % "", compile_flags, link_flags):
            if runs(PROBE % "|| omp_pause_resource_all(omp_pause_hard)", compile_flags, link_flags):
                compile_flags = [*compile_flags, "-DFASTOPT_OPENMP_PAUSE"]
            return compile_flags, link_flags
    print("fastopt: no working OpenMP found; building serial kernels", file=sys.stderr)
    return [], []


class BuildLevels(build_ext):
    """Compiles the levels side by side, each in a temporary folder of its own."""

    def finalize_options(self):
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def run(self):
        for level in LEVELS:
            (KERNELS / level).mkdir(exist_ok=True)  # where an in-place build copies to
        super().run()

    def build_extensions(self):
        if self.compiler.compiler_type == "msvc":
            raise RuntimeError("fastopt needs gcc or clang: its kernels use their vector types, which MSVC lacks")
        super().build_extensions()

    def build_extension(self, ext):
        worker = copy.copy(self)  # one C file, several objects of the same name: a folder each
        worker.build_temp = str(Path(self.build_temp, ext.name))
        super(BuildLevels, worker).build_extension(ext)


def extensions() -> list[Extension]:
    """The baseline probe and one extension a level, all levels from the same generated C."""
    compile_openmp, link_openmp = openmp_flags()
    extra = SANITIZE if os.environ.get("FASTOPT_SANITIZE") else []
    included = sorted(str(p) for pattern in ("*.pxi", "*.h") for p in KERNELS.rglob(pattern))
    core = Extension("fastopt._kernels.core", [str(KERNELS / "core.pyx")], depends=included)
    cpu = Extension("fastopt._kernels._cpu", [str(KERNELS / "_cpu.pyx")])
    core, cpu = cythonize([core, cpu], language_level=3, annotate=False)
    cpu.extra_compile_args = ["-O1", *extra]
    cpu.extra_link_args = list(extra)
    built = [cpu]
    for level, march in LEVELS.items():
        built.append(
            Extension(
                f"fastopt._kernels.{level}.core",
                core.sources,
                include_dirs=[numpy.get_include(), str(KERNELS / "machine")],
                define_macros=DEFINES,
                extra_compile_args=[*FLAGS, *march, *compile_openmp, *extra],
                extra_link_args=[*link_openmp, *extra, *([] if extra else ["-Wl,-s"] * (sys.platform == "linux"))],
                depends=included,
            )
        )
    return built


if __name__ == "__main__":
    setup(ext_modules=extensions(), cmdclass={"build_ext": BuildLevels})
