"""`python -m fastopt`: the command line of `cli`."""

import sys

from fastopt.cli import main

sys.exit(main())
