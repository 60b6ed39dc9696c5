"""What a run was started with, with secrets redacted."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from trimtab.journal.format import FORMAT_VERSION

SECRET = re.compile(
    r"(^|[^a-z])(token|secret|password|passwd|(api)?key|auth|credentials?|webhook([_-]?url)?)$", re.IGNORECASE
)
"""What the name of a command-line option with a secret looks like."""


LOGIN = re.compile(r"(?<=://)[^/@\s]+(?=@)")
"""Where an address holds a user's name and password."""

WEBHOOK = re.compile(r"https?://\S*(?:hooks\.|webhook)\S*", re.IGNORECASE)
"""The address of a webhook, which who knows it can write to."""


def describe_run(
    groups: Sequence[str],
    group_metrics: Sequence[str],
    dtypes: Sequence[str],
    settings: Mapping[str, Any],
    *,
    sampled_metrics: Sequence[str] = (),
) -> dict[str, Any]:
    """The manifest of a run that starts now: versions, command line with secrets redacted, groups and settings.

    Args:
        groups: the names of the parameter groups.
        group_metrics: the metrics with one number per group that are measured at every step.
        dtypes: the dtypes of the parameters.
        settings: what the run was configured with, such as the policy.
        sampled_metrics: the metrics with one number per group that are measured now and then.
    """
    return {
        "format": FORMAT_VERSION,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("trimtab", "torch")}},
        "command_line": redact(sys.argv),
        "dtypes": list(dtypes),
        "groups": list(groups),
        "group_metrics": list(group_metrics),
        "sampled_metrics": list(sampled_metrics),
        **settings,
    }


def redact(arguments: Sequence[str]) -> list[str]:
    """A command line without the values of options whose names speak of a secret."""
    shown: list[str] = []
    for argument, before in zip(arguments, ["", *arguments], strict=False):
        name, equals, _ = argument.partition("=")
        if equals and SECRET.search(name):
            shown.append(f"{name}=***")
        elif before.startswith("-") and "=" not in before and SECRET.search(before):
            shown.append("***")
        else:
            shown.append(WEBHOOK.sub("***", LOGIN.sub("***", argument)))
    return shown
