"""Networks from files, and what files say besides."""

from fastopt import _files
from fastopt.nn import files
from fastopt.nn.sequential import assembled


def load(path):
    """Read a network that `Sequential.save` wrote, or the network of what `Trainer.save` wrote.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    Sequential

    Raises
    ------
    OSError
        The file is missing or unreadable.
    ValueError
        The file is damaged, truncated or of another kind, or its arrays are not those it describes. What an array
        takes is allocated only after that.

    See Also
    --------
    read_metadata : The network's `metadata` alone.

    Examples
    --------
    >>> import os, tempfile, fastopt as fo
    >>> net = fo.nn.Sequential([fo.nn.Dense(3, 2)], rng=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     net.save(os.path.join(folder, "model.safetensors"))
    ...     twin = fo.nn.load(os.path.join(folder, "model.safetensors"))
    >>> bool((twin.layers[0].weight == net.layers[0].weight).all())
    True
    """
    with _files.File(path, "network", "trainer") as file:
        try:
            metadata = files.as_metadata(file.document.get("metadata", {}))
            net = assembled(files.layers_of(file), file.document["dtype"], file.document.get("input_shape"))
        except _files.MALFORMED as error:
            why = _files.why(error)
            raise ValueError(f"{path}: expected a network, got a description that does not fit ({why})") from error
    net.metadata = metadata
    return net


def read_metadata(path) -> dict:
    """Read the `metadata` of a network from its file, or from a Trainer's, without its arrays.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    dict
        As `Sequential.save` was given it, or as `Sequential.metadata` was: JSON values, tuples as lists. Empty where
        there was none.

    Raises
    ------
    OSError
        The file is missing or unreadable.
    ValueError
        The file is damaged or of another kind.

    Examples
    --------
    >>> import os, tempfile, fastopt as fo
    >>> net = fo.nn.Sequential([fo.nn.Dense(3, 2)], rng=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.safetensors")
    ...     net.save(path, metadata={"version": "2026-11", "labels": ["no", "yes"]})
    ...     fo.nn.read_metadata(path)["version"], fo.nn.load(path).metadata["labels"]
    ('2026-11', ['no', 'yes'])
    """
    with _files.File(path, "network", "trainer") as file:
        try:
            return files.as_metadata(file.document.get("metadata", {}))
        except _files.MALFORMED as error:
            raise ValueError(f"{path}: its metadata is damaged ({_files.why(error)})") from error
