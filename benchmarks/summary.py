"""Count the goals of the fault benchmark from the files that `trimtab bench --json` writes."""

from __future__ import annotations

import argparse
from pathlib import Path

from trimtab.bench.cases import Case
from trimtab.bench.page import LEGEND, list_rows, to_markdown
from trimtab.bench.processes.outcomes import ProcessOutcome
from trimtab.bench.running import Trace
from trimtab.bench.suites import read_suite

PREFACE = """# Results of the fault benchmark

Written by `python benchmarks/summary.py FILE … --markdown benchmarks/RESULTS.md`; never edited by hand.
"""


def main() -> None:
    """Read the files, print every table, and write Markdown where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", help="files of trimtab bench, such as of faults and of healthy")
    parser.add_argument("--markdown", type=Path, help="where to write the tables as Markdown")
    options = parser.parse_args()
    parts = [PREFACE]
    traces: dict[Case, Trace] = {}
    outcomes: list[ProcessOutcome] = []
    for path in options.files:
        document, found, ended = read_suite(path)
        traces |= found
        outcomes += ended
        machine = document["machine"]
        parts.append(
            f"Suite `{document['suite']}`: {len(found):,} runs on {machine['system']}, {machine['num_cores']} cores, "
            f"Python {machine['python']}, torch {machine['torch']}, Trimtab {machine['trimtab']}.\n"
        )
    parts.append(f"{LEGEND[0].upper()}{LEGEND[1:]}.\n")
    text = "\n".join([*parts, *map(to_markdown, list_rows(traces, outcomes))])
    print(text)
    if options.markdown:
        options.markdown.write_text(text)


if __name__ == "__main__":
    main()
