"""Another build of fastopt as one more side of every case: `bench --earlier FOLDER`.

The other build runs in a process of its own, with the cases of this one: both do the same work, in turns. They
exchange a line of JSON for each question: which case to prepare, or how often to call it. A case that the other
build cannot run, for a layer that it lacks, is left out like a peer that is not installed.
"""

import json
import os
import subprocess
import sys
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType

import fastopt as fo
from fastopt._kernels import core

READY = "ready\n"


class Build:
    """The process of the other build, and the timer of the case that it has prepared last."""

    def __init__(self, process):
        self.process = process

    def beside(self, case, topic):
        """The case with the other build as a yardstick."""

        def earlier(*_):
            self.ask(topic=topic, what=case.what, threads=fo.get_num_threads())
            return self

        return case._replace(yardsticks=case.yardsticks | {"earlier": earlier})

    def timeit(self, number) -> float:
        """Seconds of so many calls, as timeit.Timer gives them."""
        return self.ask(number=number)

    def ask(self, **question) -> float:
        """The answer, in seconds; ImportError where the other build has none, ValueError where it has ended."""
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            with suppress(BrokenPipeError):
                self.process.stdin.close()
            raise ValueError(f"--earlier: the other build has ended, asked for {question}") from None
        if isinstance(answer, str):
            raise ImportError(answer)
        return answer


@contextmanager
def started(folder, **variables) -> Iterator[Build]:
    """The build in a folder, until the block is left; `variables` of the environment are for its process."""
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    command, environment = [sys.executable, "-P", __file__, str(folder)], os.environ | {"PYTHONPATH": path} | variables
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        build = Build(process)
        if build.process.stdout.readline() != READY:
            raise ValueError(f"--earlier: expected a folder with a build of fastopt, got {folder}")
        yield build


# ---------------------------------------------------------------- in the other process


def answer_questions() -> None:
    """Answer each line of stdin by seconds or, as a string, by the reason why there are none."""
    cases, threads, timer = cases_of_this_folder(), 1, timeit.Timer()
    if not Path(core.__file__).resolve().is_relative_to(Path(sys.argv[1]).resolve()):
        return  # an installed fastopt has been found in place of the folder's
    print(READY, end="", flush=True)
    for line in sys.stdin:
        question, answer = json.loads(line), 0.0  # type: dict, float | str
        threads = question.get("threads", threads)
        try:
            with fo.num_threads(threads):
                if "number" in question:
                    answer = timer.timeit(question["number"])
                else:
                    (case,) = (case for case in cases(question["topic"]) if case.what == question["what"])
                    timer = timeit.Timer(case.call())
        except Exception as error:  # whatever a layer that is not there leads to
            answer = f"{type(error).__name__}: {error}"
        print(json.dumps(answer), flush=True)


def cases_of_this_folder() -> Callable:
    """`cases` of fastopt.bench of this folder, whichever fastopt has been imported."""
    bench = ModuleType("fastopt.bench")
    bench.__path__ = [str(Path(__file__).parent)]
    sys.modules["fastopt.bench"] = bench
    return import_module("fastopt.bench._cases").cases


if __name__ == "__main__":
    answer_questions()
