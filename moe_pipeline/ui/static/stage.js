// The stage: the clip forms, and then plays, in one and the same slot.
MoE.views.stage = (root) => {
  const { el } = MoE;
  const canvas = el("canvas", { class: "mv-preview", "aria-hidden": "true" });
  const preview = new MoE.PreviewPlayer(canvas);
  const clip = MoE.video("The generated clip, looping");
  clip.classList.add("mv-clip");
  MoE.clip.video = clip;
  const empty = el("div", { class: "mv-empty" },
    el("span", { class: "mv-empty-mark", "aria-hidden": "true" }),
    el("p", {}, "Your clip forms here."));
  const badge = el("span", { class: "mv-badge" });
  const slot = el("div", { class: "mv-slot" }, empty, clip, canvas, badge);
  const bar = el("div", { class: "mv-progress", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": "Denoising" },
    el("div", { class: "mv-progress-fill" }));
  const line = el("div", { class: "mv-status" });
  const clock = el("div", { class: "mv-left" });
  const spoken = el("p", { class: "mv-spoken", role: "status", "aria-live": "polite" });
  const error = el("p", { class: "mv-error", role: "alert", hidden: true });
  const note = el("p", { class: "mv-note", hidden: true });
  const controls = MoE.transport([clip], "the clip");
  root.replaceChildren(slot, el("div", { class: "mv-statusline" }, line, clock), bar, error, note, controls, spoken);

  let url = null;
  let said = "";
  let deadline = null;
  let heard = performance.now();

  function say(text) {
    if (text === said) return;
    said = text;
    spoken.textContent = text;
  }
  function showClip(value) {
    if (!value) return;
    slot.style.setProperty("--ratio", `${value.width} / ${value.height}`);
    if (value.url === url) return;
    url = value.url;
    clip.src = value.url;
    clip.setAttribute("aria-label", `Clip: ${value.prompt}`);
    if (!MoE.reducedMotion()) MoE.play(clip);
  }
  setInterval(() => {
    if (deadline === null) return;
    const left = deadline - performance.now();
    const silent = (performance.now() - heard) / 1000;  // the server may be gone, or a step may just be long
    if (left > 50) clock.textContent = `about ${(left / 1000).toFixed(1)} s left`;
    else clock.textContent = silent < 8 ? "nearly there" : `no news for ${Math.floor(silent)} s`;
  }, 100);

  // On a phone the slot lies below the controls: bring it into sight when a run begins.
  function intoSight() {
    if (slot.getBoundingClientRect().top > window.innerHeight * 0.7)
      slot.scrollIntoView({ behavior: MoE.reducedMotion() ? "auto" : "smooth", block: "center" });
  }
  let wasBusy = false;

  return (value) => {
    const busy = value.state === "waiting" || value.state === "running";
    heard = performance.now();
    if (busy && !wasBusy) intoSight();
    wasBusy = busy;
    document.documentElement.dataset.moeRun = busy ? "busy" : "still";
    root.dataset.state = value.state;
    root.dataset.preview = value.preview ? "yes" : "no";
    root.dataset.clip = value.clip ? "yes" : "no";
    showClip(value.clip);
    if (busy && value.preview) preview.show(value.preview);
    else if (!busy) preview.stop();
    badge.textContent = !busy ? "" : value.preview ? "forming" : "";
    const share = value.total ? value.step / value.total : 0;
    bar.setAttribute("aria-valuenow", Math.round(share * 100));
    bar.firstChild.style.transform = `scaleX(${share})`;
    line.textContent = value.headline;
    deadline = value.state === "running" && value.remaining_ms > 0 ? performance.now() + value.remaining_ms : null;
    if (deadline === null) clock.textContent = value.aside || "";
    error.hidden = !value.error;
    error.textContent = value.error || "";
    note.hidden = !value.notes.length;
    note.replaceChildren(...value.notes.map((text) => el("span", {}, text)));
    // Spoken at the start, at each quarter and at the end, not at each of twenty steps.
    const quarter = Math.floor(share * 4) * 25;
    say(value.state === "running" ? `Working, ${quarter} percent` : value.headline);
  };
};
