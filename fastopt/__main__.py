"""`python -m fastopt`: the command line of cli.py."""

import sys

from fastopt.cli import main

sys.exit(main())
