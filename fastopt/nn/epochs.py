"""The steps of an epoch, from where it stands: over rows that lie in memory, or over an iterable of batches.

`run` is the compiled training, which knows the position; `stepper` makes the steps; `prepare` is called before each
call of it.
"""

import numpy as np

from fastopt.nn.fit_data import batch_sizes, checked_batch, require_finite_batch, require_same_batches


def rows_epoch(run, stepper, prepare, rows, key, batch_size, least, seconds, bar) -> None:
    """Train on the rows that are left of the epoch; they have been checked.

    `key` draws their order, None: as they lie. `least` is the fewest rows of a batch, `seconds` how long a call of the
    stepper may last.
    """
    x, targets, weights = rows
    order = np.arange(len(x))
    if key is not None:
        np.random.default_rng(key).shuffle(order)
    while run.position < len(x):
        prepare()
        before = run.position
        sizes = batch_sizes(batch_size, len(x) - before, run.batches + 1, least)
        stepper.run(x, targets, weights, order, sizes, seconds)
        bar.rows((run.position - before) / len(x))


def batches_epoch(run, stepper, prepare, batches, check_finite) -> None:
    """Train on the batches that are left of the epoch; those an interrupted one has used are passed over."""
    used, passed, empty = run.position, 0, True
    before = run.batches
    for number, batch in enumerate(batches):
        empty = False
        x, targets, weights = checked_batch(batch, number)
        if passed < used:
            passed += len(x)
            continue
        require_same_batches(used, passed)
        if check_finite:
            require_finite_batch(*run.check(x, targets, weights)[:2])
        prepare()
        stepper.step(x, targets, weights, True)
    if empty and run.batches == before:  # other ranks may have had some
        raise ValueError("X: expected batches, got none; an iterable must start anew for each epoch")
    require_same_batches(used, passed)
