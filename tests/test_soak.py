"""Everything at once: what `make soak` holds for a minute, for three seconds."""

import os
from pathlib import Path

import pytest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_threads_forks_and_interrupts_at_once_leave_every_bit_and_every_count_as_it_was(python):
    tests = str(Path(__file__).parent)
    assert python(f"import sys; sys.path.insert(0, {tests!r}); import soak; print(soak.main(3.0))").endswith("[]\n")
