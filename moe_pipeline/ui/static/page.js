// What Gradio's own parts lack for somebody who listens to the page instead of looking at it, or has no mouse.
(() => {
  const charts = { radar: "Radar", latency: "Bars", energy: "Bars" };

  function mend() {
    const dice = document.querySelector("#dice:not([aria-label])");
    if (dice) {
      dice.setAttribute("aria-label", "Draw another seed");
      dice.title = "Draw another seed";
    }
    const prompt = document.querySelector("#prompt textarea:not([dir=auto])");
    if (prompt) prompt.dir = "auto";  // Arabic and Hebrew run from right to left
    // An empty output carries a label without a role, which is not allowed.
    for (const node of document.querySelectorAll('div[aria-label="Empty value"]:not([role])')) node.setAttribute("role", "img");
    for (const [id, kind] of Object.entries(charts)) {
      const plot = document.querySelector(`#${id} .js-plotly-plot:not([role])`);
      if (!plot) continue;
      const label = document.querySelector(`#${id} label`);
      plot.setAttribute("role", "figure");  // its legend takes focus, which an image may not hold
      plot.setAttribute("aria-label", `${kind}: ${label ? label.textContent.trim() : id}; the figures stand in the table beside it.`);
    }
  }
  let due = false;
  new MutationObserver(() => {
    if (due) return;
    due = true;
    setTimeout(() => { due = false; mend(); }, 200);
  }).observe(document.documentElement, { childList: true, subtree: true });

  // Generate and Stop swap places, and so do Compare and its Stop: the focus goes along, or the keyboard would be lost.
  const swaps = { moeRun: ["generate", "stop"], moeCompare: ["compare", "stop-compare"] };
  let held = null;  // what had the focus last: a browser may have taken it from the hidden button already
  document.addEventListener("pointerdown", () => { held = null; });  // a press elsewhere lets go on purpose
  document.addEventListener("focusin", (event) => { held = event.target; });
  new MutationObserver(() => {
    for (const [run, ids] of Object.entries(swaps)) {
      const [start, stop] = ids.map((id) => document.getElementById(id));
      const [shown, hidden] = document.documentElement.dataset[run] === "busy" ? [stop, start] : [start, stop];
      const focused = document.activeElement === document.body ? held : document.activeElement;
      if (hidden && focused === hidden) shown.focus({ preventScroll: true });
    }
  }).observe(document.documentElement, { attributeFilter: ["data-moe-run", "data-moe-compare"] });
  // Enter held a moment too long would press the button that has just come, and stop what it started.
  document.addEventListener("keydown", (event) => {
    if (event.repeat && event.key === "Enter" && Object.values(swaps).flat().includes(event.target.id)) event.preventDefault();
  });
})();
