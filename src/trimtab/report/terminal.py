"""How a run stands, as lines for a terminal of any size."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from trimtab.report.health import GroupHealth
from trimtab.report.sparklines import BRAILLE, draw_sparkline
from trimtab.report.standing import BAD, Standing, State, Told, tell_seconds

if TYPE_CHECKING:
    from trimtab.report.watcher import Watcher

NARROWEST = 40
"""Columns below which nothing is laid out any more; what does not fit is cut off."""

TWO_COLUMNS = 130
"""Columns from which groups and what happened stand beside each other."""

LABEL, NUMBER = 13, 9
"""Columns of a curve's name, and of its numbers."""

CURVES = {
    "loss": "loss",
    "val_loss": "validation",
    "probe_loss": "probe loss",
    "grad_norm": "grad norm",
    "learning_rate": "learning rate",
    "loss_scale": "loss scale",
    "step_seconds": "step seconds",
}
"""The curves by their metrics, the most important first."""

STATE_STYLES: Mapping[State, str] = {
    "running": "green",
    "finished": "green",
    "stopped-early": "green",
    "starting": "cyan",
    "not-begun": "cyan",
    "paused": "yellow",
}
"""The colours of the states that are not bad; of a bad one it is red."""

VERDICTS = {
    "clip": ("▾", "yellow"),
    "drop": ("◦", "yellow"),
    "skip": ("×", "yellow"),
    "rollback": ("◆", "magenta"),
    "reload": ("◇", "magenta"),
    "halt": ("■", "red"),
}
"""How each verdict is marked."""

BANDS = {"exploded": "red", "critical": "red", "high": "yellow", "low": "cyan", "healthy": "green", "": "dim"}
"""The colours of the bands of health, the worst first."""

SEVERITIES = {"critical": "red", "high": "red", "medium": "yellow", "low": "", None: "dim"}
"""The colours of findings, by the gravest of them; of what is no finding it is dim."""

MOST_LINES = 4
"""Lines that one of what happened takes at most on a screen."""

SCALE, DECADES = 9, 2.0
"""Characters of the scale on which a norm lies beside its level, and the decades to either side of it."""

PLAIN = str.maketrans(dict(zip("▾◦×◆◇■━─●│…·≥", "vox<rH=-o|.->", strict=True))) | {
    BRAILLE: " ",
    ord("→"): "->",
    **dict.fromkeys(range(BRAILLE + 1, BRAILLE + 256), "*"),
}
"""What stands for characters that a terminal cannot show."""


@dataclass(frozen=True, slots=True)
class Room:
    """The lines of a screen, by what they are for."""

    loss: int
    """Lines of the loss curve."""

    other: int
    """Lines of each other curve."""

    curves: int
    """How many other curves."""

    groups: int
    """Lines of groups, without their heading."""

    told: int
    """Lines of what happened, without their heading."""


def draw_run(watcher: Watcher, standing: Standing, width: int, height: int | None = None) -> list[Text]:
    """A run in lines of at most `width` columns.

    Args:
        watcher: who follows it, for its curves.
        standing: how it stands.
        width: columns.
        height: the most lines; None for all there is to say, with no sentence cut short.
    """
    width = max(width, NARROWEST)
    head = [*_draw_head(standing, width), *_draw_reason(standing, width, None if height is None else 2)]
    if standing.state in ("not-begun", "damaged"):
        return head[:height]
    shown = [metric for metric in CURVES if metric in watcher.trails and metric != "loss"]
    num_groups = 0 if standing.health is None else len(standing.health.groups)
    is_wide = width >= TWO_COLUMNS
    room = _share_room(None if height is None else height - len(head), len(shown), num_groups, is_wide)
    body = [*_draw_curves(watcher, standing, shown, width, room)]
    each_width = (width - 3) // 2 if is_wide else width
    groups = _draw_groups(standing, each_width, room.groups)
    told = _draw_told(standing, each_width, room.told, is_whole=height is None)
    body += _put_beside(groups, told, each_width) if is_wide else [*groups, *told]
    return [*head, *body][:height]


