// The plan: background and subjects marked in the prompt itself, and what the gate says about each part.
MoE.views.plan = (root) => {
  const { el, head, format } = MoE;
  const text = el("p", { class: "mv-prompt", dir: "auto" });
  const parts = el("ul", { class: "mv-parts" });
  const notes = el("p", { class: "mv-note", hidden: true });
  const tag = el("span", { class: "mv-tag" });
  const error = el("p", { class: "mv-error", role: "alert", hidden: true });
  const reading = el("p", { class: "mv-hint mv-reading", dir: "auto", hidden: true });
  root.replaceChildren(...head("Plan", "Your scene taken apart; each part calls the experts that know it.", tag), error, text, parts, reading, notes);

  const names = { background: "background", subject: "subject" };
  return (value) => {
    error.hidden = !value.error;
    error.textContent = value.error;
    root.dataset.empty = value.prompt ? "no" : "yes";
    tag.textContent = value.parts.length ? `${value.parts.length} part${value.parts.length > 1 ? "s" : ""}` : "";
    if (!value.prompt) {
      text.textContent = value.error ? "" : "Type a scene: its background and subjects are marked here.";
      parts.replaceChildren();
      notes.hidden = reading.hidden = true;
      return;
    }
    const letters = Array.from(value.prompt);  // offsets count characters, where JavaScript's own count half of an emoji
    const cut = (from, to) => letters.slice(from, to).join("");
    const pieces = [];
    let at = 0;
    for (const part of [...value.parts].sort((a, b) => a.start - b.start)) {
      if (part.start < at) continue;  // a span inside another one is listed below, not marked twice
      if (part.start > at) pieces.push(cut(at, part.start));
      pieces.push(el("mark", { class: `mv-mark mv-${part.role}`, style: { "--c": part.colour } }, cut(part.start, part.end)));
      at = part.end;
    }
    pieces.push(cut(at));
    text.replaceChildren(...pieces);
    parts.replaceChildren(...value.parts.map((part) => el("li", {},
      el("span", { class: "mv-role" }, part.region && part.region !== "everywhere" ? `${names[part.role]}, ${part.region}` : names[part.role]),
      el("span", { class: "mv-part-text", dir: "auto", title: part.text }, part.text),
      el("span", { class: "mv-split", role: part.experts.length ? "img" : null,
        "aria-label": part.experts.map((e) => `${e.title} ${format.percent(e.weight)}`).join(", ") || null },
        ...part.experts.map((e) => el("span", { style: { "--c": e.colour, "flex-grow": e.weight }, title: `${e.title} ${format.percent(e.weight)}` }))),
      el("span", { class: "mv-part-expert" }, part.experts.length ? part.experts[0].title : ""))));
    reading.hidden = !value.reading;
    reading.textContent = value.reading ? `What you left open was filled in. The experts read: ${value.reading}` : "";
    notes.hidden = !value.notes.length;
    notes.replaceChildren(...value.notes.map((text) => el("span", {}, text)));
  };
};
