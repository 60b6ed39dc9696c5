"""Forty independent towers: what happens to one must not touch the others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trimtab import Decision, Supervisor

NUM_TOWERS = 40

BAD_TOWER = 7


class Towers(nn.Module):
    """Towers that share neither weights nor loss."""

    def __init__(self) -> None:
        super().__init__()
        self.towers = nn.ModuleList(
            nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1)) for _ in range(NUM_TOWERS)
        )

    def forward(self, x: Tensor) -> Tensor:
        """All outputs; shape (batch, 5) to (batch, towers)."""
        return torch.cat([tower(x) for tower in self.towers], dim=1)


class TowerRun:
    """A training of all towers, in which the gradients of one can be driven to a norm."""

    def __init__(self, **options: Any) -> None:
        torch.manual_seed(0)
        self.model = Towers()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        guarded = options.pop("guarded", True)
        self.supervisor = Supervisor(self.model, self.optimizer, **options) if guarded else None
        self.decisions: list[Decision] = []
        self.driven: list[Tensor] = []
        self.gradients: list[Tensor | None] = []
        self.step = 0

    @property
    def bad(self) -> list[nn.Parameter]:
        """The parameters of the tower that is driven."""
        return list(self.model.towers[BAD_TOWER].parameters())

    def run(self, num_steps: int, norm: float | None = None) -> TowerRun:
        """Take steps, with the norm of the bad tower's gradients driven to a number if one is given."""
        for _ in range(num_steps):
            self.step += 1
            x = torch.randn(32, 5, generator=torch.Generator().manual_seed(self.step))
            y = x.sum(1, keepdim=True).sin() + torch.linspace(-1, 1, NUM_TOWERS)
            loss = (self.model(x) - y).square().mean(0).sum()
            self.optimizer.zero_grad()
            loss.backward()
            if norm is not None:
                gradients = [each.grad for each in self.bad if each.grad is not None]
                torch._foreach_mul_(gradients, norm / float(torch.nn.utils.get_total_norm(gradients)))
                self.driven = [each.clone() for each in gradients]
            if self.supervisor is not None:
                self.decisions.append(self.supervisor.check(loss))
            self.gradients = [each.grad for each in self.bad]
            self.optimizer.step()
        return self

    def capture(self, *, bad: bool) -> dict[str, Tensor]:
        """Weights and optimizer tensors of the bad tower, or of all others."""
        ours = {id(each) for each in self.bad}
        found: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters():
            if (id(parameter) in ours) == bad:
                found[name] = parameter.detach().clone()
                found.update(
                    {f"{name}: {key}": value.clone() for key, value in self.optimizer.state[parameter].items()}
                )
        return found
