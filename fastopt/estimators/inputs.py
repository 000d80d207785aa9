"""What a fit is handed, before scikit-learn's validation has it: what that would lose, and columns it remembers."""

import contextlib

import numpy as np

from fastopt._arrays import has_masked

COLUMNS = "n_features_in_", "feature_names_in_"  # which scikit-learn's validation assigns at once


def check_present(**arrays) -> None:
    """Raise TypeError for a masked array, whose mask scikit-learn drops, ValueError for a missing label of pandas."""
    for name, array in arrays.items():
        if has_masked(array):
            raise TypeError(f"{name}: expected an array without masked elements; drop those rows, or fill them in")
        if name.startswith("y") and hasattr(array, "isna"):
            missing = np.asarray(array.isna())
            if missing.any():
                row = int(np.argwhere(missing)[0, 0])
                raise ValueError(f"{name}: expected values, got a missing one in row {row}; drop such rows")


@contextlib.contextmanager
def columns_kept(estimator):
    """Leave the columns that an estimator knows as they were, where a fit fails."""
    before = {name: vars(estimator)[name] for name in COLUMNS if name in vars(estimator)}
    try:
        yield
    except BaseException:
        for name in COLUMNS:
            vars(estimator).pop(name, None)
        vars(estimator).update(before)
        raise
