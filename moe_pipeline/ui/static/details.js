// Downloads, the settings a clip came from, and its whole record.
MoE.views.details = (root) => {
  const { el } = MoE;
  let shown = null;
  return (value) => {
    if (!value.record_url) {
      root.replaceChildren(el("p", { class: "mv-muted mv-pad" }, "Generate a clip: its files and its full record appear here."));
      return;
    }
    if (value.record_url === shown) return;
    shown = value.record_url;
    const text = el("pre", { class: "mv-record", tabindex: 0, "aria-label": "Record as JSON" });
    const fold = el("details", { class: "mv-fold", ontoggle: async () => {
      if (!fold.open || text.textContent) return;
      const answer = await fetch(value.record_url);
      text.textContent = answer.ok ? JSON.stringify(await answer.json(), null, 2) : "The record has expired; generate the clip again.";
    } }, el("summary", {}, "The whole record"), text);
    root.replaceChildren(
      el("div", { class: "mv-downloads" },
        el("a", { class: "mv-download", href: value.clip_url, download: "clip.mp4" }, "Download clip.mp4"),
        el("a", { class: "mv-download", href: value.record_url, download: "record.json" }, "Download record.json")),
      el("dl", { class: "mv-facts" }, ...value.facts.map((fact) => el("div", {}, el("dt", {}, fact.title), el("dd", {}, fact.text)))),
      fold);
  };
};
