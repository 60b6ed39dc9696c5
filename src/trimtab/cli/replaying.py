"""The command that judges a recorded run again, by other settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from trimtab.cli.doors import AsJson, console, say_errors, split_pair
from trimtab.journal import to_json

SWEEP_LEGEND = (
    "found: steps with findings of this detector; false: those where the diagnosis sees no trouble; missed: stretches "
    "of trouble in which no detector found anything. After the first decision that differs the rest is a guess."
)
"""What the columns of a sweep are."""


def replay(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    policy: Annotated[
        Path | None, typer.Option(help="The policy to judge by, a TOML file; the run's own if left out.")
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(metavar="SETTING=A,B,C", help="A setting to try several values of: loss-spike.sigmas=4,6,8."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a policy would have found and decided in a recorded run, beside what was decided."""
    if sweep is not None:
        _sweep(run, policy, sweep, as_json=as_json)
        return
    from trimtab.journal import read_run, to_fields
    from trimtab.policy import Policy
    from trimtab.replay import replay_run

    with say_errors():
        log = read_run(run)
        compared = replay_run(log, None if policy is None else Policy.from_toml(policy))
    num_differing = sum(not each.decides_same for each in compared)
    if as_json:
        rows = [{**to_fields(each), "is_same": each.is_same} for each in compared]
        print(json.dumps(to_json({"num_steps": len(log.measurements), "compared": rows})))
        return
    table = Table("step", "recorded", "replayed", "found", box=None, pad_edge=False)
    for each in compared:
        shown = each.replayed or each.recorded
        assert shown is not None
        verdicts = [
            decision.verdict if decision is not None else "nothing found" for decision in (each.recorded, each.replayed)
        ]
        table.add_row(
            str(each.step), *verdicts, "; ".join(dict.fromkeys(finding.message for finding in shown.findings))
        )
    if compared:
        console.print(table)
    console.print(
        f"{len(log.measurements)} steps and reviews replayed, {len(compared)} with findings, "
        f"{num_differing} decided otherwise"
    )


def _sweep(run: Path, policy: Path | None, wanted: str, *, as_json: bool) -> None:
    """Print what each value of a setting would have found and decided."""
    from trimtab.diagnosis.sweep import sweep
    from trimtab.policy import Policy

    with say_errors():
        setting, values = split_pair("--sweep", wanted)
        base = None if policy is None else Policy.from_toml(policy)
        rows = sweep(run, setting, [_parse_value(setting, each) for each in values.split(",")], base)
    if as_json:
        print(json.dumps(to_json({"setting": setting, "rows": [each.to_dict() for each in rows]})))
        return
    table = Table(setting, "found", "false", "missed", "first at", "decided", box=None, pad_edge=False)
    for each in rows:
        decided = ", ".join(f"{num} × {verdict}" for verdict, num in each.verdicts.items()) or "nothing"
        first = "-" if each.first_step is None else str(each.first_step)
        table.add_row(f"{each.value:g}", *map(str, (each.num_found, each.num_false, each.num_missed)), first, decided)
    console.print(table, "")
    console.print(SWEEP_LEGEND, style="dim", highlight=False)


def _parse_value(setting: str, text: str) -> float:
    from trimtab.errors import InputError

    try:
        return int(text) if text.strip().lstrip("+-").isdecimal() else float(text)
    except ValueError as error:
        raise InputError(f"--sweep: {text!r} is no number; give {setting}= several of them, with commas") from error
