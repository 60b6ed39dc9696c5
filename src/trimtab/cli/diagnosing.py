"""The command that says what is the matter with a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from trimtab.cli.doors import AsJson, say_errors, split_pair

if TYPE_CHECKING:
    from trimtab.diagnosis import Diagnosis
    from trimtab.readers import Log

UNREADABLE = 3
"""The exit status of `diagnose` where there is nothing to diagnose; 0 to 2 are its verdicts."""


WRONG_CALL = 2
"""The exit status of a call with arguments that no command has."""


class DiagnoseCommand(TyperCommand):
    """A command whose wrong calls are told from its verdicts by their exit status."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; a wrong one ends with the status of what cannot be read."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if getattr(error, "exit_code", 0) == WRONG_CALL:
                vars(error)["exit_code"] = UNREADABLE
            raise


def diagnose(
    run: Annotated[Path, typer.Argument(metavar="RUN_OR_LOG", help="A run folder, or another tool's log.")],
    as_json: AsJson = False,
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map", metavar="THEIRS=OURS", help="A column's name and our metric; may be given several times."
        ),
    ] = None,
    format: Annotated[str | None, typer.Option(help="The log's format, where it is not recognized.")] = None,
    postmortem: Annotated[
        Path | None, typer.Option(help="A post-mortem to write: Markdown, or a page if it ends in .html.")
    ] = None,
) -> None:
    """Say what is the matter with a run, and what to do: causes, the evidence for each, and the fix.

    It reads run folders, CSV, JSON lines, trainer_state.json, TensorBoard, MLflow, Weights & Biases, and printed text.

    Exit status: 0 healthy, 1 degraded, 2 failed, 3 unreadable.
    """
    from trimtab.diagnosis import diagnose as diagnose_run
    from trimtab.errors import InputError
    from trimtab.journal import MANIFEST
    from trimtab.readers import read_log

    with say_errors(UNREADABLE):
        names = _parse_mapping(mapping or [])
        if postmortem is not None and postmortem.suffix not in (".md", ".html"):
            raise InputError(f"diagnose: --postmortem {str(postmortem)!r} has to end in .md or .html")
        source: Path | Log = run
        if names or format is not None or not (run / MANIFEST).is_file():
            source = read_log(run, names, format)
        diagnosis = diagnose_run(source)
    if as_json:
        print(json.dumps(diagnosis.to_dict()))
    else:
        print(diagnosis, flush=True)
    if postmortem is not None:
        options = [f"--map={each}" for each in mapping or []] + ([f"--format={format}"] if format is not None else [])
        with say_errors(UNREADABLE):
            _write_postmortem(postmortem, diagnosis, source, options)
    raise typer.Exit(diagnosis.exit_status)


def _write_postmortem(path: Path, diagnosis: Diagnosis, source: Path | Log, options: list[str]) -> None:
    """Write a post-mortem in the format that the ending of its path says."""
    from trimtab.diagnosis.postmortem import postmortem as write_text
    from trimtab.errors import InputError
    from trimtab.journal import write_aside

    try:
        if path.suffix == ".html":
            from trimtab.diagnosis.walk import gather
            from trimtab.report.document import describe_evidence
            from trimtab.report.page import write_report

            write_report(path, describe_evidence(gather(source), diagnosis, source, options))
        else:
            write_aside(path, write_text(diagnosis, source, options))
    except OSError as error:
        if not path.parent.is_dir():
            raise InputError(
                f"diagnose: the post-mortem was not written: there is no folder {str(path.parent)!r}; make it first"
            ) from error
        raise InputError(
            f"diagnose: the post-mortem was not written: {str(path)!r} cannot be written: {error.strerror or error}"
        ) from error


def _parse_mapping(pairs: list[str]) -> dict[str, str]:
    """Their names to ours; one of theirs cannot be two of ours."""
    from trimtab.errors import InputError

    names: dict[str, str] = {}
    for theirs, ours in (split_pair("--map", each) for each in pairs):
        if names.setdefault(theirs, ours) != ours:
            raise InputError(f"--map: {theirs!r} is to be both {names[theirs]!r} and {ours!r}; a column is one metric")
    return names
