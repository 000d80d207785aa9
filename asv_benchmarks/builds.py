"""Builds of other commits, each made once and kept in .asv/builds, for the dashboard and for comparisons.

A build is the commit's files, with the kernels compiled in place for this processor (`FASTOPT_LEVELS=native`; commits
that do not know it compile all levels). Commits whose kernels and setup.py are the same share what was compiled.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILDS = ROOT / "asv_benchmarks" / ".asv" / "builds"
COMPILED = ("fastopt/_kernels", "setup.py")  # what the compiled modules depend on


def git(*words, root=ROOT) -> str:
    """What a command of git prints."""
    return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()


def commit_of(name, root=ROOT) -> str:
    """The hash of a revision; ValueError if there is none."""
    try:
        return git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", root=root)
    except subprocess.CalledProcessError:
        raise ValueError(f"{name}: expected a revision of {root}, as `git log` knows it") from None


def build_of(commit) -> Path:
    """The folder with the build of a commit, which is made if there is none."""
    folder = BUILDS / commit
    if not folder.exists():
        BUILDS.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BUILDS) as made:  # a build that is interrupted leaves nothing behind
            export(commit, Path(made, "tree"))
            compile_kernels(commit, Path(made, "tree"))
            Path(made, "tree").rename(folder)
    return folder


def export(commit, folder) -> None:
    """The files of a commit."""
    folder.mkdir()
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)


def compile_kernels(commit, folder) -> None:
    """Compile in place, or take what an equal source was compiled to."""
    key = sources(commit)
    for other in BUILDS.iterdir():
        if len(other.name) == len(commit) and sources(other.name) == key:
            for module in other.rglob("*.so"):
                target = folder / module.relative_to(other)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(module, target)
            return
    print(f"building {commit[:10]}; this takes minutes", flush=True)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=folder, env=os.environ | {"FASTOPT_LEVELS": "native"}, check=True)
    shutil.rmtree(folder / "build", ignore_errors=True)


def sources(commit) -> str:
    """Stands for all files that the compiled modules are made of."""
    return git("rev-parse", *(f"{commit}:{path}" for path in COMPILED))
