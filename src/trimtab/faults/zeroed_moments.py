"""An optimizer that forgets what it knew of earlier gradients."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from trimtab.faults import Scene, fault


@fault("zeroed-moments", "end", strength=0.0, signs=("cause: the optimizer's moments",))
def forget_moments(scene: Scene) -> None:
    """All that the optimizer keeps of earlier gradients is multiplied by 0, and its count of steps stays.

    The corrections that Adam makes for its first steps are over by then, so that the updates that follow are too large.

    As it happens:
        A run resumed without the optimizer's state, a state that is cleared to save memory.
    Strength:
        What the moments are multiplied by; 0 by default.

    Raises:
        InputError: if the optimizer keeps nothing, or has not made a step yet.
    """
    for _, moment in list_moments(scene):
        moment.mul_(scene.strength)


def list_moments(scene: Scene) -> Iterator[tuple[str, Tensor]]:
    """The tensors that the optimizer keeps for each parameter, shaped like it, with their names in its state.

    Raises:
        InputError: if there are none.
    """
    found = [
        (name, value)
        for parameter, state in scene.optimizer.state.items()
        for name, value in state.items()
        if isinstance(value, Tensor) and value.shape == parameter.shape and name != "step"
    ]
    if not found:
        raise scene.refuse(
            "found no moments in the optimizer", "it acts after the first update of an optimizer that keeps moments"
        )
    yield from found
