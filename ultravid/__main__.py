"""``python -m ultravid`` is the command ``ultravid``."""

import sys

from ultravid.cli import main

sys.exit(main())
