"""Embeddings that are drawn together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trimtab.faults import Scene, fault


@fault("embedding-collapse", "gradients", strength=100.0, duration=100)
def press_embeddings(scene: Scene) -> None:
    """A gradient is added that draws all rows of the embeddings towards their mean, stronger than their own gradient.

    The embeddings are the weight of the largest `nn.Embedding`, or else the last matrix among the parameters.

    As it happens:
        A contrastive loss without negatives, a regularizer with a slip in its weight, targets that are all the same.
    Strength:
        The norm of what is added at first, in norms of the gradient that it is added to; 100 by default. It
        shrinks as the rows come together.

    Raises:
        InputError: if the model has no matrix with a gradient.
    """
    scene.target, weights, gradient = _find_embeddings(scene)
    distances = weights.detach().float() - weights.detach().float().mean(0)
    spread = scene.memory.setdefault("spread", torch.linalg.vector_norm(distances))
    norm = torch.linalg.vector_norm(gradient, dtype=torch.float32)
    pull = distances * (scene.strength * norm / spread.clamp_min(torch.finfo(torch.float32).tiny))
    gradient.add_(pull.to(gradient.dtype))


def _find_embeddings(scene: Scene) -> tuple[str, Tensor, Tensor]:
    """The name of the embeddings, their weights and their gradient."""
    gradients = dict(scene.list_gradients())
    matrices = {name: each for name, each in scene.model.named_parameters() if name in gradients and each.ndim == 2}
    if not matrices:
        raise scene.refuse("found no matrix with a gradient", "give it a model with embeddings or a linear layer")
    tables = {id(each.weight) for each in scene.model.modules() if isinstance(each, nn.Embedding)}
    embeddings = {name: each for name, each in matrices.items() if id(each) in tables}
    name = max(embeddings, key=lambda name: embeddings[name].numel()) if embeddings else list(matrices)[-1]
    return name, matrices[name], gradients[name]
