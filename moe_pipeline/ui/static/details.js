// Downloads, the settings a clip came from, and its whole record.
MoE.views.details = (root) => {
  const { el } = MoE;
  let shown = null;

  // A still that plays where it stands when it is pressed.
  function still(item) {
    const video = MoE.video(item.prompt);
    video.preload = "none";
    video.poster = item.poster;
    const about = `${item.prompt}, ${item.about}`;
    const button = el("button", { type: "button", class: "mv-still", "aria-label": `Play: ${about}`, onclick: () => {
      if (!video.src) video.src = item.clip_url;
      if (video.paused) MoE.play(video); else video.pause();
      button.setAttribute("aria-label", `${video.paused ? "Play" : "Pause"}: ${about}`);
    } }, video);
    return el("li", {}, button, el("div", {}, el("p", { dir: "auto" }, item.prompt), el("p", { class: "mv-muted" }, item.about),
      el("p", {}, el("a", { href: item.clip_url, download: "clip.mp4" }, "clip"), " ", el("a", { href: item.record_url, download: "record.json" }, "record"))));
  }
  const earlier = (items) => !items.length ? "" : el("section", { class: "mv-earlier mv-gap" },
    ...MoE.head("Earlier clips", "What this page made before. Files are kept for some hours: download what you want to keep."),
    el("ul", {}, ...items.map(still)));
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
      fold, earlier(value.earlier));
  };
};
