"""A loss scale that never moves."""

from __future__ import annotations

from torch.amp.grad_scaler import GradScaler

from trimtab.faults import FOREVER, Scene, fault


@fault(
    "stuck-loss-scale",
    "start",
    strength=2.0**-20,
    duration=FOREVER,
    signs=("loss-scale-stuck", "loss-scale-collapsed"),
    needs="scaler",
)
def hold_loss_scale(scene: Scene) -> None:
    """The loss scale is the same small number at the beginning of every step, and never grows.

    As it happens:
        `scaler.update()` that is not called, a scale restored from a run that had collapsed, a growth interval of
        millions of steps.
    Strength:
        The scale; 2^-20 by default, at which the gradients of activations vanish in float16. With a huge one, such as
        1e30, they overflow and the scale does not give way.

    Raises:
        InputError: if the injector was not given the loss scaler.
    """
    set_scale(find_scaler(scene), scene.strength)


def find_scaler(scene: Scene) -> GradScaler:
    """The loss scaler.

    Raises:
        InputError: if the injector was not given one that is enabled.
    """
    if scene.scaler is None or not scene.scaler.is_enabled():
        raise scene.refuse("found no loss scaler", "make the injector with scaler=scaler, an enabled GradScaler")
    return scene.scaler


def set_scale(scaler: GradScaler, scale: float) -> None:
    """Set the loss scale, and begin anew to count the steps until it grows."""
    scaler.load_state_dict({**scaler.state_dict(), "scale": scale, "_growth_tracker": 0})
