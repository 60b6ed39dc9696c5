"""Writes tables of the reference while the site is built, from the code: policy, run folder, commands.

A line `<!-- generated: NAME -->` on a page stands for one of them.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from trimtab.bench.contestants import contestants
from trimtab.cli import app
from trimtab.detectors import detectors
from trimtab.policy import DEFAULT_LADDERS, KINDS, PRESETS, Policy
from trimtab.probes import probes
from trimtab.recipes.linting import checks

DOCS = Path(__file__).parent.parent
SOURCE = DOCS.parent / "src"

MARK = re.compile(r"^<!-- generated: (.*) -->$", re.MULTILINE)
"""A line that stands for a table."""


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Put the tables in the places of their marks.

    Raises:
        PluginError: if there is no table of a name.
    """

    def write(mark: re.Match[str]) -> str:
        if mark[1] not in TABLES:
            raise PluginError(f"{page.file.src_uri}: there is no table {mark[1]!r}; there are {', '.join(TABLES)}")
        return TABLES[mark[1]]()

    return MARK.sub(write, markdown)


@cache
def read_module(name: str) -> ast.Module:
    """The source of a module, parsed."""
    path = SOURCE / name.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def read_fields(module: str, name: str) -> dict[str, str]:
    """The fields of a class and what is written below each."""
    body = next(each for each in read_module(module).body if isinstance(each, ast.ClassDef) and each.name == name).body
    return {
        each.target.id: " ".join(ast.literal_eval(below.value).split())
        for each, below in itertools.pairwise(body)
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name) and isinstance(below, ast.Expr)
    }


def write_policy_numbers() -> str:
    """The numbers of a policy with their defaults."""
    told = read_fields("trimtab.policy.table", "Policy")
    rows = [
        f"| `{each.name}` | `{each.default!r}` | {told[each.name]} |" for each in fields(Policy) if each.name != "plans"
    ]
    return "| setting | default | what it is |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n"


def write_policy_table() -> str:
    """Every detector with its settings and its ladder, as the default policy has them."""
    rows = [
        f"| [`{name}`](detectors/{name}.md) | {each.severity} | "
        + " ".join(f"`{setting}={value}`" for setting, value in each.settings.items())
        + f" | {' → '.join(f'`{rung}`' for rung in DEFAULT_LADDERS.get(name, ())) or 'advisory'} |"
        for name, each in sorted(detectors.items())
    ]
    head = "| detector | severity | settings | ladder |\n| --- | --- | --- | --- |"
    return head + "\n" + "\n".join(rows) + "\n"


def write_responses() -> str:
    """What a rung may ask for, in the words of the glossary."""
    words = read_glossary()
    rows = [f"| `{kind}` | {words[kind]} |" for kind in KINDS]
    return "| response | meaning |\n| --- | --- |\n" + "\n".join(rows) + "\n"


def read_glossary() -> Mapping[str, str]:
    """Each word of the glossary with its meaning; what stands in one line, each by itself."""
    text = (DOCS / "glossary.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*?) \| (.*) \|$", text, re.MULTILINE)
    return {word.strip("`"): meaning for words, meaning in rows for word in words.split(", ")}


def write_presets() -> str:
    """The named policies, as the tables they are."""
    return "\n".join(
        f"`Policy.preset({name!r})`:\n\n```toml\n{write_toml(table)}\n```\n" for name, table in PRESETS.items()
    )


def write_toml(table: Mapping[str, Any]) -> str:
    """A table of a policy as TOML."""
    lines = [f"{name} = {write_value(value)}" for name, value in table.items() if name != "detectors"]
    for name, entry in table.get("detectors", {}).items():
        quoted = f'"{name}"' if name == "*" else name
        lines += ["", f"[detectors.{quoted}]", *(f"{key} = {write_value(value)}" for key, value in entry.items())]
    return "\n".join(lines).strip()


def write_value(value: Any) -> str:
    """A value as TOML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(f'"{each}"' for each in value) + "]"
    return f"{value}"


def first_line(function: Callable[..., Any]) -> str:
    """What a table says of a function."""
    return (inspect.getdoc(function) or "").partition("\n")[0]


def write_probes() -> str:
    """All probes, with what they measure by group."""
    rows = [
        f"| `{name}` | {first_line(each.look)} | "
        + (", ".join(f"`{metric}`" for metric in each.per_group) or "")
        + f" | {'now and then' if each.is_sampled else 'every step'} |"
        for name, each in sorted(probes.items())
    ]
    return "| probe | what it measures | by group | when |\n| --- | --- | --- | --- |\n" + "\n".join(rows) + "\n"


def write_values() -> str:
    """The values an event holds, each with its fields."""
    parts = []
    for name in ("Finding", "Response", "Decision", "Change", "Action"):
        told = read_fields("trimtab.types", "Breach") if name == "Finding" else {}
        told |= read_fields("trimtab.types", name)
        rows = "\n".join(f"| `{field}` | {text} |" for field, text in told.items())
        parts.append(f"### {name}\n\n| field | what it is |\n| --- | --- |\n{rows}\n")
    return "\n".join(parts)


def write_contestants() -> str:
    """All contestants of the benchmark."""
    rows = [f"| `{name}` | {first_line(each.make_guard)} |" for name, each in sorted(contestants.items())]
    return "| contestant | what it does |\n| --- | --- |\n" + "\n".join(rows) + "\n"


def write_checks() -> str:
    """All checks of lint, the gravest first."""
    grave = ["critical", "high", "medium", "low"]
    listed = sorted(checks.values(), key=lambda each: (grave.index(each.severity), each.name))
    rows = [f"| `{each.name}` | {each.severity} | {first_line(each.judge)} |" for each in listed]
    return "| check | severity | what it finds |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n"


def write_commands() -> str:
    """Every command with its arguments and options, as typer has them."""
    group: Any = typer.main.get_command(app)
    options = [param for param in group.params if param.name != "help"]
    parts = ["## trimtab\n\n" + write_params(options)]
    return "\n\n".join([*parts, *(write_command(name, each) for name, each in group.commands.items())])


def write_command(name: str, command: Any) -> str:
    """The section of one command."""
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and each.name != "help"]
    usage = command.get_usage(command.context_class(command, info_name=f"trimtab {name}")).removeprefix("Usage: ")
    told = inspect.cleandoc(command.help).replace("\f", "")
    heading = f"## trimtab {name} {{ #trimtab-{name} }}"
    call = f"```text\n{usage}\n```"
    return "\n\n".join(each for each in (heading, told, call, write_params(arguments + options)) if each) + "\n"


def write_params(params: list[Any]) -> str:
    """A table of arguments and options."""
    rows = []
    for each in params:
        is_option = each.param_type_name == "option"
        word = each.metavar or each.name.upper()
        name = ", ".join(each.opts) + ("" if each.default is False else f" {word}") if is_option else word
        default = (
            "required"
            if each.required
            else ""
            if each.default is None or each.default is False
            else f"`{each.default}`"
        )
        rows.append(f"| `{name}` | {each.help or ''} | {default} |")
    return "| name | what it is | default |\n| --- | --- | --- |\n" + "\n".join(rows) if rows else ""


TABLES: Mapping[str, Callable[[], str]] = {
    "checks": write_checks,
    "commands": write_commands,
    "contestants": write_contestants,
    "policy numbers": write_policy_numbers,
    "policy table": write_policy_table,
    "presets": write_presets,
    "probes": write_probes,
    "responses": write_responses,
    "values": write_values,
}
"""The tables by name."""
