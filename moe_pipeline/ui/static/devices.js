// Where each active expert runs, with the estimated latency split. Every figure here is the cost model's.
MoE.views.devices = (root) => {
  const { el, head, format, swatch } = MoE;
  const tag = el("span", { class: "mv-tag mv-estimated" }, "estimated");
  const rows = el("ul", { class: "mv-devices" });
  const total = el("p", { class: "mv-total" });
  root.replaceChildren(...head("Devices", "Where the experts would run near you, and what one clip would take there.", tag), rows, total);
  return (value) => {
    if (!value.rows.length) {
      rows.replaceChildren(el("li", { class: "mv-muted" }, value.message));
      total.textContent = "";
      return;
    }
    const longest = Math.max(...value.rows.map((row) => row.total_ms), 1e-9);
    rows.replaceChildren(...value.rows.map((row) => el("li", { title: row.reason },
      swatch(row.colour),
      el("span", { class: "mv-device-name" }, el("b", {}, row.title), ` on ${row.device}`),
      el("span", { class: "mv-device-ms" }, format.ms(row.total_ms)),
      el("span", { class: "mv-bar", role: "img", style: { width: `${(row.total_ms / longest) * 100}%` },
        "aria-label": `compute ${format.ms(row.compute_ms)}, network ${format.ms(row.network_ms)}` },
        el("span", { class: "mv-compute", style: { "flex-grow": row.compute_ms, "--c": row.colour }, title: `compute ${format.ms(row.compute_ms)}` }),
        el("span", { class: "mv-network", style: { "flex-grow": row.network_ms, "--c": row.colour }, title: `network ${format.ms(row.network_ms)}` })))));
    total.replaceChildren(
      el("span", {}, value.scenario), el("b", {}, `${format.ms(value.total_ms)} in all`),
      el("span", {}, el("i", { class: "mv-key mv-compute", "aria-hidden": "true" }), `compute ${format.ms(value.compute_ms)}`),
      el("span", {}, el("i", { class: "mv-key mv-network", "aria-hidden": "true" }), `network ${format.ms(value.network_ms)}`),
      el("span", {}, `energy ${format.joules(value.energy_j)}`));
  };
};
