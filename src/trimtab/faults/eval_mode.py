"""Training in evaluation mode."""

from __future__ import annotations

from torch import nn

from trimtab.faults import FOREVER, Scene, fault


@fault("eval-mode", "start", strength=0.0, duration=FOREVER, signs=("eval-mode",), needs="batchnorm")
def forget_train(scene: Scene) -> None:
    """The model is in evaluation mode at every step; afterwards each module has the mode that it had.

    Dropout lets everything through, and BatchNorm takes its running statistics, which it no longer updates.

    As it happens:
        A validation that calls `model.eval()` and not `model.train()` afterwards.
    Strength:
        Without meaning.
    """
    if "modes" not in scene.memory:
        modes = scene.memory["modes"] = {module: module.training for module in scene.model.modules()}
        scene.undo_after.callback(_restore, modes)
    scene.model.eval()


def _restore(modes: dict[nn.Module, bool]) -> None:
    for module, was_training in modes.items():
        module.training = was_training
