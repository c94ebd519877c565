"""`python -m gpu_check`."""

import sys

from gpu_check.cli import main

if __name__ == "__main__":
    sys.exit(main())
