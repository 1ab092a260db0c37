"""python -m lsprism: the command line."""

import sys

from lsprism.cli import main
from lsprism.cli.follow import STOPPED, leave

code = main()
if code == STOPPED:  # a worker thread may still be running
    leave(code)
sys.exit(code)
