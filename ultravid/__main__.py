"""``python -m ultravid`` is the command ``ultravid``."""

import sys

from ultravid.cli import main

if __name__ == "__main__":  # importing all modules of the package must not run it
    sys.exit(main())
