"""Files: safetensors, written whole or not at all, read only if they are ours.

Plain values are one JSON text in the file's metadata; its "kind" says what the file holds.
"""

import json
import os
from pathlib import Path

import numpy as np

FORMAT = 1


def write(path, arrays: dict[str, np.ndarray], document: dict) -> None:
    """Write arrays and a JSON document to `path`: a temporary file, synced, then renamed."""
    from safetensors.numpy import save

    text = json.dumps({"format": FORMAT, **document}, sort_keys=True)
    content = save({name: np.asarray(a, order="C") for name, a in arrays.items()}, metadata={"fastopt": text})
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.part")
    try:
        with temporary.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read(path, kind: str) -> tuple[dict[str, np.ndarray], dict]:
    """Arrays and document of a file of this kind; ValueError if it is damaged or foreign."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    with path.open("rb"):  # a missing or unreadable file is the usual OSError
        pass
    try:
        with safe_open(path, framework="numpy") as stream:
            text = (stream.metadata() or {}).get("fastopt")
            arrays = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{path}: expected a safetensors file, got one that is damaged or of another kind ({error})"
        ) from error
    if text is None:
        raise ValueError(f"{path}: expected a file written by fastopt, got a safetensors file of another program")
    try:
        document = json.loads(text)
        found = (document["format"], document["kind"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: its fastopt description is damaged ({error})") from error
    if found != (FORMAT, kind):
        raise ValueError(
            f"{path}: expected a {kind} file of format {FORMAT}, got a {found[1]} file of format {found[0]}"
        )
    return arrays, document
