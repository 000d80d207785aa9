"""Files: networks, runs and the state of optimizers, written whole or not at all, and believed only after a check.

Pass criterion: a file that is not what its reader expects is one ValueError that names it, and what it was to be
loaded into keeps every bit; a save that fails or is killed leaves the old file as it was.
"""

