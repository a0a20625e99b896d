// Gate weights by denoising step: one column a step, one colour an expert, faint where the step is still to come.
MoE.views.gate = (root) => {
  const { el, head, format, swatch } = MoE;
  const legend = el("ul", { class: "mv-legend" });
  const columns = el("div", { class: "mv-columns", role: "img" });
  const axis = el("div", { class: "mv-axis", "aria-hidden": "true" }, el("span", {}, "noise"), el("span", { class: "mv-axis-mid" }, "denoising step"), el("span", {}, "clip"));
  const table = el("table", { class: "mv-spoken" });
  const caption = el("span", { class: "mv-tag" });
  root.replaceChildren(
    ...head("Gate weights", "Which experts paint each step, from noise to picture.", caption),
    legend, columns, axis, table);

  function column(count) {
    return el("div", { class: "mv-column" }, ...Array.from({ length: count }, () => el("div", { class: "mv-segment" })));
  }
  return (value) => {
    const { experts, steps, done, current } = value;
    caption.textContent = value.caption;
    root.dataset.source = value.source;
    legend.replaceChildren(...experts.map((expert, i) => {
      const share = value.shares[i];
      return el("li", { class: share > 0.005 ? "" : "mv-off", title: expert.description || null },
        swatch(expert.colour), el("span", {}, expert.title), el("b", {}, share > 0 ? format.percent(share) : "–"));
    }));
    const shape = `${steps.length}x${experts.length}`;
    if (columns.dataset.shape !== shape) {
      columns.dataset.shape = shape;
      columns.replaceChildren(...steps.map(() => column(experts.length)));
    }
    steps.forEach((weights, s) => {
      const node = columns.children[s];
      node.classList.toggle("mv-todo", s >= done);
      node.classList.toggle("mv-now", s === current);
      weights.forEach((weight, i) => {
        const part = node.children[i];
        part.style.flexGrow = weight;
        part.style.background = experts[i].colour;
        part.dataset.weight = weight;
        part.title = weight > 0 ? `Step ${s + 1}: ${experts[i].title} ${format.percent(weight)}` : "";
      });
    });
    const leading = experts.map((e, i) => [value.shares[i], e.title]).filter(([w]) => w > 0.005).sort((a, b) => b[0] - a[0]);
    columns.setAttribute("aria-label", `Gate weights over ${steps.length} denoising steps. Mean: ${leading.map(([w, t]) => `${t} ${format.percent(w)}`).join(", ") || "none yet"}.`);
    table.replaceChildren(el("caption", {}, "Gate weights by denoising step"),
      el("tr", {}, el("th", {}, "Step"), ...experts.map((e) => el("th", {}, e.title))),
      ...steps.slice(0, value.source === "run" ? 0 : steps.length).map((weights, s) =>
        el("tr", {}, el("th", {}, String(s + 1)), ...weights.map((w) => el("td", {}, format.percent(w))))));
  };
};
