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
})();
