"""Keep a SimCLR-like model of digits alive: its loss forgets to spread the rows at epoch 10, with and without a guard.

python examples/simclr_digits.py      # needs scikit-learn; writes runs/simclr-digits.html
"""

from pathlib import Path

import torch
from plotly.subplots import make_subplots
from sklearn.datasets import load_digits
from torch import Tensor, nn

import trimtab
from trimtab.control.guarding import RepresentationGuard
from trimtab.losses import compute_spread, normalize_rows
from trimtab.report.page import Card, Rows, write_page

EPOCHS, ONSET, BATCH = 40, 10, 128
LINES = {"embedding_r": "r", "effective_rank": "effective rank", "recall_at_1": "Recall@1", "spread": "spread weight"}

images = torch.tensor(load_digits().images, dtype=torch.float32).flatten(1) / 16
sample, rows = images[:256], images[256:]


def draw_view(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Digits without a fifth of their pixels, under a little noise."""
    kept = torch.rand(rows.shape, generator=generator) >= 0.2
    return rows * kept + 0.05 * torch.randn(rows.shape, generator=generator)


def train(*, spoilt: bool, guarded: bool) -> tuple[dict[str, list[float]], RepresentationGuard | None]:
    """What each review has measured, what the guard has done, and what came of that."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    first_view, second_view = draw_view(sample, generator), draw_view(sample, generator)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 32))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    weights = {"joint": 1.0, "spread": 0.5}
    supervisor = trimtab.Supervisor(model, optimizer)
    guard = RepresentationGuard(supervisor, weights) if guarded else None
    seen: dict[str, list[float]] = {name: [] for name in LINES}
    for epoch in range(EPOCHS + 1):
        with torch.no_grad():
            supervisor.review(embeddings=model(first_view), views=model(second_view))
        measured = {**supervisor.reviews.newest.values, **weights}
        for name, values in seen.items():
            value = measured[name]
            values.append(value if isinstance(value, float) else float("nan"))
        if epoch == ONSET and spoilt:
            weights["spread"] = 0.0
        for batch in rows[torch.randperm(len(rows), generator=generator)].split(BATCH):
            a, b = (normalize_rows(model(draw_view(batch, generator))) for _ in range(2))
            together = 1 - (a * b).sum(-1).mean()
            loss = weights["joint"] * together + weights["spread"] * compute_spread(torch.cat([a, b]))
            optimizer.zero_grad()
            loss.backward()
            supervisor.check(loss)
            optimizer.step()
    if guard is not None:
        guard.complete()
    supervisor.finish()
    return seen, guard


runs = {
    "healthy": train(spoilt=False, guarded=True),
    "spoilt, no guard": train(spoilt=True, guarded=False),
    "spoilt, guarded": train(spoilt=True, guarded=True),
}

figure = make_subplots(2, 2, subplot_titles=[*LINES.values()], vertical_spacing=0.14)
colors = dict(zip(runs, ("#009E73", "#D55E00", "#0072B2"), strict=True))
for label, (seen, _) in runs.items():
    for index, values in enumerate(seen.values()):
        line = {"color": colors[label], "dash": "dot" if label == "healthy" else "solid"}
        figure.add_scatter(
            y=values,
            name=label,
            line=line,
            legendgroup=label,
            showlegend=not index,
            row=index // 2 + 1,
            col=index % 2 + 1,
        )
figure.add_vline(x=ONSET, line_dash="dash", line_color="#808080")
grid = {"gridcolor": "rgba(128,128,128,0.25)", "zeroline": False}
figure.update_xaxes(**grid).update_yaxes(**grid).update_xaxes(title_text="epoch", row=2)
figure.update_layout(
    height=680,
    margin={"t": 40},
    paper_bgcolor="rgba(0,0,0,0)",
    plot_bgcolor="rgba(0,0,0,0)",
    legend={"orientation": "h"},
)

guard = runs["spoilt, guarded"][1]
assert guard is not None
effects = {each.of: each.verdict for each in guard.outcomes}
done = [
    (
        str(each.epoch - 1),
        each.name,
        each.what,
        f"{each.before:.3g} → {each.after:.3g}" if each.before != each.after else "",
        each.why,
        effects.get(each.name, ""),
    )
    for each in guard.made
]
recalls = {label: sum(seen["recall_at_1"][-3:]) / 3 for label, (seen, _) in runs.items()}
page = Path("runs/simclr-digits.html")
page.parent.mkdir(exist_ok=True)
write_page(
    page,
    "A SimCLR-like model of digits",
    f"The weight of the spread loss becomes 0 at epoch {ONSET}, so that all rows may lie on one point.",
    [Card(f"Recall@1, {label}", f"{recall:.2f}") for label, recall in recalls.items()],
    figure,
    [Rows("What the guard did", ("epoch", "change", "of what", "from → to", "why", "effect"), done)],
)
for label, recall in recalls.items():
    print(f"{label}: Recall@1 {recall:.3f}")
print(", ".join(f"{each.name} at epoch {each.epoch - 1}" for each in guard.made if each.kind != "relaxation"))
print(f"the picture is in {page}")
