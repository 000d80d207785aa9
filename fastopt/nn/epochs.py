"""The steps of an epoch, from where it stands: over rows that lie in memory, or over an iterable of batches.

`run` is the compiled training, which knows the position; `stepper` makes the steps; `prepare` is called before each
call of it. `after_batch` is called with the loss of each batch and says whether to leave the epoch there; where it is
None, rows in memory run many batches in a call.
"""

import numpy as np

from fastopt.nn.fit_data import batch_sizes, checked_batch, require_finite_batch, require_same_batches


def rows_epoch(run, stepper, prepare, after_batch, rows, key, batch_size, least, seconds, bar) -> bool:
    """Train on the rows that are left of the epoch, which have been checked; whether `after_batch` has ended it.

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
        if after_batch is None:
            stepper.run(x, targets, weights, order, sizes, seconds)
        else:
            chosen = order[before : before + int(sizes[0])]
            batch = (x[chosen], targets[chosen], None if weights is None else weights[chosen])
            loss = stepper.step(*batch, True)
        bar.rows((run.position - before) / len(x))
        if after_batch is not None and after_batch(loss):
            return True
    return False


def batches_epoch(run, stepper, prepare, after_batch, batches, check_finite) -> bool:
    """Train on the batches that are left of the epoch; whether `after_batch` has ended it.

    Those that an interrupted epoch has used are passed over.
    """
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
        loss = stepper.step(x, targets, weights, True)
        if after_batch is not None and after_batch(loss):
            return True
    if empty and run.batches == before:  # other ranks may have had some
        raise ValueError("X: expected batches, got none; an iterable must start anew for each epoch")
    require_same_batches(used, passed)
    return False
