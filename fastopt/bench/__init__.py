"""`python -m fastopt bench`: fastopt beside its peers, in one process, and beside the machine's limits.

- A topic is a module of this folder, and the folder is the list of topics. Its `cases()` yields the
  cases (`_cases.py`), which need neither arrays nor peers until they are prepared.
- Cases with something to compare with are the rows that `bench` prints (`_report.py`) and puts into pages
  (`_markdown.py`). All cases, also those that only fastopt takes part in, are timed over commits by
  `asv_benchmarks/`.
- Everything is measured in one way (`_measure.py`), another build of fastopt, too (`_earlier.py`);
  `_networks.py` and `_curvature.py` hold what several topics or one long topic are made of;
  `_processor.py` measures what `tune --machine` prints.
- Peers are imported where a case is prepared, nowhere else in fastopt. The column of a peer that is
  not installed stays empty.
"""

from fastopt.bench._cases import TOPICS, Case, cases
from fastopt.bench._markdown import update
from fastopt.bench._measure import seconds
from fastopt.bench._processor import tune_processor
from fastopt.bench._report import main

__all__ = ["TOPICS", "Case", "cases", "main", "seconds", "tune_processor", "update"]
