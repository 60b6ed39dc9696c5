"use strict";
/* The list of runs, brought up to date as they go on. */
(() => {
  const { make, words, address, count, format } = server;
  const runs = new Map(), rows = new Map(), chosen = new Set();
  const body = document.querySelector("#runs tbody"), told = document.getElementById("told");
  const find = document.getElementById("find"), compare = document.getElementById("compare");
  const WIDTH = 180, HEIGHT = 36;

  /* A small curve; one that is all above zero and spans a decade is on a log scale, and what is far above lies at the edge. */
  function draw(points) {
    if (points.length < 2) return "";
    const values = points.map(point => point[1]), lowest = Math.min(...values);
    const isLog = lowest > 0 && Math.max(...values) > 10 * lowest;
    const scaled = values.map(value => isLog ? Math.log10(value) : value), sorted = [...scaled].sort((a, b) => a - b);
    const low = sorted[0], usual = Math.max(sorted[Math.floor(0.95 * (sorted.length - 1))], scaled[0]);
    const high = Math.min(sorted[sorted.length - 1], usual + 0.5 * (usual - low));
    const first = points[0][0], last = points[points.length - 1][0];
    const place = (point, number) => {
      const x = (point[0] - first) / Math.max(last - first, 1) * WIDTH;
      const y = high > low ? (1 - (Math.min(scaled[number], high) - low) / (high - low)) * (HEIGHT - 2) + 1 : HEIGHT / 2;
      return x.toFixed(1) + "," + y.toFixed(1);
    };
    return "M" + points.map(place).join("L");
  }
  const tellDone = run => Object.entries(run.counts || {}).map(([verdict, num]) => verdict + " " + count(num)).join(", ");
  function tellStarted(text) {
    const time = new Date(text);
    if (!text || isNaN(time)) return "";
    const year = time.getFullYear() === new Date().getFullYear() ? {} : { year: "numeric" };
    return time.toLocaleString([], { ...year, month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });
  }

  function buildRow(name) {
    const box = make("input", { type: "checkbox", "aria-label": "choose " + name });
    box.addEventListener("change", () => { if (box.checked) chosen.add(name); else chosen.delete(name); tellChosen(); });
    const cells = Object.fromEntries(["name", "state", "curve", "loss", "val", "step", "done", "started"].map(id => [id, make("td")]));
    for (const id of ["loss", "val", "step"]) cells[id].className = "number";
    const shown = name === "." ? "this folder" : name;
    cells.note = make("span", { class: "note" });
    cells.name.append(make("a", { href: address(name) }, shown), cells.note);
    cells.badge = make("span", { class: "badge" });
    cells.verdict = make("span", { class: "verdict" });
    cells.state.append(cells.badge, cells.verdict);
    cells.path = make("path", { d: "" });
    cells.curve.append(make("svg", { class: "curve", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": "loss" }, cells.path));
    cells.steps = make("span");
    cells.progress = make("progress", { max: 1, hidden: "" });
    cells.step.append(cells.steps, cells.progress);
    const row = make("tr", {}, make("td", {}, box), ...["name", "state", "curve", "loss", "val", "step", "done", "started"].map(id => cells[id]));
    return { row, cells };
  }
  function fillRow({ cells }, run) {
    cells.badge.textContent = words(run.state);
    cells.badge.className = "badge " + words(run.state).replaceAll(" ", "-");
    cells.verdict.textContent = run.verdict || "";
    cells.verdict.className = "verdict " + (run.verdict || "");
    cells.note.textContent = run.reason || run.newest || "";
    cells.note.title = cells.note.textContent;
    cells.path.setAttribute("d", draw(run.curve || []));
    cells.loss.textContent = format(run.loss);
    cells.val.textContent = format(run.val_loss);
    cells.steps.textContent = count(run.step) + (run.num_steps ? " / " + count(run.num_steps) : "");
    cells.progress.hidden = !run.num_steps || run.step >= run.num_steps;
    cells.progress.value = run.num_steps ? Math.min(run.step / run.num_steps, 1) : 0;
    cells.done.textContent = tellDone(run);
    cells.started.textContent = tellStarted(run.started);
  }
  function sift() {
    const wanted = find.value.trim().toLowerCase();
    for (const [name, { row }] of rows) row.hidden = !name.toLowerCase().includes(wanted);
  }
  function tellChosen() {
    compare.disabled = chosen.size < 2 || chosen.size > 12;
    document.getElementById("chosen").textContent = chosen.size > 12 ? "12 at most" : chosen.size > 1 ? chosen.size + " chosen" : "choose two or more";
  }
  function update(message) {
    for (const [name, run] of Object.entries(message.runs)) {
      if (run === null) { rows.get(name)?.row.remove(); rows.delete(name); runs.delete(name); chosen.delete(name); continue; }
      if (!rows.has(name)) rows.set(name, buildRow(name));
      runs.set(name, run);
      fillRow(rows.get(name), run);
    }
    const order = [...runs].sort(([a, first], [b, second]) =>
      (second.started || "").localeCompare(first.started || "") || a.localeCompare(b)).map(([name]) => rows.get(name).row);
    if (order.some((row, place) => body.children[place] !== row)) body.replaceChildren(...order);
    const num = [...runs.values()].filter(run => run.state === "running").length;
    told.textContent = runs.size ? `${count(runs.size)} run${runs.size > 1 ? "s" : ""}, ${num} running` : "There is no run in this folder yet; it is looked for.";
    sift(); tellChosen();
  }
  find.addEventListener("input", sift);
  compare.addEventListener("click", () => { location.href = "/compare?" + [...chosen].map(name => "run=" + encodeURIComponent(name)).join("&"); });
  server.follow("/events", { runs: update }, isOver => {
    told.textContent = isOver ? "The server refuses to go on; load the page again." : "The server does not answer; what is shown is of before.";
  });
})();
