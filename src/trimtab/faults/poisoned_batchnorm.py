"""Running statistics of a BatchNorm layer that are not numbers, or far off."""

from __future__ import annotations

import math

from torch import nn

from trimtab.faults import Scene, fault

LAYERS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""What keeps running statistics of its inputs."""


@fault("poisoned-batchnorm", "end", strength=math.nan, signs=("buffer_norm is not finite",), needs="batchnorm")
def poison_statistics(scene: Scene) -> None:
    """The running mean and variance of one BatchNorm layer, drawn at random, are multiplied after the step.

    Training goes on as if nothing had been, since it takes the statistics of each batch; evaluation does not.

    As it happens:
        One batch with a NaN or a huge value in it: the update is skipped, and the running statistics are not.
    Strength:
        What the statistics are multiplied by; NaN by default, 1000 for a batch in another unit.

    Raises:
        InputError: if the model has no such layer.
    """
    layers = [(name, each) for name, each in scene.model.named_modules() if isinstance(each, LAYERS)]
    layers = [(name, each) for name, each in layers if each.running_mean is not None]
    if not layers:
        raise scene.refuse("found no BatchNorm layer with running statistics", "give it a model that has one")
    scene.target, layer = layers[scene.draw(len(layers))]
    for statistic in (layer.running_mean, layer.running_var):
        assert statistic is not None
        statistic.mul_(scene.strength)
