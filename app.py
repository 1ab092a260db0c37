"""Opens the dashboard: python app.py [--host H] [--port N] [--state-dir FOLDER] [--auth FILE|env] [--open]."""

import sys

from lsprism.ui.serve import main

if __name__ == "__main__":
    sys.exit(main())
