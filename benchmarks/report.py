"""The page of a million steps: how long it takes to write, how large it is, and whether one bad step is still seen.

    python benchmarks/report.py [--steps 1000000] [--groups 40] [--keep FOLDER]

A healthy run is written first; then one loss in the middle of it is made a spike, and one gradient norm of one group.
Both have to be on the page, at their step. It opens in Chromium where Playwright and Debian's package are there. It
ends with 1 if a bound is missed.
"""

from __future__ import annotations

import argparse
import json
import mmap
import re
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.bench.scale import write_run
from trimtab.journal import JOURNAL, read_manifest, row_dtypes
from trimtab.report.dashboard import DASHBOARD
from trimtab.report.document import describe_run
from trimtab.report.page import write_report

MOST_SECONDS, MOST_MEGABYTES, MOST_SECONDS_TO_OPEN = 20.0, 8.0, 2.0
"""The bounds."""

SPIKE = 77.0
"""The loss of the one bad step, whose neighbours are about 1; the group's gradient norm is as high."""

NUM_ROUNDS = 5
"""How often the page is opened."""

CHROMIUM = Path("/usr/bin/chromium")


def main() -> None:
    """Print the figures; end with 1 if one of them is beyond its bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--groups", type=int, default=40)
    parser.add_argument("--keep", type=Path, help="a folder to write the run into, and to leave it there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = options.keep or Path(folder) / "run"
        write_run(run, options.steps, options.groups)
        step = options.steps // 2 + 1
        put_spikes(run, step)
        sys.exit(0 if measure(run, step) else 1)


def put_spikes(run: Path, step: int) -> None:
    """Make one loss of a run a spike, and at the next step the gradient norm of its second group; in place."""
    with (run / JOURNAL).open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        begins = content.find(b'{"step": %d,' % step)
        line = content[begins : content.find(b"\n", begins)]
        loss = re.search(rb'"loss": ([0-9.e+-]+)', line)
        assert loss is not None
        content[begins + loss.start(1) : begins + loss.end(1)] = f"{SPIKE}".encode().ljust(len(loss[1]), b"0")
    dtype = row_dtypes(read_manifest(run))["groups.f32"]
    rows: Any = np.memmap(run / "groups.f32", dtype=dtype, mode="r+")
    rows["group_grad_norm"][step, 1] = SPIKE
    rows.flush()


def measure(run: Path, step: int) -> bool:
    """Write the page of a run and say what it took; returns whether every bound was kept."""
    began = time.perf_counter()
    write_report(run / DASHBOARD, describe_run(run))
    figures = {
        "written in": (time.perf_counter() - began, MOST_SECONDS, "s"),
        "page": ((run / DASHBOARD).stat().st_size / 1e6, MOST_MEGABYTES, "MB"),
    }
    seconds = open_page(run / DASHBOARD)
    if seconds is not None:
        figures["opened in"] = (seconds, MOST_SECONDS_TO_OPEN, "s")
    for name, (figure, bound, unit) in figures.items():
        print(f"{name}: {figure:.2f} {unit} (at most {bound:g})")
    print(f"memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB at most")
    is_seen = find_spikes(run / DASHBOARD, step)
    print(f"the one bad step is {'on' if is_seen else 'missing from'} the page")
    return is_seen and all(figure <= bound for figure, bound, _ in figures.values())


def find_spikes(page: Path, step: int) -> bool:
    """Whether the loss of the one bad step is on the page at its step, and that of the group in its column."""
    held = re.search(r'id="document">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    assert held is not None
    panels = {panel["id"]: panel for panel in json.loads(held[1])["panels"]}
    line, heat = panels["loss"]["lines"][0], panels["group_grad_norm_by_group"]
    losses = dict(zip(line["steps"], line["values"], strict=True))
    column = int(np.searchsorted(heat["steps"], step + 1, side="right")) - 1
    return bool(losses.get(step) == SPIKE and heat["cells"][1][column] == SPIKE)


def open_page(page: Path) -> float | None:
    """Seconds until a page shows its first curve, the lowest of all rounds; None where there is no browser."""
    if not CHROMIUM.exists():
        return None
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        rounds = []
        for _ in range(NUM_ROUNDS):
            tab = browser.new_page(viewport={"width": 1400, "height": 1000})
            began = time.perf_counter()
            tab.goto(page.resolve().as_uri(), wait_until="commit")
            tab.wait_for_selector("#panel-loss .main-svg")
            rounds.append(time.perf_counter() - began)
            tab.close()
        browser.close()
    return min(rounds)


if __name__ == "__main__":
    main()
