"""Rooms import downward only, and the judging half does without torch."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

JUDGING = (
    "types errors registry history journal signals spectra detectors readers policy replay diagnosis report".split()
)
TRAINING = "ranks probes state losses actions supervisor control faults loop integrations recipes bench tabular".split()

LINT_IMPORTS = (
    "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(sys.argv[1], no_cache=True))"
)

IMPORT_ALL = """
import importlib, pkgutil, sys
room = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(getattr(room, "__path__", ()), room.__name__ + "."):
    importlib.import_module(module.name)
sys.exit("torch was imported" if "torch" in sys.modules else 0)
"""


def run_python(code: str, argument: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own: a fresh `sys.modules`, and nothing of ours reconfigured."""
    return subprocess.run([sys.executable, "-c", code, argument], cwd=cwd, capture_output=True, text=True, check=False)


def lint_toy(folder: Path, *arrows: str) -> subprocess.CompletedProcess[str]:
    """Hold a toy package with every room, whose only imports are the arrows, to the contracts of the real one."""
    package = folder / "trimtab"
    package.mkdir()
    for room in ["__init__", "cli", *JUDGING, *TRAINING]:
        (package / f"{room}.py").touch()
    for importer, imported in (arrow.split(" -> ") for arrow in arrows):
        name = imported if imported in ("numpy", "torch") else f"trimtab.{imported}"
        with (package / f"{importer}.py").open("a") as file:
            file.write(f"import {name}\n")
    return run_python(LINT_IMPORTS, str(ROOT / "pyproject.toml"), cwd=folder)


def test_rooms_keep_to_their_layers() -> None:
    """No room imports what its layer may not see, and no room is without a layer."""
    result = run_python(LINT_IMPORTS, "pyproject.toml")
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("arrow", "contract"),
    [
        pytest.param("history -> policy", "Imports go downward", id="up"),
        pytest.param("types -> errors", "Imports go downward", id="up-within-the-lowest-layer"),
        pytest.param("diagnosis -> report", "Imports go downward", id="up-within-the-reading-rooms"),
        pytest.param("detectors -> readers", "Imports go downward", id="sideways"),
        pytest.param("replay -> probes", "Imports go downward", id="judging-sees-training"),
        pytest.param("recipes -> tabular", "Imports go downward", id="recipes-see-tables"),
        pytest.param("attic -> types", "Imports go downward", id="room-without-a-layer"),
        pytest.param("probes -> policy", "Probes, state and losses", id="training-sees-judging"),
        pytest.param("state -> detectors", "Probes, state and losses", id="state-sees-judging"),
        pytest.param("actions -> history", "Actions see", id="actions-see-history"),
        pytest.param("actions -> probes", "Actions see", id="actions-see-probes"),
        pytest.param("policy -> torch", "The judging half", id="torch-in-judging"),
        pytest.param("types -> numpy", "Types and errors", id="numpy-in-types"),
    ],
)
def test_forbidden_arrow_breaks_a_contract(tmp_path: Path, arrow: str, contract: str) -> None:
    """An import that the layers forbid fails the check, and the contract it breaks is named."""
    result = lint_toy(tmp_path, arrow)
    broken = [line for line in result.stdout.splitlines() if line.endswith("BROKEN")]
    assert result.returncode == 1
    assert [line for line in broken if line.startswith(contract)], result.stdout


@pytest.mark.parametrize(
    "arrows",
    [
        pytest.param(["history -> types", "history -> numpy"], id="values-use-numpy"),
        pytest.param(["detectors -> history", "policy -> detectors"], id="down"),
        pytest.param(["report -> diagnosis", "diagnosis -> replay", "replay -> policy"], id="reading-rooms-in-order"),
        pytest.param(["probes -> registry", "probes -> history", "probes -> torch"], id="probes-write-history"),
        pytest.param(["actions -> state", "state -> history", "actions -> torch"], id="actions-through-state"),
        pytest.param(["supervisor -> policy", "supervisor -> probes", "supervisor -> actions"], id="both-halves-meet"),
        pytest.param(["cli -> bench", "bench -> faults", "bench -> loop", "bench -> torch"], id="top-sees-all"),
        pytest.param(["tabular -> recipes", "recipes -> loop"], id="tables-use-recipes"),
    ],
)
def test_allowed_arrows_keep_every_contract(tmp_path: Path, arrows: list[str]) -> None:
    """An import that the layers allow passes the check."""
    result = lint_toy(tmp_path, *arrows)
    assert result.returncode == 0, result.stdout


def test_package_imports_without_torch() -> None:
    """`import trimtab` alone does not import torch."""
    result = run_python("import sys, trimtab; print('torch' in sys.modules)", "")
    assert result.stdout == "False\n", result.stderr


@pytest.mark.parametrize(
    "room", [room for room in [*JUDGING, "cli"] if importlib.util.find_spec(f"trimtab.{room}") is not None]
)
def test_judging_room_imports_without_torch(room: str) -> None:
    """A judging room, each of its modules, and the command line can be imported without importing torch."""
    result = run_python(IMPORT_ALL, f"trimtab.{room}")
    assert result.returncode == 0, result.stderr
