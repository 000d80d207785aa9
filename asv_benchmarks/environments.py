"""A plugin of asv: this Python, named by its version.

asv's own `existing` environment names results by the path of the interpreter, so a clone that moves would start a new
history.
"""

import platform

from asv.environment import ExistingEnvironment


class ThisPython(ExistingEnvironment):
    """The Python that runs asv; which fastopt it imports is said by ASV_PYTHONPATH."""

    tool_name = "this"

    def __init__(self, conf, executable, requirements, tagged_env_vars):
        super().__init__(conf, "same", requirements, tagged_env_vars)
        self._python = ".".join(platform.python_version_tuple()[:2])

    @property
    def name(self):
        return f"{self.tool_name}-py{self._python}"
