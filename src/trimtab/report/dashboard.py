"""The page that a run leaves in its folder when it ends."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from trimtab.report.document import describe_run
from trimtab.report.page import write_report

DASHBOARD = "dashboard.html"
"""The file of a run folder that holds its page."""

SWITCH = "TRIMTAB_DASHBOARD"
"""The environment variable that is `off` where runs are to leave no page."""

logger = logging.getLogger("trimtab")


def write_dashboard(folder: Path) -> None:
    """Write the page of a run into its folder, unless the environment says not to; a disk that is full is a warning."""
    if os.environ.get(SWITCH) == "off":
        return
    try:
        write_report(folder / DASHBOARD, describe_run(folder))
    except OSError as error:
        logger.warning("the page %r is not written: %s", str(folder / DASHBOARD), error.strerror or error)
