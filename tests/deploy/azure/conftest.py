"""What the tests of the Azure files share: where things are, and no network."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from no_network import no_network  # noqa: F401 - pytest finds the fixture here

REPOSITORY = Path(__file__).resolve().parents[3]
AZURE = REPOSITORY / "deploy" / "azure"
sys.path.insert(0, str(AZURE))
# Nothing here may tell anybody that it ran.
os.environ["AZURE_CORE_COLLECT_TELEMETRY"] = "0"
