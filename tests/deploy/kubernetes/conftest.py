"""Where the module is that starts the service."""

from __future__ import annotations

import sys
from pathlib import Path

# At the end: this folder is called as the package `kubernetes`.
sys.path.append(str(Path(__file__).parents[1]))
