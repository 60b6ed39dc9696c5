"use strict";
/* Runs compared, as they are now. */
(async () => {
  const reason = document.getElementById("reason"), answer = await fetch("/api/compare" + location.search);
  if (!answer.ok) { reason.textContent = await answer.text(); return; }
  const shown = await answer.json();
  reason.textContent = "";
  trimtab.show(shown);
})();
