"use strict";
/* The page of a run, or of several: trimtab.show(document) draws a document of trimtab.report.document, and draws it
   anew when it is called again with a newer one. Names and messages of a run only ever become text. */
const trimtab = (() => {
  const COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B58900", "#56B4E9", "#7A5195", "#808080"];
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "solid", "dash", "dot"];
  const ROLES = { bound: "dash", plan: "dot" };
  const HEIGHT = 150, HEIGHT_OF_FIRST = 300, ROW = 14, MOST_LINES = 40, CLOSED = ["Activations", "More"];
  const NEAR = 24; // pixels within which marks share a button
  const AHEAD = "600px"; // how far below the window panels are drawn already
  const ZONES = { emergency: "rgba(213,94,0,0.3)", warning: "rgba(213,94,0,0.16)", recovering: "rgba(230,159,0,0.14)", healthy: "rgba(0,158,115,0.13)",
    "as random ones": "rgba(0,114,178,0.12)" };
  const FEW = 8; // steps that have a tick each
  const FOLD = 3; // entries of the list from which on those alike are folded
  const WORDS = { clip: "clipped", drop: "update dropped", skip: "skipped", rollback: "rolled back", reload: "reloaded", halt: "halted", finding: "found",
    adaptation: "adapted", outcome: "outcome", helped: "it helped", harmed: "it harmed", fault: "fault put in", resumed: "resumed", failure: "Trimtab failed", end: "end" };
  const LANES = { done: "done", found: "found", course: "course of the run" };
  const SIGNS = { // shape and colour of each kind of mark, told apart without colour too
    clip: ["down", 0], drop: ["hexagon", 4], skip: ["cross", 1], rollback: ["diamond", 1], reload: ["diamond", 6],
    halt: ["square", 3], finding: ["ring", 0], adaptation: ["up", 2], outcome: ["star", 2], helped: ["star", 2],
    harmed: ["star", 1], fault: ["bolt", 3], end: ["bar", 7], resumed: ["bar", 2], failure: ["square", 1] };
  const ODD = "#CC3399", OPEN = ["cross", "bar", "ring", "asterisk"];
  const SHAPES = {
    down: "M-6,-5H6L0,6Z", up: "M-6,5H6L0,-6Z", cross: "M-5,-5L5,5M5,-5L-5,5", diamond: "M0,-7L7,0L0,7L-7,0Z",
    bolt: "M2,-8L-5,2H0L-2,8L5,-2H0Z", square: "M-5,-5H5V5H-5Z", hexagon: "M-6,0L-3,-5H3L6,0L3,5H-3Z", ring: "M-5,0A5,5 0 1 0 5,0A5,5 0 1 0 -5,0Z",
    star: "M0,-7L2,-2L7,-2L3,2L4.5,7L0,4L-4.5,7L-3,2L-7,-2L-2,-2Z", bar: "M0,-7V7", asterisk: "M0,-6V6M-5.2,-3L5.2,3M-5.2,3L5.2,-3", dot: "M-3,0A3,3 0 1 0 3,0A3,3 0 1 0 -3,0Z" };
  const state = { runs: [], range: null, whole: [0, 1], plots: new Map(), shown: new Set(Object.keys(LANES)) };
  const isMany = () => state.runs.length > 1;

  /* ---------- small things ---------- */
  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.flat().filter(child => child !== null && child !== undefined && child !== ""));
    return node;
  }
  const plain = text => String(text).replace(/[&<>]/g, sign => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[sign]);
  const COUNTS = new Intl.NumberFormat("en-US"); // one for all: a heat map asks it ten thousand times
  const count = number => COUNTS.format(Number(number));
  function format(number) {
    if (number === null || number === undefined || !isFinite(number)) return "–";
    const size = Math.abs(number);
    if (size !== 0 && (size < 1e-3 || size >= 1e6)) return number.toExponential(2);
    return Number.isInteger(number) ? count(number) : String(Number(number.toPrecision(4)));
  }
  function shorten(name, most) {
    const text = String(name);
    if (text.length <= most) return text;
    const end = Math.ceil((most - 1) * 0.6);
    return text.slice(0, most - 1 - end) + "…" + text.slice(-end);
  }
  /* Text in which what stands between backticks is code, and lines stand one under the other. */
  function rich(text) {
    return String(text).split("\n").flatMap((line, number) => [
      ...(number ? [make("br")] : []),
      ...line.split(/`([^`]+)`/).map((part, place) => place % 2 ? make("code", {}, part) : part)]);
  }
  function findNearest(steps, step) {
    let low = 0, high = steps.length - 1;
    while (low < high) { const middle = (low + high) >> 1; if (steps[middle] < step) low = middle + 1; else high = middle; }
    return low > 0 && step - steps[low - 1] <= steps[low] - step ? low - 1 : low;
  }
  const isIn = (step, spans) => spans.some(([first, last]) => step >= first && step <= last);
  const isNarrow = () => innerWidth <= 800;
  const nameOf = run => isMany() ? `${run.name}: ` : "";

  /* ---------- the whole page ---------- */
  function show(shown) {
    const runs = shown.runs || [shown];
    const isFirst = !state.runs.length;
    state.runs = runs;
    state.whole = [Math.min(...runs.map(run => run.steps[0])), Math.max(...runs.map(run => run.steps[1]), 1)];
    if (state.whole[0] === state.whole[1]) state.whole = [state.whole[0] - 1, state.whole[1] + 1];
    const page = document.getElementById("page");
    if (isFirst) for (const name of ["top", "curves", "differences", "events", "diagnosis", "more"]) page.append(make("section", { id: name }));
    document.title = shown.title || runs.map(run => run.name).join(", ") + (runs.length > 1 ? ": comparison" : ": " + runs[0].verdict);
    fill("top", runs.length > 1 ? [headComparison(shown)] : headRun(runs[0]));
    buildCurves(isFirst);
    fill("differences", isMany() ? [...(shown.tables || []), ...shown.differences].flatMap(table) : []);
    fill("events", listEvents());
    fill("diagnosis", [make("h2", {}, "Diagnosis"), ...runs.flatMap(run => wrapRun(run, diagnose(run)))]);
    fill("more", runs.flatMap(run => wrapRun(run, [...timeline(run), ...rows(run), ...run.tables.map(table)])));
  }
  const fill = (id, nodes) => document.getElementById(id).replaceChildren(...nodes);
  const wrapRun = (run, nodes) => state.runs.length === 1 ? nodes
    : [make("details", { class: "run", open: state.runs.length < 4 }, make("summary", {}, run.name), ...nodes)];
  function headRun(run) {
    return [make("div", { class: "title" }, make("h1", {}, run.name), contents()),
      make("dl", { class: "facts" }, run.facts.map(([name, text]) => make("div", {}, make("dt", {}, name), make("dd", {}, text)))),
      cards(run.glance, run.verdict)];
  }
  const contents = () => make("nav", { "aria-label": "Sections" }, [["curves", "Curves"], ...(isMany() ? [["differences", "Differences"]] : []),
    ["events", "What happened"], ["diagnosis", "Diagnosis"], ["more", "Timeline and tables"]].map(([id, name]) => make("a", { href: "#" + id }, name)));
  function headComparison(shown) {
    return make("div", {}, make("div", { class: "title" }, make("h1", {}, shown.title || "Comparison of " + shown.runs.length + " runs"), contents()),
      shown.summary ? make("p", { class: "summary" }, shown.summary) : "", shown.cards ? cards(shown.cards, "") : "",
      make("ul", { class: "key" }, shown.runs.map((run, number) =>
        make("li", {}, swatch(COLORS[number % 8], "solid"), run.name, make("span", { class: "verdict " + run.verdict }, run.verdict)))));
  }
  const cards = (glance, verdict) => make("div", { class: "cards" }, glance.map(each =>
    make("div", { class: "card " + (each.question === "Verdict" ? verdict : "") },
      make("h2", {}, each.question), make("strong", {}, hold(each.answer)), make("p", {}, hold(each.more)))));
  const hold = text => String(text).replaceAll(" × ", "\u00a0×\u00a0"); // a count stays with what is counted
  function table(each) {
    if (each.head.length === 1) return make("section", {}, make("h2", {}, each.title), make("ul", {}, each.body.map(([cell]) => make("li", {}, rich(cell)))));
    return make("section", {}, make("h2", {}, each.title), make("div", { class: "wide" }, make("table", {},
      make("thead", {}, make("tr", {}, each.head.map(name => make("th", { scope: "col" }, name)))),
      make("tbody", {}, each.body.map(row => make("tr", {}, row.map(cell => make("td", {}, rich(cell)))))))));
  }
  /* What the signs mean that are drawn, those alone. */
  function listSigns() {
    const panels = state.runs.flatMap(run => run.panels), kinds = new Set(state.runs.flatMap(run => run.marks.map(mark => mark.kind)));
    const items = Object.keys(WORDS).filter(kind => kinds.has(kind)).map(kind => [sign(...SIGNS[kind]), WORDS[kind]]);
    if (panels.some(panel => (panel.lines || []).some(line => line.odd.length) || (panel.odd || []).length)) items.push([sign("asterisk", 8), "not finite"]);
    if (panels.some(panel => panel.num_above)) items.push([sign("up", 0), "above the axis"]);
    if (state.runs.some(run => run.undone.length)) items.push([make("i", { class: "undone" }), "undone by a rollback, and the curve of it faint"]);
    return items.map(([drawn, text]) => make("li", {}, drawn, text));
  }
  function sign(shape, color) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    for (const [name, value] of Object.entries({ viewBox: "-10 -10 20 20", width: 20, height: 20, "aria-hidden": "true" })) svg.setAttribute(name, value);
    const drawn = { d: SHAPES[shape], stroke: COLORS[color] || ODD, "stroke-width": 2, fill: OPEN.includes(shape) ? "none" : COLORS[color] };
    for (const [name, value] of Object.entries(drawn)) path.setAttribute(name, value);
    svg.append(path);
    return svg;
  }

  /* ---------- the curves ---------- */
  function buildCurves(isFirst) {
    const root = document.getElementById("curves");
    if (isFirst) {
      const output = make("output", { id: "range" });
      const button = (name, told, act) => make("button", { type: "button", title: told, "aria-label": told, onclick: act }, name);
      root.append(make("h2", {}, "Curves"), make("p", { class: "soft", id: "none", hidden: true }, "No step has been recorded."), make("ul", { class: "key", id: "signs" }), make("p", { class: "soft", id: "reduced" }),
        make("div", { class: "curves", id: "panels", onpointermove: followPointer, onpointerleave: leave },
          make("div", { class: "head" },
            make("div", { class: "tools", role: "toolbar", "aria-label": "Range of steps" },
              button("Whole run", "Show all steps", () => zoom(null)), button("+", "Zoom in", () => zoomBy(0.5)),
              button("−", "Zoom out", () => zoomBy(2)), button("←", "Earlier steps", () => moveBy(-0.4)),
              button("→", "Later steps", () => moveBy(0.4)), make("span", { class: "soft" }, "or drag across a panel; double-click shows all"), output),
            make("div", { class: "lanes", id: "lanes" })),
          make("div", { id: "drawn" }), make("div", { class: "cursor", id: "cursor", hidden: true })),
        make("div", { id: "story", role: "tooltip", hidden: true }));
      addEventListener("resize", () => requestAnimationFrame(resize));
      addEventListener("beforeprint", () => prepareToPrint(true));
      addEventListener("afterprint", () => prepareToPrint(false));
      document.getElementById("lanes").addEventListener("keydown", walkMarks);
    }
    document.getElementById("panels").hidden = !state.runs.some(run => run.panels.length);
    document.getElementById("none").hidden = state.runs.some(run => run.panels.length);
    fill("signs", listSigns());
    const most = Math.max(...state.runs.flatMap(run => run.panels.flatMap(panel => (panel.lines || []).map(line => line.num - line.steps.length))), 0);
    document.getElementById("reduced").textContent = most > 0
      ? "The run is longer than a page can hold: of each stretch of steps a line has the lowest and the highest number, so that no spike is lost; around the first interventions it has every step." : "";
    const ids = [...new Map(state.runs.flatMap(run => run.panels.map(panel => [panel.id, panel.section]))).entries()];
    const order = [...new Set(ids.map(([, section]) => section))];
    const drawn = document.getElementById("drawn");
    const kept = new Map([...drawn.querySelectorAll("details")].map(node => [node.dataset.section, node.open]));
    const nodes = [];
    for (const section of order) {
      const panels = ids.filter(([, each]) => each === section).map(([id]) => panelNode(id));
      if (CLOSED.includes(section)) nodes.push(make("details", { class: "panels", "data-section": section,
        open: kept.get(section), ontoggle: drawSeen },
        make("summary", {}, section === "More" ? `Other measurements (${panels.length})` : `${section} (${panels.length})`), ...panels));
      else nodes.push(make("h3", { class: "section" }, section), ...panels);
    }
    for (const id of [...state.plots.keys()]) if (!ids.some(([each]) => each === id)) state.plots.delete(id);
    drawn.replaceChildren(...nodes);
    for (const plot of state.plots.values()) { plot.isDrawn = false; plot.div.style.minHeight = heightOf(plot) + "px"; }
    tellRange();
    drawSeen();
  }
  function panelNode(id) {
    const parts = state.runs.flatMap((run, number) => run.panels.filter(panel => panel.id === id).map(panel => ({ run, number, panel })));
    let plot = state.plots.get(id);
    if (!plot) {
      const div = make("div", { class: "plot" });
      plot = { id, div, caption: make("figcaption", {}), isDrawn: false };
      plot.node = make("figure", { class: "panel " + parts[0].panel.kind, id: "panel-" + id }, plot.caption, div);
      seen.observe(plot.node);
      state.plots.set(id, plot);
    }
    plot.parts = parts;
    plot.readouts = [];
    const first = parts[0].panel;
    const about = [first.about, ...parts.filter(({ panel }) => panel.num_above).map(({ run, panel }) =>
      `${nameOf(run)}${count(panel.num_above)} ${panel.num_above === 1 ? "number lies" : "numbers lie"} above the axis, up to ${format(panel.highest)}`)];
    plot.caption.replaceChildren(make("h3", {}, first.title), make("p", {}, about.filter(Boolean).join(". ")),
      first.kind === "heat" ? scaleOf(first) : legendOf(plot));
    return plot.node;
  }
  const swatch = (color, dash) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("width", 24); svg.setAttribute("height", 8); svg.setAttribute("aria-hidden", "true");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
    line.setAttribute("d", "M0,4H24"); line.setAttribute("stroke", color); line.setAttribute("stroke-width", 2.4);
    line.setAttribute("stroke-dasharray", { dash: "6 3", dot: "2 3", dashdot: "6 3 2 3", longdash: "10 3" }[dash] || "none");
    svg.append(line);
    return svg;
  };
  function styleOf(plot, number, place, line) {
    const color = COLORS[(isMany() ? number : place) % 8];
    return { color, dash: ROLES[line.role] || (isMany() ? DASHES[place % 8] : place > 3 ? DASHES[place % 8] : "solid") };
  }
  /* The lines of a panel with what they are at a step; of several runs, for each line those that have it. */
  function legendOf(plot) {
    const list = make("ul", { class: "legend" });
    const rows = plot.parts.flatMap(({ run, number, panel }) => panel.lines.map((line, place) => ({ run, number, line, place })));
    const names = [...new Set(rows.map(({ line }) => line.name))];
    if (isMany()) rows.sort((a, b) => names.indexOf(a.line.name) - names.indexOf(b.line.name));
    let told = null;
    for (const { run, number, line, place } of rows) {
      const { color, dash } = styleOf(plot, number, place, line);
      const output = make("output", {});
      const newest = [...line.values].reverse().find(value => value !== null);
      output.textContent = format(newest);
      plot.readouts.push({ line, output, newest });
      if (isMany() && names.length > 1 && line.name !== told) list.append(make("li", { class: "line" }, line.name));
      told = line.name;
      list.append(make("li", {}, swatch(color, dash), make("span", {}, isMany() ? run.name : line.name === plot.parts[0].panel.title ? "" : line.name), output));
    }
    return list;
  }
  /* The power of ten by which a number is above its group's own median. */
  const toRelative = (panel, group, value) => value > 0 && panel.levels[group] > 0 ? Math.log10(value / panel.levels[group]) : null;
  /* The power of ten by which a number is above what is usual, or below it; 0 in between. */
  const toUsual = ([low, high], value) => value > 0 ? Math.log10(value / Math.min(Math.max(value, low), high)) : null;
  const toColor = (panel, group, value) => panel.usual ? toUsual(panel.usual, value) : panel.is_relative ? toRelative(panel, group, value) : value;
  function colorsOf(panel) {
    const numbers = panel.cells.flatMap((row, group) => row.map(value => toColor(panel, group, value))).filter(value => value !== null);
    const low = numbers.reduce((a, b) => Math.min(a, b), Infinity), high = numbers.reduce((a, b) => Math.max(a, b), -Infinity);
    if (panel.usual) {
      const most = Math.min(Math.max(-low, high, 0.04), 2), [from, to] = panel.usual;
      return { range: [-most, most], told: [format(Number((from / 10 ** most).toPrecision(2))), format(Number((to * 10 ** most).toPrecision(2)))], isTwoSided: true };
    }
    if (panel.is_relative) {
      const most = Math.min(Math.max(-low, high, 0.04), 2), times = Number((10 ** most).toPrecision(3));
      return { range: [-most, most], told: ["1/" + times, times + " ×"], isTwoSided: true };
    }
    if (low < 0) { const most = Math.max(-low, high); return { range: [-most, most], told: [format(-most), format(most)], isTwoSided: true }; }
    return { range: [0, high || 1], told: ["0", format(high || 1)], isTwoSided: false };
  }
  const TWO_SIDED = [[0, "rgb(0,114,178)"], [0.25, "rgba(0,114,178,0.55)"], [0.5, "rgba(128,128,128,0.12)"], [0.75, "rgba(213,94,0,0.6)"], [1, "rgb(213,94,0)"]];
  const ONE_SIDED = [[0, "rgba(0,114,178,0.05)"], [0.5, "rgba(0,114,178,0.55)"], [1, "rgb(0,114,178)"]];
  function scaleOf(panel) {
    const { told, isTwoSided } = colorsOf(panel);
    const strip = make("i", {});
    strip.style.background = `linear-gradient(to right, ${(isTwoSided ? TWO_SIDED : ONE_SIDED).map(([at, color]) => `${color} ${at * 100}%`).join(",")})`;
    return make("span", { class: "scale" }, told[0], strip, told[1],
      panel.odd.length ? make("span", { class: "odd" }, sign("asterisk", 8), "not finite") : "");
  }
  const isClosed = plot => { const around = plot.node.closest("details.panels"); return around !== null && !around.open; };
  /* The first panel is drawn at once; the others when they come into sight, since a page may have fifty. */
  const seen = new IntersectionObserver(entries => {
    for (const entry of entries) for (const plot of state.plots.values()) if (plot.node === entry.target) plot.isSeen = entry.isIntersecting;
    drawSeen();
  }, { rootMargin: AHEAD });
  function drawSeen() {
    if (!window.Plotly) return addEventListener("DOMContentLoaded", drawSeen, { once: true }); // the text does not wait for it
    const waits = (plot, place) => (place === 0 || plot.isSeen) && !plot.isDrawn && !isClosed(plot) && plot.node.isConnected;
    const plot = [...state.plots.values()].find(waits);
    if (!plot) { document.body.dataset.isDrawn = "true"; return; }
    const isFirst = area() === null || plot === [...state.plots.values()][0];
    plot.isDrawn = true;
    draw(plot);
    if (isFirst) drawLanes();
    clearTimeout(state.next);
    state.next = setTimeout(drawSeen, 16); // each is shown before the next is drawn
  }
  const namesOf = plot => plot.parts.reduce((sum, { panel }) => sum + panel.groups.length, 0);
  function heightOf(plot) {
    if (plot.parts[0].panel.kind !== "heat") return plot.id === "loss" ? HEIGHT_OF_FIRST : HEIGHT;
    return Math.max(namesOf(plot) * (namesOf(plot) > 60 ? 9 : ROW), 60) + 34;
  }
  function margins(panel) {
    const left = isNarrow() ? 96 : 58;
    return { l: panel.kind === "heat" && !isNarrow() ? left + 210 : left, r: 16, t: 6, b: 22 };
  }
  function draw(plot) {
    const panel = plot.parts[0].panel;
    const isHeat = panel.kind === "heat";
    const [traces, layout] = isHeat ? drawHeat(plot) : drawLines(plot);
    Object.assign(layout, {
      margin: margins(panel), showlegend: false, hovermode: "closest", dragmode: "zoom", autosize: true,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family: "system-ui, sans-serif", size: 11.5 },
      hoverlabel: { align: "left", namelength: -1, font: { size: 12 } },
      annotations: [{ text: "step", xref: "paper", x: 0, xanchor: "right", xshift: -8, yref: "paper", y: 0, yanchor: "top", yshift: -5, showarrow: false, font: { size: 11 } }] });
    Object.assign(layout.xaxis, { range: [...(state.range || state.whole)], zeroline: false, tickformat: ",d", nticks: 8, ...stepTicks(), ticks: "outside", ticklen: 3, tickcolor: "#888" });
    Plotly.react(plot.div, traces, layout, { displayModeBar: false, responsive: false, doubleClick: false, showTips: false });
    if (!plot.isHeard) {
      plot.isHeard = true;
      plot.div.on("plotly_relayout", change => hear(plot, change));
      plot.div.on("plotly_doubleclick", () => { zoom(null); return false; });
    }
  }
  function drawLines(plot) {
    const traces = [], shapes = [], edge = { x: [], y: [], text: [], symbol: [], color: [] };
    const isLog = plot.parts.every(({ panel }) => panel.is_log);
    plot.isLog = isLog;
    for (const { run, number, panel } of plot.parts) {
      panel.lines.forEach((line, place) => {
        const { color, dash } = styleOf(plot, number, place, line);
        const isMain = line.role === "main" || line.role === "review";
        const isUndone = isMain && run.undone.length ? line.steps.map(step => isIn(step, run.undone)) : null;
        const values = isLog ? line.values.map(value => value > 0 ? value : null) : line.values;
        const style = { type: "scatter", x: line.steps, hoverinfo: "skip", name: plain(line.name), connectgaps: !isMain,
          mode: line.role === "review" || (isMain && line.steps.length < 60) ? "lines+markers" : "lines",
          marker: { size: 5, color, symbol: line.role === "review" ? "circle-open" : "circle" },
          line: { color, dash, width: isMain ? 1.5 : 1.2, shape: line.is_stepped ? "hv" : "linear" } };
        traces.push({ ...style, y: isUndone ? values.map((value, row) => isUndone[row] ? null : value) : values });
        if (isUndone && isUndone.some(Boolean)) traces.push({ ...style, meta: "undone", opacity: 0.45, mode: "lines+markers",
          marker: { size: 3, color }, y: values.map((value, row) => isUndone[row] ? value : null) });
        const told = nameOf(run) + line.name;
        for (const [first, last, num] of findStretches(line)) {
          edge.x.push(first); edge.symbol.push("asterisk"); edge.color.push(isMany() ? color : ODD);
          edge.text.push(`${plain(told)}: not finite ${num > 1 ? `${count(num)} times from step ${count(first)} to ${count(last)}` : `at step ${count(first)}`}`);
          if (num > 1) shapes.push({ type: "line", x0: first, x1: last, yref: "paper", y0: 0.95, y1: 0.95, line: { color: isMany() ? color : ODD, width: 3 } });
        }
        if (panel.limit !== null) line.values.forEach((value, row) => {
          if (value > panel.limit) { edge.x.push(line.steps[row]); edge.symbol.push("triangle-up"); edge.color.push(color); edge.text.push(`${plain(told)}: ${format(value)} at step ${count(line.steps[row])}`); }
        });
      });
      if (panel.id === "loss") drawDecisions(traces, run, number);
      const marked = run.marks.filter(mark => ["rollback", "reload", "halt"].includes(mark.kind)).slice(-MOST_LINES);
      for (const mark of marked) shapes.push({ type: "line", x0: mark.step, x1: mark.step, yref: "paper", y0: 0, y1: 1, layer: "below", line: { color: isMany() ? COLORS[number % 8] : "#D55E00", width: 1, dash: "dot" } });
      for (const [first, last] of run.undone.slice(-MOST_LINES)) shapes.push({ type: "rect", x0: first - 0.5, x1: last + 0.5, yref: "paper", y0: 0, y1: 1, layer: "below", line: { width: 0 }, fillcolor: "rgba(128,128,128,0.14)" });
    }
    const levels = Object.entries(plot.parts[0].panel.levels || {});
    levels.forEach(([name, value]) => {
      if (isLog && value <= 0) return;
      shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: value, y1: value, line: { color: "#808080", width: 1, dash: "dash" },
        label: { text: `${plain(name)} ${format(value)}`, textposition: "end", font: { size: 10 }, yanchor: "bottom" } });
    });
    const [low, high] = fitRange(plot).map(end => isLog ? 10 ** end : end);
    for (const [name, from, to] of plot.parts[0].panel.zones || []) {
      const y0 = Math.max(from, low), y1 = Math.min(to ?? high, high);
      if (y1 > y0) shapes.push({ type: "rect", xref: "paper", x0: 0, x1: 1, y0, y1, layer: "below", line: { width: 0 }, fillcolor: ZONES[name] || ZONES.healthy,
        label: { text: (y1 - y0) / (high - low) > 0.1 ? plain(name) : "", textposition: "middle right", font: { size: 10 } } });
    }
    if (edge.x.length) traces.push({ type: "scatter", x: edge.x, y: edge.x.map(() => 0.95), yaxis: "y2", mode: "markers", meta: "edge", text: edge.text, hovertemplate: "%{text}<extra></extra>", cliponaxis: false,
      marker: { symbol: edge.symbol.map(each => each === "asterisk" ? "asterisk-open" : each), size: 9, color: edge.color, line: { color: edge.color, width: 1.6 } } });
    return [traces, { height: heightOf(plot), shapes, xaxis: {}, yaxis: { type: isLog ? "log" : "linear", range: fitRange(plot), zeroline: false, ...ticksOf(plot, fitRange(plot)) },
      yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true } }];
  }
  /* The stretches of a line that are not finite: the first step, the last one, and how many of them there are. */
  function findStretches({ steps, values, odd }) {
    const isOdd = new Set(odd), found = [];
    let newest = null;
    steps.forEach((step, row) => {
      if (!isOdd.has(step)) { if (values[row] !== null) newest = null; return; }
      if (newest) { newest[1] = step; newest[2] += 1; } else found.push(newest = [step, step, 1]);
    });
    return found;
  }
  /* On the loss each intervention has its sign where it was. */
  function drawDecisions(traces, run, number) {
    const acted = run.marks.filter(mark => mark.lane === "done" && mark.value !== null);
    if (!acted.length) return;
    const limit = run.panels.find(panel => panel.id === "loss").limit ?? Infinity;
    const symbols = { clip: "triangle-down", drop: "hexagon", skip: "x-thin-open", rollback: "diamond", reload: "diamond-tall", halt: "square" };
    acted.sort((a, b) => rank(a) - rank(b)); // the gravest on top
    const color = isMany() ? COLORS[number % 8] : "#D55E00";
    traces.push({ type: "scatter", mode: "markers", meta: "decisions", x: acted.map(mark => mark.step), y: acted.map(mark => Math.min(mark.value, limit)),
      text: acted.map(mark => `${plain(mark.title)}, step ${count(mark.step)}<br>${breakLines(mark.story)}`), hovertemplate: "%{text}<extra></extra>",
      marker: { size: acted.map(mark => mark.kind === "skip" ? 8 : 10), symbol: acted.map(mark => symbols[mark.kind] || "circle"), color, opacity: 1,
        line: { width: acted.map(mark => mark.kind === "skip" ? 2 : 1), color: acted.map(mark => mark.kind === "skip" ? color : "#ffffff") } } });
  }
  function breakLines(text, width = 80) {
    const lines = [""];
    for (const word of String(text).split(/\s+/)) {
      if (lines[lines.length - 1].length + word.length > width) lines.push("");
      lines[lines.length - 1] = (lines[lines.length - 1] + " " + word).trim();
    }
    return lines.slice(0, 12).map(plain).join("<br>") + (lines.length > 12 ? "…" : "");
  }
  /* The range of the numbers that are in sight: the axis follows the zoom, and no spike far above hides the rest. */
  function fitRange(plot) {
    const [first, last] = state.range || state.whole;
    let low = Infinity, high = -Infinity;
    for (const { panel } of plot.parts) {
      for (const line of panel.lines) for (let row = 0; row < line.steps.length; row++) {
        const value = line.values[row];
        if (value === null || line.steps[row] < first || line.steps[row] > last || (plot.isLog && value <= 0)) continue;
        if (value < low) low = value;
        if (value > high && !(panel.limit !== null && value > panel.limit)) high = value;
      }
      for (const value of Object.values(panel.levels || {})) if (value >= low / 30 && value <= high * 30 && !(plot.isLog && value <= 0)) { low = Math.min(low, value); high = Math.max(high, value); }
    }
    if (low === Infinity) return plot.isLog ? [-1, 1] : [0, 1];
    if (high < low) high = low;
    if (plot.isLog) { low = Math.log10(low); high = Math.log10(high); }
    const room = (high - low) * 0.08 || Math.abs(high) * 0.05 || 0.5;
    return [low - room, high + room];
  }
  /* Of a few steps each has its number, and none has it twice. */
  function stepTicks() {
    const [first, last] = state.range || state.whole;
    return last - first <= FEW ? { tickmode: "linear", tick0: 0, dtick: 1 } : { tickmode: "auto", tick0: null, dtick: null };
  }
  function ticksOf(plot, [low, high]) {
    if (!plot.isLog) return { tickformat: "~g", nticks: 5, tickvals: null, ticktext: null, tickmode: "auto" };
    const vals = [];
    const digits = high - low > 4 ? [1] : high - low > 1.6 ? [1, 3] : [1, 2, 3, 5, 7];
    const stride = Math.max(1, Math.ceil((high - low) / 6));
    for (let power = Math.floor(low); power <= high; power++) if (digits.length > 1 || power % stride === 0) for (const digit of digits) {
      const at = power + Math.log10(digit);
      if (at >= low && at <= high) vals.push(digit * 10 ** power);
    }
    if (vals.length < 2) return { tickmode: "auto", nticks: 4, tickvals: null, ticktext: null, tickformat: "~g" };
    return { tickmode: "array", tickvals: vals, ticktext: vals.map(value => value >= 1e5 || value < 1e-3 ? value.toExponential(0).replace("e+", "e") : String(Number(value.toPrecision(1)))) };
  }
  /* Cells that are not finite, `[column, group]`, as stretches of columns side by side: the first, the last, the group. */
  function joinColumns(odd) {
    const found = [];
    let newest = null;
    for (const [column, group] of [...odd].sort((a, b) => a[1] - b[1] || a[0] - b[0])) {
      if (newest && newest[2] === group && column === newest[1] + 1) newest[1] = column; else found.push(newest = [column, column, group]);
    }
    return found;
  }
  /* What all names begin with, up to a dot: it is left out where they are too long to be told apart. */
  function findPrefix(names, most) {
    if (names.length < 2 || !names.some(name => name.length > most)) return "";
    let prefix = names[0];
    for (const name of names) while (!name.startsWith(prefix)) prefix = prefix.slice(0, -1);
    return prefix.slice(0, prefix.lastIndexOf(".") + 1);
  }
  function drawHeat(plot) {
    const traces = [], shapes = [], ticks = [], names = [];
    let offset = 0;
    const most = isNarrow() ? 13 : 38;
    for (const { run, panel } of plot.parts) {
      const { range, isTwoSided } = colorsOf(panel);
      const steps = panel.steps, last = Math.max(run.steps[1], steps[steps.length - 1]);
      const edges = [...steps, last + (steps.length > 1 ? (last - steps[0]) / steps.length : 1) * (last === steps[steps.length - 1])].map(step => step - 0.5);
      const z = panel.cells.map((row, group) => row.map(value => toColor(panel, group, value)));
      const text = panel.cells.map((row, group) => row.map((value, column) => value === null ? ""
        : `${plain(nameOf(run))}${plain(panel.groups[group])}<br>${format(value)}${panel.is_relative && panel.levels[group] > 0 ? ` (${format(value / panel.levels[group])} × its median)` : ""}, from step ${count(steps[column])}`));
      traces.push({ type: "heatmap", x: edges, y: panel.groups.map((_, group) => offset + group), z, text, hovertemplate: "%{text}<extra></extra>", hoverongaps: false,
        zmin: range[0], zmax: range[1], colorscale: isTwoSided ? TWO_SIDED : ONE_SIDED, showscale: false, xgap: 0, ygap: 1 });
      const middle = column => (edges[column] + edges[column + 1]) / 2, stretches = joinColumns(panel.odd);
      if (stretches.length) traces.push({ type: "scatter", mode: "markers", x: stretches.map(([column]) => middle(column)), y: stretches.map(([, , group]) => offset + group),
        text: stretches.map(([first, last, group]) => `${plain(nameOf(run))}${plain(panel.groups[group])}: not finite, from step ${count(steps[first])}${last > first ? ` to ${count(steps[last])}` : ""}`), hovertemplate: "%{text}<extra></extra>",
        marker: { symbol: "asterisk-open", size: 8, color: ODD, line: { color: ODD, width: 1.6 } } });
      for (const [first, last, group] of stretches) if (last > first) shapes.push({ type: "line", x0: middle(first), x1: middle(last), y0: offset + group, y1: offset + group, line: { color: ODD, width: 2 } });
      const prefix = findPrefix(panel.groups, most - nameOf(run).length);
      panel.groups.forEach((name, group) => { ticks.push(offset + group); names.push(plain(shorten(nameOf(run) + (prefix ? "…" + name.slice(prefix.length) : name), most))); });
      offset += panel.groups.length + 1;
    }
    const stride = Math.ceil(ticks.length / 60);
    return [traces, { height: heightOf(plot), shapes, xaxis: { showgrid: false }, yaxis: { range: [offset - 1.5, -0.5], fixedrange: true, showgrid: false, zeroline: false, tickfont: { size: 10.5 },
      tickvals: ticks.filter((_, row) => row % stride === 0), ticktext: names.filter((_, row) => row % stride === 0) } }];
  }

  /* ---------- zoom: one range of steps for all panels ---------- */
  /* A drag names the ends of the range one by one; what `zoom` sets, which is heard here too, is named as a whole. */
  function hear(plot, change) {
    if (change["xaxis.autorange"]) zoom(null);
    else if (change["xaxis.range[0]"] !== undefined) zoom([change["xaxis.range[0]"], change["xaxis.range[1]"]], change["yaxis.range[0]"] === undefined ? null : plot);
  }
  function zoom(range, spared = null) {
    if (range !== null) {
      const least = 4, [first, last] = [Math.min(...range), Math.max(...range)], middle = (first + last) / 2;
      range = last - first < least ? [middle - least / 2, middle + least / 2] : [first, last];
    }
    state.range = range;
    for (const plot of state.plots.values()) {
      if (!plot.isDrawn) continue;
      const change = { "xaxis.range": [...(range || state.whole)] };
      for (const [name, value] of Object.entries(stepTicks())) change["xaxis." + name] = value;
      if (plot.parts[0].panel.kind !== "heat" && plot !== spared) {
        const fitted = fitRange(plot), ticks = ticksOf(plot, fitted);
        change["yaxis.range"] = fitted;
        for (const [name, value] of Object.entries(ticks)) change["yaxis." + name] = value;
      }
      Plotly.relayout(plot.div, change);
    }
    tellRange();
    drawLanes();
  }
  function zoomBy(factor) {
    const [first, last] = state.range || state.whole, middle = (first + last) / 2, half = (last - first) / 2 * factor;
    const range = [Math.max(middle - half, state.whole[0]), Math.min(middle + half, state.whole[1])];
    zoom(range[0] <= state.whole[0] && range[1] >= state.whole[1] ? null : range);
  }
  function moveBy(share) {
    if (state.range === null) return;
    const [first, last] = state.range, wide = last - first;
    const begin = Math.min(Math.max(first + share * wide, state.whole[0]), state.whole[1] - wide);
    zoom([begin, begin + wide]);
  }
  function tellRange() {
    const [first, last] = state.range || state.whole;
    document.getElementById("range").textContent = `steps ${count(Math.max(Math.ceil(first), 0))} to ${count(Math.floor(last))}`;
  }
  function resize() {
    for (const plot of state.plots.values()) if (plot.isDrawn) draw(plot);
    for (const plot of state.plots.values()) if (plot.isDrawn) Plotly.relayout(plot.div, { autosize: true });
    drawLanes();
  }
  function prepareToPrint(begins) {
    const body = document.body;
    if (begins) {
      state.opened = [...document.querySelectorAll("details:not([open], .fold > *)")];
      state.opened.forEach(node => { node.open = true; });
      body.style.width = "680px";
      for (const plot of state.plots.values()) plot.isDrawn = plot.node.isConnected;
    } else {
      body.style.width = "";
      (state.opened || []).forEach(node => { node.open = false; });
    }
    for (const plot of state.plots.values()) if (plot.isDrawn) draw(plot);
    resize();
  }

  /* ---------- marks: on the axis, with their stories, and in a list ---------- */
  function area() {
    const plot = [...state.plots.values()].find(each => each.isDrawn && each.div._fullLayout);
    if (!plot) return null;
    const size = plot.div._fullLayout._size;
    return { left: plot.div.getBoundingClientRect().left - document.getElementById("panels").getBoundingClientRect().left + size.l, width: size.w };
  }
  const toPixel = (step, { left, width }) => { const [first, last] = state.range || state.whole; return left + (step - first) / (last - first) * width; };
  function listLanes() {
    if (isMany()) return state.runs.map(run => ({ name: run.name, marks: run.marks.filter(mark => state.shown.has(mark.lane)), run }));
    return Object.entries(LANES).map(([lane, name]) => ({ name, run: state.runs[0], marks: state.runs[0].marks.filter(mark => mark.lane === lane) })).filter(each => each.marks.length);
  }
  const rank = mark => ["finding", "clip", "drop", "skip", "rollback", "reload", "halt"].indexOf(mark.kind);
  function drawLanes() {
    const where = area();
    if (where === null) return;
    const [first, last] = state.range || state.whole;
    const focused = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.ids : null;
    const nodes = listLanes().map(({ name, marks, run }) => {
      const strip = make("div", {});
      strip.style.left = where.left + "px"; strip.style.width = where.width + "px";
      const clusters = [];
      for (const mark of marks) {
        if (mark.step < first || mark.step > last) continue;
        const at = toPixel(mark.step, where), newest = clusters[clusters.length - 1];
        const joins = newest && at - newest.end < (newest.marks.length > 1 ? NEAR + 14 : NEAR) && (at - newest.at < NEAR || newest.marks.every(each => each.kind === mark.kind || rank(each) < 0 || rank(mark) < 0));
        if (joins) { newest.marks.push(mark); newest.end = at; } else clusters.push({ at, end: at, marks: [mark] });
      }
      for (const cluster of clusters) strip.append(markButton(cluster, run, where));
      return make("div", { class: "lane", role: "group", "aria-label": name }, make("span", { title: name }, name), strip);
    });
    document.getElementById("lanes").replaceChildren(...nodes);
    const buttons = [...document.querySelectorAll(".mark")];
    buttons.forEach((button, place) => { button.tabIndex = place ? -1 : 0; });
    const again = focused && buttons.find(button => button.dataset.ids === focused);
    if (again) again.focus();
  }
  function markButton({ at, end, marks }, run, where) {
    const top = marks.reduce((best, mark) => rank(mark) > rank(best) ? mark : best);
    const [shape, color] = SIGNS[top.kind] || ["dot", 7];
    const told = marks.length > 1 ? `${marks.length} marks, steps ${count(marks[0].step)} to ${count(marks[marks.length - 1].step)}: ` : `Step ${count(top.step)}: `;
    const button = make("button", { type: "button", class: "mark", "data-kind": top.kind, "data-ids": marks.map(mark => mark.id).join(" "),
      "aria-label": told + marks.slice(0, 3).map(mark => `${mark.title}. ${mark.story}`).join("; "), "aria-describedby": "story",
      onmouseenter: event => tellStory(event.currentTarget, marks, run), onfocus: event => tellStory(event.currentTarget, marks, run),
      onmouseleave: hideStory, onblur: hideStory, onclick: () => choose(marks, run) }, sign(shape, color));
    if (end - at >= NEAR) {
      const bar = make("i", {});
      bar.style.width = end - at - 10 + "px"; bar.style.background = COLORS[color];
      button.append(bar);
    }
    if (marks.length > 1) button.append(make("b", {}, count(marks.length)));
    button.style.left = at - where.left + "px";
    return button;
  }
  function tellStory(button, marks, run) {
    const story = document.getElementById("story");
    const shown = marks.slice().sort((a, b) => rank(b) - rank(a)).slice(0, 4).sort((a, b) => a.step - b.step);
    story.replaceChildren(...shown.flatMap(mark => [make("h3", {}, `${nameOf(run)}step ${count(mark.step)}: ${mark.title}`),
      make("p", {}, mark.story.length > 420 ? mark.story.slice(0, 420) + "…" : mark.story)]),
      ...(marks.length > shown.length ? [make("p", { class: "soft" }, `and ${marks.length - shown.length} more; click to zoom in`)] : []));
    story.hidden = false;
    const box = button.getBoundingClientRect(), wide = story.offsetWidth;
    const left = Math.min(Math.max(box.left + box.width / 2 - wide / 2, 8), document.documentElement.clientWidth - wide - 8);
    story.style.left = left + scrollX + "px"; story.style.top = box.bottom + 8 + scrollY + "px";
    setCursor(shown[shown.length - 1].step);
  }
  function hideStory() { document.getElementById("story").hidden = true; setCursor(null); }
  function walkMarks(event) {
    const buttons = [...document.querySelectorAll(".mark")], place = buttons.indexOf(event.target);
    const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") return hideStory();
    if (place < 0 || !move) return;
    event.preventDefault();
    const next = buttons[Math.min(Math.max(place + move, 0), buttons.length - 1)];
    buttons.forEach(button => { button.tabIndex = button === next ? 0 : -1; });
    next.focus();
  }
  function choose(marks, run) {
    const first = marks[0].step, last = marks[marks.length - 1].step;
    if (marks.length > 1 && last - first >= 4) return zoom([first - (last - first) * 0.1 - 1, last + (last - first) * 0.1 + 1]);
    const entry = findEntry(entryId(run, marks[0]));
    if (!entry) return;
    document.querySelectorAll(".is-chosen").forEach(node => node.classList.remove("is-chosen"));
    entry.classList.add("is-chosen");
    entry.scrollIntoView({ block: "center" });
    entry.querySelector("button").focus({ preventScroll: true });
  }
  const entryId = (run, mark) => `entry-${state.runs.indexOf(run)}-${mark.id}`;
  function showOnCurves(run, mark) {
    const wide = Math.max((state.whole[1] - state.whole[0]) * 0.02, 40);
    zoom([mark.step - wide, mark.step + wide]);
    document.getElementById("curves").scrollIntoView();
    const button = [...document.querySelectorAll(".mark")].find(each => each.dataset.ids.split(" ").includes(mark.id));
    if (button) button.focus({ preventScroll: true });
  }
  function listEvents() {
    const all = state.runs.flatMap(run => run.marks.map(mark => ({ run, mark })));
    const num = lane => all.filter(({ mark }) => mark.lane === lane).length;
    const list = make("ol", { class: "list" });
    const fillList = () => {
      const groups = [];
      for (const each of all.filter(({ mark }) => state.shown.has(mark.lane))) {
        const newest = groups[groups.length - 1];
        if (newest && isAlike(newest[0], each)) newest.push(each); else groups.push([each]);
      }
      list.replaceChildren(...groups.flatMap(group => group.length < FOLD ? group.map(({ run, mark }) => entry(run, mark)) : folded(group)));
    };
    fillList();
    const left = state.runs.reduce((sum, run) => sum + run.num_left_out, 0);
    return [make("h2", {}, "What happened"),
      all.length ? make("div", { class: "filter", role: "group", "aria-label": "What is listed" }, Object.entries(LANES).filter(([lane]) => num(lane)).map(([lane, name]) =>
        make("label", {}, make("input", { type: "checkbox", checked: state.shown.has(lane), onchange: event => {
          state.shown[event.target.checked ? "add" : "delete"](lane); fillList(); if (isMany()) drawLanes();
        } }), ` ${name} (${num(lane)})`))) : make("p", { class: "soft" }, "Nothing was found and nothing was done."),
      ...(left ? [make("p", { class: "soft" }, `${count(left)} further findings are in the run folder alone.`)] : []), list];
  }
  const foundBy = mark => mark.facts.filter(([name]) => name === "found").map(([, text]) => text.split(" ")[0]).join(" ");
  const isAlike = (a, b) => a.run === b.run && a.mark.lane === b.mark.lane && a.mark.title === b.mark.title && foundBy(a.mark) === foundBy(b.mark);
  /* Many of the same kind in a row, in one line; those it holds are made when it is opened. */
  function folded(group) {
    const { run, mark } = group[0], last = group[group.length - 1].mark, inner = make("ol", { class: "list" });
    const node = make("details", {}, make("summary", {}, make("b", {}, `${nameOf(run)}steps ${count(mark.step)} to ${count(last.step)}`), ` ${count(group.length)} × `, mark.title,
      mark.severity ? make("span", { class: "soft" }, ` ${mark.severity}`) : "", make("p", { class: "soft" }, mark.story)), inner);
    node.fillIn = () => { if (!inner.children.length) inner.append(...group.map(each => entry(each.run, each.mark))); };
    node.addEventListener("toggle", node.fillIn);
    return make("li", { class: "fold " + mark.lane, "data-ids": group.map(each => entryId(each.run, each.mark)).join(" ") }, node);
  }
  /* The entry of a mark; if it is folded, it is unfolded. */
  function findEntry(id) {
    const fold = [...document.querySelectorAll(".fold")].find(each => each.dataset.ids.split(" ").includes(id));
    if (fold) { fold.firstChild.open = true; fold.firstChild.fillIn(); }
    return document.getElementById(id);
  }
  function entry(run, mark) {
    return make("li", { class: "entry " + mark.lane, id: entryId(run, mark) },
      make("header", {}, make("b", {}, `${nameOf(run)}step ${count(mark.step)}`), make("span", {}, mark.title),
        mark.severity ? make("span", { class: "soft" }, mark.severity) : "",
        make("button", { type: "button", class: "link", onclick: () => showOnCurves(run, mark) }, "Show on the curves")),
      mark.lane === "course" ? make("p", {}, mark.story) : "",
      mark.facts.length ? (mark.lane === "course" ? make("details", {}, make("summary", { class: "soft" }, "all of it"), facts(mark)) : facts(mark)) : "");
  }
  const facts = mark => make("dl", {}, mark.facts.flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]));

  /* ---------- the cursor: what every line is at a step ---------- */
  function followPointer(event) {
    const where = area();
    if (where === null || event.target.closest(".head")) return;
    const at = event.clientX - document.getElementById("panels").getBoundingClientRect().left;
    if (at < where.left || at > where.left + where.width) return leave();
    const [first, last] = state.range || state.whole;
    setCursor(first + (at - where.left) / where.width * (last - first));
  }
  function leave() { if (document.getElementById("story").hidden) setCursor(null); }
  function setCursor(step) {
    const cursor = document.getElementById("cursor"), where = area();
    cursor.hidden = step === null || where === null;
    if (!cursor.hidden) { cursor.style.left = toPixel(step, where) + "px"; cursor.style.top = document.querySelector(".head").offsetHeight + "px"; }
    for (const plot of state.plots.values()) for (const { line, output, newest } of plot.readouts) {
      const place = step === null || !line.steps.length ? -1 : findNearest(line.steps, step);
      output.textContent = place < 0 ? format(newest) : line.values[place] === null ? "not finite" : format(line.values[place]);
    }
    if (step !== null) document.getElementById("range").textContent = `step ${count(Math.round(step))}`; else tellRange();
  }

  /* ---------- diagnosis, timeline, rows ---------- */
  function diagnose({ diagnosis }) {
    const listed = (title, lines) => lines.length ? [make("h4", {}, title), make("ul", {}, lines.map(line => make("li", {}, rich(line))))] : [];
    const causes = diagnosis.causes.map((cause, number) => make("article", { class: "cause" },
      make("h3", {}, `${number + 1}. ${cause.cause}`),
      make("p", { class: "soft" }, `confidence ${cause.confidence.toFixed(2)}, from step ${count(cause.step)}, ${cause.outcome}`),
      ...listed("Evidence", cause.evidence), ...listed("Ruled out", cause.ruled_out),
      cause.alternative ? make("p", {}, "Or else: ", ...rich(cause.alternative)) : "",
      make("h4", {}, "What to do"), make("p", {}, ...rich(cause.fix))));
    const shape = diagnosis.pattern ? `; the loss ${diagnosis.pattern}` : "";
    return [make("p", {}, `${diagnosis.verdict}: ${count(diagnosis.num_steps)} records up to step ${count(diagnosis.last_step)}${shape}.`),
      ...diagnosis.notes.map(note => make("p", { class: "soft" }, note)),
      ...(causes.length ? causes : [make("p", {}, "Nothing speaks for any cause, in what was measured.")])];
  }
  function timeline(run) {
    if (!run.timeline.length) return [];
    const head = ["epoch", "step", "planned", "rate", "happened", "rate", "part of the data", "departs in"];
    const body = run.timeline.map(each => make("tr", { class: each.departs.length ? "departs" : null },
      [each.epoch, each.step === null ? "–" : count(each.step), each.planned_phase || "–", each.planned_rate === null ? "?" : format(each.planned_rate),
        each.is_made ? each.phase : "not made", each.is_made ? format(each.rate) : "", each.is_made ? each.partition : "", each.departs.join(", ")]
        .map(cell => make("td", {}, String(cell)))));
    return [make("section", {}, make("h2", {}, "Epochs: planned, and what happened"), make("div", { class: "wide scrolls", tabindex: 0, role: "region", "aria-label": "Epochs" }, make("table", {},
      make("thead", {}, make("tr", {}, head.map(name => make("th", { scope: "col" }, name)))), make("tbody", {}, body))))];
  }
  function rows(run) {
    if (!run.rows) return [];
    const list = (title, told, listed, isOpen) => make("details", { open: isOpen }, make("summary", {}, title), make("p", { class: "soft" }, told), make("div", { class: "wide" },
      make("table", {}, make("thead", {}, make("tr", {}, run.rows.head.map(name => make("th", { scope: "col" }, name.replaceAll("_", " "))))),
        make("tbody", {}, listed.map(row => make("tr", {}, row.map(cell => make("td", {}, cell === null ? "–" : String(cell)))))))));
    const nodes = run.rows.kinds.map((each, place) => list(`${each.kind}: ${count(each.num)}`, each.about + (each.num > each.rows.length ? `; the first ${each.rows.length}` : ""), each.rows, place === 0));
    if (run.rows.num_suspects) nodes.unshift(list(`labels that are probably wrong: ${count(run.rows.num_suspects)}`, run.rows.about_suspects, run.rows.suspects, true));
    else if (run.rows.about_suspects) nodes.push(make("p", { class: "soft" }, run.rows.about_suspects));
    return [make("section", {}, make("h2", {}, `Rows of the data: ${count(run.rows.num)}`), ...nodes)];
  }
  return { show };
})();
const embedded = document.getElementById("document");
if (embedded) trimtab.show(JSON.parse(embedded.textContent));
