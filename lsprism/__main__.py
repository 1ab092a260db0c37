"""python -m lsprism: the command line."""

import sys

from lsprism.cli import main

sys.exit(main())
