"""fastopt's own times over commits, by thread count; `python -m fastopt bench` compares with peers.

The cases and the way to measure them are those of `fastopt.bench`; a file here names its topic.
"""

from fastopt.bench import seconds

THREADS = [1, 2]


def benchmark_of(topic):
    """The benchmark of a topic: its cases at each thread count, without the peers."""
    cases = {case.what: case.alone() for case in topic.cases()}

    class Cases:
        params = [THREADS, list(cases)]
        param_names = ["threads", "case"]
        unit = "seconds"

        def track_ours(self, threads, case):
            return seconds(cases[case], threads)["ours"]

    return Cases
