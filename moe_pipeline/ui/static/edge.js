// The mobile edge: scenario picker, map of devices, Gantt charts, and what a person may do to a deployment.
MoE.views.edge = (root, trigger) => {
  const { el, svg, head, format, swatch } = MoE;
  const icons = {
    phone: "M8 2h8a2 2 0 0 1 2 2v16a2 2 0 0 1-2 2H8a2 2 0 0 1-2-2V4a2 2 0 0 1 2-2zM11 18h2",
    headset: "M3 9a3 3 0 0 1 3-3h12a3 3 0 0 1 3 3v5a3 3 0 0 1-3 3h-2.5a3 3 0 0 1-2.2-1l-.5-.6a1 1 0 0 0-1.6 0l-.5.6a3 3 0 0 1-2.2 1H6a3 3 0 0 1-3-3z",
    laptop: "M5 5h14v10H5zM2 19h20",
    board: "M5 5h14v14H5zM9 9h6v6H9zM9 2v3M15 2v3M9 19v3M15 19v3M2 9h3M2 15h3M19 9h3M19 15h3",
    vehicle: "M4 16v-4l2-5h12l2 5v4zM4 16v3M20 16v3M4 12h16M7 14.5h1M16 14.5h1",
    mec: "M12 22V10M8 22h8M7.5 6a5 5 0 0 0 0 7M16.500 6a5 5 0 0 1 0 7M12 8a1.500 1.500 0 1 0 0 3 1.500 1.500 0 0 0 0-3z",
    cloud: "M7 18a4.500 4.500 0 0 1-.5-9 6 6 0 0 1 11.600 1.200A4 4 0 0 1 17.500 18z",
    host: "M4 4h16v6H4zM4 14h16v6H4zM8 7h.01M8 17h.01",
  };

  const scenarios = el("div", { class: "mv-scenarios", role: "group", "aria-label": "Scenario" });
  const description = el("p", { class: "mv-muted" });
  const bandwidth = el("input", { type: "range", min: -2, max: 1, step: 0.05, value: 0, "aria-label": "Bandwidth of all links, share of nominal" });
  const bandwidthText = el("output", { "aria-live": "off" }, "× 1");  // the slider itself says it
  // Marked as disabled, not made so: a disabled button would drop the focus of whoever has just pressed it.
  const restore = el("button", { type: "button", class: "mv-quiet", onclick: () => {
    if (restore.getAttribute("aria-disabled") !== "true") trigger("restore", {});
  } }, "Undo all changes");
  const outcome = el("p", { class: "mv-outcome", role: "status", "aria-live": "polite" });
  const error = el("p", { class: "mv-error", role: "alert", hidden: true });
  const map = el("div", { class: "mv-map" });
  const estimated = el("div", { class: "mv-gantt" });
  const measured = el("div", { class: "mv-gantt" });
  const why = el("div", { class: "mv-why" });
  const options = el("div", { class: "mv-options" });
  root.replaceChildren(
    el("section", {},
      scenarios, description,
      el("div", { class: "mv-knobs" },
        el("label", { class: "mv-knob" }, el("span", {}, "Bandwidth of all links"), bandwidth, bandwidthText), restore),
      outcome, error),
    el("section", {}, ...head("Who runs which expert", "Press ✕ to switch a device off and see where its work goes. Coloured lines carry data.", el("span", { class: "mv-tag mv-estimated" }, "estimated")), map),
    el("section", {}, ...head("The run over time, on these devices", "One clip as the cost model sees it: who works when, and what travels between.", el("span", { class: "mv-tag mv-estimated" }, "estimated")), estimated),
    el("section", {}, ...head("The last clip, on this machine", "What it really took here, stage by stage.", el("span", { class: "mv-tag mv-measured" }, "measured")), measured),
    el("section", { class: "mv-two" }, why, options));

  let current = null;
  let timer = null;
  const share = () => 10 ** Number(bandwidth.value);
  function showBandwidth(scale) {
    bandwidthText.textContent = `× ${scale >= 1 ? +scale.toFixed(1) : +scale.toPrecision(2)}`;
    bandwidth.setAttribute("aria-valuetext", bandwidthText.textContent);  // its value is a logarithm
  }
  bandwidth.addEventListener("input", () => {
    showBandwidth(share());
    clearTimeout(timer);
    timer = setTimeout(() => trigger("bandwidth", { scale: share() }), 120);
  });

  // Both scenarios and devices are drawn anew at each change, among them the button that was pressed: its successor
  // takes over the focus.
  const about = (button) => button.dataset.scenario || button.closest("[data-node]")?.dataset.node;
  function redraw(box, ...nodes) {
    const held = box.contains(document.activeElement) ? about(document.activeElement) : null;
    box.replaceChildren(...nodes);
    if (held) [...box.querySelectorAll("button")].find((button) => about(button) === held)?.focus({ preventScroll: true });
  }

  function picker(value) {
    redraw(scenarios, ...value.scenarios.map((item) => el("button", { type: "button", class: "mv-toggle", "data-scenario": item.id,
      "aria-pressed": String(item.id === value.scenario), onclick: () => trigger("scenario", { id: item.id }) }, item.title)));
  }

  // Columns (on a phone: rows) from the user's side to the cloud.
  function layout(value, wide) {
    const groups = new Map();
    for (const node of value.nodes) {
      const tier = node.hops;
      if (!groups.has(tier)) groups.set(tier, []);
      groups.get(tier).push(node);
    }
    const keys = [...groups.keys()].sort((a, b) => a - b);
    const columns = keys.flatMap((key) => {
      const nodes = groups.get(key), most = wide ? 4 : 2;
      return Array.from({ length: Math.ceil(nodes.length / most) }, (_, i) => nodes.slice(i * most, (i + 1) * most));
    });
    const width = map.clientWidth;
    const cell = { w: wide ? Math.min(230, width / columns.length - 36) : width / 2 - 14 };
    const at = {};
    if (wide) {
      const gap = 16;
      const heights = columns.map((nodes) => nodes.reduce((sum, node) => sum + tall(node) + gap, 0));
      const height = Math.max(...heights) + gap;
      columns.forEach((nodes, c) => {
        let down = (height - heights[c] + gap) / 2;
        for (const node of nodes) {
          at[node.id] = { x: (c + 0.5) * (width / columns.length), y: down + tall(node) / 2 };
          down += tall(node) + gap;
        }
      });
      return { at, width, height, cell };
    }
    let down = 0;
    for (const nodes of columns) {
      const row = Math.max(...nodes.map(tall));
      nodes.forEach((node, r) => { at[node.id] = { x: (r + 0.5) * (width / nodes.length), y: down + row / 2 }; });
      down += row + 30;
    }
    return { at, width, height: down, cell };
  }

  const idle = (node) => !node.experts.length && !node.stages.length;
  const tall = (node) => (idle(node) ? 70 : map.clientWidth <= 640 || node.experts.length + node.stages.length > 2 ? 118 : 96);

  function card(node, place, cell) {
    const resting = idle(node), high = tall(node);
    return el("div", { class: `mv-node${node.killed ? " mv-killed" : ""}${resting ? " mv-idle" : ""}${node.user ? " mv-user" : ""}`,
      "data-node": node.id, style: { left: `${place.x - cell.w / 2}px`, top: `${place.y - high / 2}px`, width: `${cell.w}px`, height: `${high}px` }, title: node.reason || null },
      el("div", { class: "mv-node-head" },
        svg("svg", { viewBox: "0 0 24 24", class: "mv-icon", "aria-hidden": "true" }, svg("path", { d: icons[node.category] || icons.host })),
        el("b", {}, node.title),
        node.user ? el("span", { class: "mv-tag" }, "you") : el("button", { type: "button", class: "mv-kill",
          "aria-label": node.killed ? `Bring ${node.title} back` : `Kill ${node.title}`, title: node.killed ? "Bring this device back" : "Kill this device",
          onclick: () => trigger(node.killed ? "revive" : "kill", { device: node.id }) }, node.killed ? "↺" : "✕")),
      el("div", { class: "mv-node-experts" }, ...node.experts.map((e) => el("span", { class: "mv-chip" }, swatch(e.colour), e.title)),
        ...node.stages.map((s) => el("span", { class: "mv-chip mv-chip-stage" }, s)),
        resting ? el("span", { class: "mv-muted" }, node.killed ? "failed" : node.available ? "idle" : "not available") : null),
      el("small", { class: "mv-muted" }, resting ? "" : `busy ${format.ms(node.busy_ms)} · ${format.joules(node.energy_j)} · ${format.bytes(node.memory_needed_bytes)} of ${format.bytes(node.memory_free_bytes)}`));
  }

  function drawMap(value) {
    if (!map.clientWidth) return;
    const { at, width, height, cell } = layout(value, map.clientWidth > 640);
    map.style.height = `${height}px`;
    const lines = svg("svg", { class: "mv-links", viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" });
    for (const link of value.links) {
      const a = at[link.a], b = at[link.b];
      if (!a || !b) continue;
      const mid = (a.x + b.x) / 2;
      const path = map.clientWidth > 640 && Math.abs(a.x - b.x) > 4 ? `M${a.x},${a.y} C${mid},${a.y} ${mid},${b.y} ${b.x},${b.y}` : `M${a.x},${a.y} L${b.x},${b.y}`;
      lines.append(svg("path", { d: path, class: `mv-link mv-${link.medium}${link.used ? " mv-used" : ""}` }, svg("title", {}, `${link.title}: ${format.rate(link.down_mbps)} down, ${format.rate(link.up_mbps)} up, ${format.ms(link.rtt_ms)} round trip`)));
    }
    redraw(map, lines, ...value.nodes.map((node) => card(node, at[node.id], cell)));
  }

  const kindName = { compute: "compute", upload: "upload", exchange: "exchange", decode: "decode", download: "download" };
  function gantt(box, entries, devices, experts, total, label) {
    if (!entries.length) {
      box.replaceChildren(el("p", { class: "mv-muted" }, label.empty));
      return;
    }
    const end = Math.max(total || 0, ...entries.map((e) => e.end_ms), 1e-6);
    const rows = devices.filter((d) => entries.some((e) => e.device === d.id));
    const step = 10 ** Math.floor(Math.log10(end));
    const gap = end / step >= 5 ? step : end / step >= 2 ? step / 2 : step / 5;
    const ticks = Array.from({ length: Math.floor(end / gap + 1e-9) + 1 }, (_, i) => i * gap);
    const used = [...new Set(entries.map((e) => e.expert).filter(Boolean))];
    const kinds = [...new Set(entries.map((e) => e.kind))].filter((k) => k !== "compute" || entries.some((e) => e.kind === "compute" && !e.expert));
    box.replaceChildren(
      el("div", { class: "mv-gantt-rows", role: "img", "aria-label": `${label.title}: ${format.ms(end)} on ${rows.map((r) => r.title).join(", ")}` },
        ...rows.map((row) => el("div", { class: "mv-gantt-row" }, el("span", { class: "mv-gantt-name" }, row.title),
          el("span", { class: "mv-gantt-lane" }, ...entries.filter((e) => e.device === row.id).map((e) =>
            el("i", { class: `mv-task mv-kind-${e.kind}`, title: `${e.stage}: ${format.ms(e.end_ms - e.start_ms)}`,
              style: { left: `${(e.start_ms / end) * 100}%`, width: `${Math.max(0.15, ((e.end_ms - e.start_ms) / end) * 100)}%`, ...(e.expert && experts[e.expert] ? { "--c": experts[e.expert].colour } : {}) } }))))),
        el("div", { class: "mv-gantt-row" }, el("span", { class: "mv-gantt-name" }), el("span", { class: "mv-gantt-lane mv-gantt-axis" },
          ...ticks.map((t) => el("span", { class: t / end > 0.96 ? "mv-end" : null, style: { left: `${(t / end) * 100}%` } }, t === 0 ? "0" : format.ms(t)))))),
      el("ul", { class: "mv-legend mv-small" },
        ...used.map((id) => el("li", {}, swatch(experts[id] ? experts[id].colour : "#888"), experts[id] ? experts[id].title : id)),
        ...kinds.map((kind) => el("li", {}, el("span", { class: `mv-swatch mv-kind-${kind}`, "aria-hidden": "true" }), kindName[kind] || kind))));
  }

  function reasons(value) {
    why.replaceChildren(el("div", { class: "mv-head" }, el("h2", {}, "Why here")),
      el("p", {}, value.shape_reason),
      el("ul", { class: "mv-reasons" },
        ...value.assignments.map((a) => el("li", {}, swatch(a.colour), el("span", {}, el("b", {}, `${a.title} on ${a.device}. `), a.reason))),
        ...value.rejected.slice(0, 8).map((r) => el("li", { class: "mv-muted" }, el("span", { class: "mv-no", "aria-hidden": "true" }, "✕"), el("span", {}, r.reason)))));
    const rows = [{ title: `This placement (${value.solver})`, total_ms: value.total_ms, energy_j: value.energy_j, feasible: true, chosen: true }, ...value.baselines];
    options.replaceChildren(el("div", { class: "mv-head" }, el("h2", {}, "Against simpler policies"), el("span", { class: "mv-tag mv-estimated" }, "estimated")),
      el("table", { class: "mv-table" }, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Policy"), el("th", { scope: "col" }, "Latency"), el("th", { scope: "col" }, "Energy"))),
        el("tbody", {}, ...rows.map((row) => el("tr", { title: row.reason || null }, el("th", { scope: "row" }, row.title),
          el("td", { class: row.chosen ? "mv-better" : "" }, row.feasible ? format.ms(row.total_ms) : "not feasible"), el("td", {}, row.feasible ? format.joules(row.energy_j) : ""))))),
      el("p", { class: "mv-muted" }, value.calibration));
  }

  new ResizeObserver(() => { if (current) drawMap(current); }).observe(map);

  return (value) => {
    current = value;
    picker(value);
    description.textContent = value.description;
    if (document.activeElement !== bandwidth) bandwidth.value = Math.log10(value.bandwidth_scale);
    showBandwidth(value.bandwidth_scale);
    restore.setAttribute("aria-disabled", !value.killed.length && value.bandwidth_scale === 1);
    error.hidden = !value.error;
    error.textContent = value.error || "";
    outcome.replaceChildren(
      ...(value.total_ms === null ? [] : [el("b", {}, format.ms(value.total_ms)), ` estimated: compute ${format.ms(value.compute_ms)}, network ${format.ms(value.network_ms)}; ${format.joules(value.energy_j)}, of which radio ${format.joules(value.radio_j)}; ${format.bytes(value.transferred_bytes)} moved. ${value.deadline}`]),
      ...(value.replanned ? [el("span", { class: "mv-replanned" }, value.replanned)] : []));
    drawMap(value);
    gantt(estimated, value.timeline, value.nodes, value.experts, value.total_ms, { title: "Estimated run", empty: "No placement yet." });
    gantt(measured, value.measured, [{ id: "this-machine", title: "This machine" }], value.experts, null, { title: "Measured run", empty: "Generate a clip to see its measured run here." });
    reasons(value);
  };
};