def to_plain(line: Text) -> Text:
    """A line of characters that every terminal can show."""
    return Text(line.plain.translate(PLAIN).encode("ascii", errors="replace").decode(), spans=line.spans)


def clean(text: str) -> str:
    """A text without anything that a terminal would obey or break a line at."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in " ".join(text.split()))


def fit(text: str, width: int) -> str:
    """A text in exactly so many columns, with `…` where it was cut."""
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    return set_cell_size(text, max(width - 1, 0)) + "…"


def _show_number(value: float) -> str:
    """A number in at most nine columns."""
    if math.isnan(value):
        return ""
    return shown if len(shown := f"{value:.4g}") <= NUMBER else f"{value:.2g}"


def _show_bytes(num: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(num) < 1024:
            return f"{num:.3g} {unit}" if num < 1000 else f"{num:.0f} {unit}"
        num /= 1024
    return f"{num:.3g} TiB"


def _share_room(lines: int | None, num_curves: int, num_groups: int, is_wide: bool) -> Room:
    """What gets how many lines: the loss first, then what happened, the groups, and the other curves."""
    if lines is None:
        return Room(4, 2, num_curves, num_groups, 20)
    loss = 2 if lines < 14 else 3 if lines < 26 else 5 if lines < 40 else 7
    other = 1 if lines < 30 else 2
    curves = min(num_curves, 2 if lines < 17 else 3 if lines < 26 else num_curves)
    left = lines - loss - 1 - curves * other - (1 if is_wide else 2)
    if is_wide:
        return Room(loss, other, curves, max(left, 1), max(left, 1))
    groups = min(num_groups, max(left // 2, 1))
    return Room(loss, other, curves, groups, max(left - groups, 1))


def _draw_head(standing: Standing, width: int) -> Iterator[Text]:
    """Name, state and place in the first line; progress and pace in the next."""
    style = "red" if standing.state in BAD else STATE_STYLES.get(standing.state, "")
    state = f" {standing.state.replace('-', ' ')} "
    place = _tell_place(standing)
    name = clean(standing.name)
    left = width - len(state) - 2 - (len(place) + 2 if place else 0)
    line = Text(fit(name, min(cell_len(name), max(left, 8))), style="bold")
    line.append("  ").append(state, style=f"reverse bold {style}")
    if place:
        line.append(" " * max(width - line.cell_len - len(place), 2)).append(place)
    yield _cut(line, width)
    if standing.num_steps is not None and standing.num_steps > 0:
        yield _draw_progress(standing, width)
    pace = " · ".join(_tell_pace(standing))
    if pace:
        yield _cut(Text(pace, style="dim"), width)


def _tell_place(standing: Standing) -> str:
    if not standing.step:
        return ""
    of_steps = f" of {standing.num_steps:,}" if standing.num_steps else ""
    parts = [f"step {standing.step:,}{of_steps}"]
    if standing.epoch:
        parts.append(f"epoch {standing.epoch}" + (f"/{standing.num_epochs}" if standing.num_epochs else ""))
    if standing.phase:
        parts.append(clean(standing.phase))
    return " · ".join(parts)


def _draw_progress(standing: Standing, width: int) -> Text:
    assert standing.num_steps is not None
    share = min(standing.step / standing.num_steps, 1.0)
    left = standing.left_seconds
    told = f" {share:4.0%}" + (f"  {tell_seconds(left)} left" if math.isfinite(left) else "")
    cells = max(width - len(told), 5)
    done = round(share * cells)
    return Text.assemble(("━" * done, "green"), ("─" * (cells - done), "dim"), told)


def _tell_pace(standing: Standing) -> Iterator[str]:
    if standing.step_seconds > 0:
        yield f"{1 / standing.step_seconds:.3g} steps/s"
        yield f"{tell_seconds(standing.step_seconds)} a step"
    for metric, value in standing.values.items():
        if metric.endswith("_per_second") and math.isfinite(value):
            yield f"{value:,.4g} {clean(metric.removesuffix('_per_second').replace('_', ' '))}/s"
    if math.isfinite(standing.supervisor_share):
        yield f"supervisor {standing.supervisor_share:.1%}"
    for name, num in standing.memory.items():
        of = "" if name == "process" else f"of the {clean(name)} "
        yield f"memory {of}{_show_bytes(num)}"
    if standing.state == "running" and standing.silent_seconds > 5:
        yield f"silent for {tell_seconds(standing.silent_seconds)}"


def _draw_reason(standing: Standing, width: int, most: int | None) -> Iterator[Text]:
    if standing.reason:
        style = "red" if standing.state in BAD else ""
        yield from _wrap(clean(standing.reason), width, most, style)


def _draw_curves(watcher: Watcher, standing: Standing, others: Sequence[str], width: int, room: Room) -> Iterator[Text]:
    """The loss with its marks, then the other curves on the same steps."""
    trails = [trail for metric in CURVES if (trail := watcher.trails.get(metric))]
    span = (min((each.steps[0] for each in trails), default=0.0), max((each.steps[-1] for each in trails), default=1.0))
    plot = width - LABEL - NUMBER - 2
    if "loss" in watcher.trails:
        yield from _draw_curve(watcher, "loss", standing, plot, room.loss, span)
    yield _draw_marks(watcher.happenings.marks, standing, plot, span)
    for metric in others[: room.curves]:
        yield from _draw_curve(watcher, metric, standing, plot, room.other, span)


def _draw_curve(
    watcher: Watcher, metric: str, standing: Standing, plot: int, height: int, span: tuple[float, float]
) -> Iterator[Text]:
    trail = watcher.trails[metric]
    drawn = draw_sparkline(trail.steps, trail.values, plot, height, span)
    newest = _show_number(standing.values.get(metric, math.nan))
    highest = ("≥" if drawn.is_cut else "") + _show_number(drawn.highest)
    left = [CURVES[metric], newest, *[""] * height]
    right = [highest, *[""] * (height - 2), _show_number(drawn.lowest)] if height > 1 else [newest]
    for row, (name, dots, number) in enumerate(zip(left, drawn.rows, right, strict=False)):
        style = "bold" if row == 1 else ""
        edge = "" if height == 1 else "dim"
        yield Text.assemble((fit(name, LABEL), style), (dots, "cyan"), "  ", (fit(number, NUMBER), edge))


def _draw_marks(marks: Iterable[tuple[int, str]], standing: Standing, plot: int, span: tuple[float, float]) -> Text:
    """Where something was done under the loss, and how often in all."""
    cells = [(" ", "")] * plot
    for step, verdict in marks:
        place = round((step - span[0]) / max(span[1] - span[0], 1) * (plot - 1))
        if 0 <= place < plot:
            cells[place] = VERDICTS.get(verdict, ("?", ""))
    line = Text(" " * LABEL).append_tokens(cells)
    return line if standing.counts else Text(fit("", LABEL) + "nothing had to be done", style="dim")


def _draw_groups(standing: Standing, width: int, most: int) -> list[Text]:
    """The gradient norms: the total, then the groups, the worst first."""
    if standing.health is None or not most:
        return []
    total, *groups = standing.health.groups
    order = list(BANDS)
    groups.sort(key=lambda each: order.index(each.band))
    num = most if len(groups) + 1 <= most else most - 1
    shown, rest = [total, *groups][: max(num, 1)], groups[max(num - 1, 0) :]
    name = min(max((cell_len(clean(each.group)) for each in shown), default=0), width - SCALE - 33)
    name = max(name, 16)
    lines = [_rule(f"{'gradients of':{name}} {'norm':>9} {'usual':>9}  {'to usual':{SCALE}} band", width)]
    lines += [_cut(_draw_group(each, name), width) for each in shown]
    if rest:
        counts = Counter(each.band or "not judged" for each in rest)
        told = ", ".join(f"{count} {band}" for band, count in counts.items())
        lines.append(_cut(Text(f"and {len(rest)} more: {told}", style="dim"), width))
    return lines


def _draw_group(each: GroupHealth, name: int) -> Text:
    label = "all together" if each.group == "(total)" else clean(each.group)
    style = BANDS[each.band]
    numbers = f" {_show_number(each.norm):>9} {_show_number(each.level):>9}  "
    return Text.assemble(fit(label, name), numbers, *_draw_scale(each, style), " ", (each.band, style))


def _draw_scale(each: GroupHealth, style: str) -> list[tuple[str, str]]:
    """Where a norm lies beside its level, which is in the middle, on a log scale."""
    cells = [("·", "dim")] * SCALE
    cells[SCALE // 2] = ("│", "dim")
    ratio = each.norm / each.level if each.level > 0 else math.nan
    if ratio > 0 or math.isinf(each.norm):
        away = math.log10(ratio) / DECADES if math.isfinite(ratio) else 1.0
        cells[round((max(min(away, 1.0), -1.0) + 1) / 2 * (SCALE - 1))] = ("●", style)
    return cells


def _draw_told(standing: Standing, width: int, most: int, *, is_whole: bool) -> list[Text]:
    """What happened, the newest first."""
    lines = [_rule(f"what happened{_tell_counts(standing)}", width)]
    if not standing.told:
        return [*lines, Text("nothing was found", style="dim")]
    digits = max(len(f"{each.step:,}") for each in standing.told)
    newest = list(reversed(standing.told))[:most]
    each_most = None if is_whole else min(most // len(newest), MOST_LINES)
    return [*lines, *(line for each in newest for line in _draw_line(each, digits, width, each_most))]


def _tell_counts(standing: Standing) -> str:
    counts = ", ".join(
        f"{VERDICTS.get(verdict, ('', ''))[0]} {clean(verdict)} {num:,}" for verdict, num in standing.counts.items()
    )
    lost = f", {standing.num_lost:,} update{'s' * (standing.num_lost != 1)} lost" if standing.num_lost else ""
    return f": {counts}{lost}" if counts else ""


def _draw_line(each: Told, digits: int, width: int, most: int | None) -> Iterator[Text]:
    mark, style = VERDICTS.get(each.kind, ("·", SEVERITIES[each.severity]))
    times = f"{each.num:,} times since step {each.since:,}: " if each.num > 1 else ""
    what = "" if each.kind in (*VERDICTS, "found") else f"{each.kind}: "
    for row, line in enumerate(_wrap(clean(f"{times}{what}{each.text}"), width - digits - 3, most, "")):
        lead = Text.assemble((f"{each.step:>{digits},} ", "dim"), (mark, style), " ")
        yield (Text(" " * (digits + 3)) if row else lead) + line


def _put_beside(left: list[Text], right: list[Text], width: int) -> Iterator[Text]:
    for row in range(max(len(left), len(right))):
        first = left[row] if row < len(left) else Text()
        second = right[row] if row < len(right) else Text()
        yield Text.assemble(first, " " * (max(width - first.cell_len, 0) + 3), second)


def _rule(title: str, width: int) -> Text:
    return _cut(Text(title, style="bold underline"), width)


def _wrap(text: str, width: int, most: int | None, style: str) -> Iterator[Text]:
    """A text in lines; where there are too many the last one ends with `…`."""
    lines = [""]
    for word in text.split():
        if lines[-1] and cell_len(lines[-1]) + 1 + cell_len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    if most is not None and len(lines) > most:
        lines[most - 1 :] = [" ".join(lines[most - 1 :])]
    yield from (_cut(Text(line, style=style), width) for line in lines)


def _cut(line: Text, width: int) -> Text:
    line.truncate(width, overflow="ellipsis")
    return line
