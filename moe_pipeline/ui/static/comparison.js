// Mixture and single model from the same seed: two clips under one control, side by side or with a wipe.
MoE.views.comparison = (root) => {
  const { el, format } = MoE;
  const names = { moe: "Mixture of experts", single: "Single model" };
  const slots = {};
  for (const mode of ["moe", "single"]) {
    const canvas = el("canvas", { class: "mv-preview", "aria-hidden": "true" });
    const video = MoE.video(names[mode]);
    video.classList.add("mv-clip");
    const label = el("figcaption", {}, el("b", {}, names[mode]), el("span", {}));
    slots[mode] = { canvas, video, label, url: null, preview: new MoE.PreviewPlayer(canvas),
      node: el("figure", { class: `mv-half mv-half-${mode}` }, el("div", { class: "mv-slot" }, el("div", { class: "mv-empty" }, el("span", { class: "mv-empty-mark", "aria-hidden": "true" })), video, canvas), label) };
  }
  const wipe = el("input", { type: "range", min: 0, max: 100, value: 50, class: "mv-wipe", "aria-label": "Wipe between mixture and single model" });
  const pair = el("div", { class: "mv-pair", "data-view": "side" }, slots.moe.node, slots.single.node, wipe);
  const buttons = [["side", "Side by side"], ["wipe", "Wipe"]].map(([view, text]) =>
    el("button", { type: "button", class: "mv-toggle", "aria-pressed": String(view === "side"), onclick: () => {
      pair.dataset.view = view;
      buttons.forEach((node, i) => node.setAttribute("aria-pressed", ["side", "wipe"][i] === view));
    } }, text));
  function cut() {
    pair.style.setProperty("--cut", `${wipe.value}%`);
    wipe.setAttribute("aria-valuetext", `${wipe.value} % mixture, ${100 - wipe.value} % single model`);
  }
  wipe.addEventListener("input", cut);
  cut();
  const controls = MoE.transport([slots.moe.video, slots.single.video], "both clips");
  const status = el("p", { class: "mv-status", role: "status", "aria-live": "polite" });
  const error = el("p", { class: "mv-error", role: "alert", hidden: true });
  const table = el("table", { class: "mv-table" });
  const files = el("div", { class: "mv-downloads", hidden: true });
  const caution = el("p", { class: "mv-hint", hidden: true },
    "Green marks the better figure of these two clips. From a single pair a small difference says nothing.");
  root.replaceChildren(
    el("div", { class: "mv-head" }, status, el("div", { class: "mv-toggles", role: "group", "aria-label": "View" }, ...buttons)),
    error, pair, controls, files, el("div", { class: "mv-scroll" }, table), caution);

  let wasBusy = false;
  return (value) => {
    const busy = value.state === "running" || value.state === "waiting";
    // The clips form below the fold: bring the whole tab into sight when a comparison begins.
    if (busy && !wasBusy && root.getBoundingClientRect().top > window.innerHeight * 0.4)
      (root.closest(".mv-tabs") || root).scrollIntoView({ behavior: MoE.reducedMotion() ? "auto" : "smooth", block: "start" });
    wasBusy = busy;
    root.dataset.state = value.state;
    status.textContent = value.headline;
    error.hidden = !value.error;
    error.textContent = value.error || "";
    document.documentElement.dataset.moeCompare = busy ? "busy" : "still";
    for (const mode of ["moe", "single"]) {
      const slot = slots[mode];
      const side = value.sides[mode];
      slot.label.lastChild.textContent = side.text;
      if (side.clip && side.clip.url !== slot.url) {
        slot.url = side.clip.url;
        slot.video.src = side.clip.url;
        slot.video.setAttribute("aria-label", `${names[mode]}: ${side.clip.prompt}`);
        if (!MoE.reducedMotion()) MoE.play(slot.video);
      } else if (!side.clip && slot.url) {
        slot.url = null;
        slot.video.removeAttribute("src");
        slot.video.load();
      }
      const forming = Boolean(side.preview) && !side.done;
      slot.node.dataset.forming = forming;
      slot.node.dataset.clip = Boolean(side.clip);
      forming ? slot.preview.show(side.preview) : slot.preview.stop();
    }
    files.hidden = !value.files.length;
    files.replaceChildren(...value.files.map((file) =>
      el("a", { class: "mv-download", href: file.href, download: file.name }, file.title)));
    caution.hidden = !value.rows.length;
    root.dataset.clips = value.sides.moe.clip || value.sides.single.clip ? "yes" : "no";
    if (value.rows.length) {
      table.replaceChildren(
        el("caption", { class: "mv-spoken" }, "Mixture of experts against single model"),
        el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Figure"), el("th", { scope: "col" }, "Mixture"), el("th", { scope: "col" }, "Single"), el("th", { scope: "col" }, "Better when"))),
        el("tbody", {}, ...value.rows.map((row) => el("tr", {}, el("th", { scope: "row" }, row.title, el("small", {}, row.words)),
          el("td", { class: row.better === "moe" ? "mv-better" : "" }, row.moe),
          el("td", { class: row.better === "single" ? "mv-better" : "" }, row.single),
          el("td", { class: "mv-muted" }, row.direction)))));
    } else table.replaceChildren();
  };
};
