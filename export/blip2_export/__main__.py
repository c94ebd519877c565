"""`python -m blip2_export`."""

import sys

from blip2_export.cli import main

sys.exit(main())
