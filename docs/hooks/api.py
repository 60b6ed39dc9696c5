"""Writes the pages of the Python reference while the site is built: one for the public names, one for each module."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import trimtab

SOURCE = Path(__file__).parent.parent.parent / "src"

MODULES = {
    "trimtab.types": "The values",
    "trimtab.errors": "Errors",
    "trimtab.history": "The history",
    "trimtab.detectors": "Detectors, to write one",
    "trimtab.detectors.stalled_step": "A run that hangs",
    "trimtab.policy": "Policy",
    "trimtab.journal": "The run folder, to read and write",
    "trimtab.readers": "Other tools' logs",
    "trimtab.replay": "Replay",
    "trimtab.signals": "Signals",
    "trimtab.diagnosis": "Diagnosis",
    "trimtab.diagnosis.postmortem": "Post-mortems",
    "trimtab.probes": "Probes, to write one",
    "trimtab.probes.locate": "Where a NaN begins",
    "trimtab.probes.rerun": "Does it happen again?",
    "trimtab.probes.spectra": "Spectra of a model",
    "trimtab.spectra": "Spectra of a matrix",
    "trimtab.state": "Snapshots and checkpoints",
    "trimtab.supervisor": "The supervisor",
    "trimtab.loop": "fit",
    "trimtab.control.best_epoch": "The best epoch",
    "trimtab.control.rows": "Rows of data",
    "trimtab.faults": "Faults, to cause or write one",
    "trimtab.losses": "Losses that keep representations alive",
    "trimtab.probes.embeddings": "Measurements of representations",
    "trimtab.control.guarding": "The guard of representations",
    "trimtab.control.knobs": "Knobs, moved slowly",
    "trimtab.report.document": "A run, as a document",
    "trimtab.report.notebook": "A run in a notebook",
    "trimtab.recipes": "Recipes",
    "trimtab.tabular.embedder": "Embeddings of tables",
    "trimtab.tabular.pipeline": "From a table to a card",
    "trimtab.tabular.reading": "Tables, to read",
    "trimtab.tabular.inference": "What columns are",
    "trimtab.tabular.searching": "The nearest rows",
    "trimtab.bench.contestants": "The benchmark's contestants",
    "trimtab.bench.training": "The benchmark's training",
    **{
        f"trimtab.integrations.{path.stem}": f"{path.stem.capitalize()}"
        for path in sorted((SOURCE / "trimtab" / "integrations").glob("[a-z]*.py"))
    },
}
"""The modules that have a page, with its title; the names that `import trimtab` gives have one together."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, and put them into the navigation."""
    pages = dict(write_pages())
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    reference = next(each["Reference"] for each in config.nav or () if "Reference" in each)
    reference.append({"Python": list(pages)})
    return files


def write_pages() -> Iterator[tuple[str, str]]:
    """The pages: path and Markdown."""
    yield "reference/api/index.md", write_public_names()
    for module, title in MODULES.items():
        yield f"reference/api/{module.removeprefix('trimtab.').replace('.', '-')}.md", write_module(module, title)


@cache
def load_package() -> griffe.Module:
    """The package as its source has it."""
    loaded = griffe.load("trimtab", search_paths=[str(SOURCE)])
    assert isinstance(loaded, griffe.Module)
    return loaded


def find_home(name: str) -> str:
    """The full name of the place where a name of the package is defined."""
    found = load_package()[name]
    return (found.final_target if isinstance(found, griffe.Alias) else found).path


def write_public_names() -> str:
    """The page of what `import trimtab` gives, what is called most first."""
    intro = "What `import trimtab` gives. The other pages of this section have the modules behind it."
    first = ["Supervisor", "fit", "diagnose", "locate_nonfinite", "measure_spectra", "Policy", "Plan"]
    homes = {name: find_home(name) for name in dict.fromkeys([*first, *trimtab.__all__])}
    rows = "\n".join(f"- [`trimtab.{name}`][{home}]" for name, home in homes.items())
    return f"# Python\n\n{intro}\n\n{rows}\n\n" + "\n".join(f"::: {home}\n" for home in homes.values())


def write_module(name: str, title: str) -> str:
    """The page of one module: its public names, but for those that have a place already."""
    module = load_package()[name.removeprefix("trimtab.")]
    places = find_places()
    own = [member for member in list_members(module) if places[member] == name]
    text = module.docstring.value.strip() if module.docstring else ""
    return f"# {title}\n\n`{name}`\n\n{text}\n\n" + "\n".join(f"::: {each}\n" for each in own)


@cache
def find_places() -> dict[str, str]:
    """Each documented name with the module on whose page it is: the first one that has it, `trimtab` before all."""
    places = {find_home(name): "trimtab" for name in trimtab.__all__}
    for module in MODULES:
        for member in list_members(load_package()[module.removeprefix("trimtab.")]):
            places.setdefault(member, module)
    return places


def list_members(module: griffe.Object | griffe.Alias) -> list[str]:
    """The full names of a module's public members that have a docstring; constants made in one line have none."""
    names = module.exports or [name for name, each in module.members.items() if name[0] != "_" and not each.is_alias]
    found = [resolve(module.members[str(name)]) for name in names]
    return [each.path for each in found if each is not None and each.docstring and not each.is_module]


def resolve(member: griffe.Object | griffe.Alias) -> griffe.Object | None:
    """What a member of a module stands for; None where its definition is not known by name."""
    try:
        return member.final_target if isinstance(member, griffe.Alias) else member
    except griffe.AliasResolutionError:
        return None
