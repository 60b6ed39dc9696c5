"use strict";
/* The page of a run, drawn anew whenever there is more of it. */
(() => {
  const { words, count, tellSeconds, tellBytes } = server;
  const name = decodeURIComponent(location.pathname.slice("/run/".length)), path = location.pathname.slice("/run/".length);
  const byId = id => document.getElementById(id);
  let newest = -1, drawn = -1, isFetching = false;

  function tellPlace(run) {
    const parts = [];
    if (run.step) parts.push("step " + count(run.step) + (run.num_steps ? " of " + count(run.num_steps) : ""));
    if (run.epoch) parts.push("epoch " + run.epoch + (run.num_epochs ? "/" + run.num_epochs : ""));
    if (run.phase) parts.push(run.phase);
    return parts.join(" · ");
  }
  function tellPace(run) {
    const parts = [], seconds = Number(run.step_seconds), left = Number(run.left_seconds), share = Number(run.supervisor_share);
    if (isFinite(left)) parts.push(tellSeconds(left) + " left");
    if (seconds > 0) parts.push(Number((1 / seconds).toPrecision(3)) + " steps/s");
    if (isFinite(share)) parts.push("supervisor " + (100 * share).toFixed(1) + " %");
    for (const [what, bytes] of Object.entries(run.memory)) parts.push("memory " + (what === "process" ? "" : "of the " + what + " ") + tellBytes(bytes));
    return parts.join(" · ");
  }
  function tell(run) {
    byId("state").textContent = words(run.state);
    byId("state").className = "badge " + run.state;
    byId("place").textContent = tellPlace(run);
    byId("pace").textContent = tellPace(run);
    byId("reason").textContent = run.reason;
    byId("progress").hidden = !run.num_steps;
    byId("progress").value = run.num_steps ? Math.min(run.step / run.num_steps, 1) : 0;
    newest = run.version;
    if (newest !== drawn) draw();
  }
  /* One document is asked for at a time; what came meanwhile is drawn with the next. */
  async function draw() {
    if (isFetching) return;
    isFetching = true;
    const version = newest;
    try {
      const answer = await fetch("/api/run/" + path);
      if (answer.ok) trimtab.show(await answer.json());
      else if (!byId("reason").textContent) byId("reason").textContent = await answer.text();
      drawn = version;
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // the server is away; its next event draws
    } finally { isFetching = false; }
    if (newest !== drawn && drawn === version) draw();
  }
  document.title = name;
  server.follow("/events/" + path, {
    standing: tell,
    gone: () => { byId("reason").textContent = "This run is no longer there."; },
  }, isOver => {
    byId("reason").textContent = isOver ? "There is no such run." : "The server does not answer; what is shown is of before.";
  });
})();
