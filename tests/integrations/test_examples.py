"""The examples run as they are, offline, and say that the supervisor did its work."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from tests.conftest import require

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")
@pytest.mark.filterwarnings("ignore:The '(train|val)_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize(
    ("name", "package", "said", "most"),
    [
        pytest.param("lightning_run", "lightning", r"10 updates dropped; validation loss (\S+)", 0.1, id="lightning"),
        pytest.param("hf_trainer", "transformers", r"step 76: rollback\nevaluation loss (\S+)", 1.4, id="transformers"),
        pytest.param(
            "accelerate_run", "accelerate", r"320 steps, 10 updates dropped(?s:.*) (\S+)", 0.3, id="accelerate"
        ),
        pytest.param("lora", "peft", r"step 81: rollback\nthe base is untouched.* → (\S+)", 2.7, id="lora"),
    ],
)
def test_example_runs(name: str, package: str, said: str, most: float, capsys: pytest.CaptureFixture[str]) -> None:
    """What goes wrong in the example is found and answered, and the loss it ends with is low."""
    require(package, "accelerate")
    from tests.integrations.runs_accelerate import forget_accelerators

    forget_accelerators()
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    found = re.search(said, capsys.readouterr().out)
    assert found is not None
    assert float(found[1]) < most
