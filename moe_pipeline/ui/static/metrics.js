// Metric cards. A figure over time carries a cursor that moves with the playing clip.
MoE.views.metrics = (root) => {
  const { el, svg, format } = MoE;
  let cursors = [];
  let unfolded = window.innerWidth > 640;  // on a phone the long list opens when it is asked for

  const directions = { higher: "higher is better", lower: "lower is better", none: "neither way is better" };
  const arrows = { higher: "↑", lower: "↓", none: "↔" };
  const exactness = {
    vbench: ["VBench", "defined exactly as in the VBench benchmark of video models"],
    "vbench-definition": ["VBench", "defined exactly as in the VBench benchmark of video models"],
    "stand-in": ["stand-in", "asks VBench's question by other means, so it cannot be compared with VBench's figure"],
    own: ["own", "a figure that VBench does not have"],
  };

  function plot(card, colour) {
    const width = 240, height = 46, pad = 3;
    const values = card.series;
    const low = Math.min(...values), high = Math.max(...values);
    const flat = high - low < 1e-9;
    const x = (i) => pad + (i / Math.max(1, values.length - 1)) * (width - 2 * pad);
    const y = (v) => (flat ? height / 2 : height - pad - ((v - low) / (high - low)) * (height - 2 * pad));
    const points = values.map((v, i) => `${x(i).toFixed(1)},${y(v).toFixed(1)}`).join(" ");
    const cursor = svg("line", { class: "mv-cursor", x1: 0, x2: 0, y1: 0, y2: height });
    const dot = svg("circle", { class: "mv-cursor-dot", r: 3.5 });
    const read = el("span", { class: "mv-reading" });
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", class: "mv-spark", role: "img",
      "aria-label": `${card.title}, ${card.series_label || "per frame"}: from ${low.toPrecision(3)} to ${high.toPrecision(3)}` },
      svg("polyline", { points, class: "mv-line" }), cursor);
    cursors.push((frame) => {
      const i = Math.min(values.length - 1, Math.max(0, (frame - card.series_start) / card.series_stride));
      const before = Math.floor(i), after = Math.min(values.length - 1, before + 1);
      cursor.setAttribute("x1", x(i)); cursor.setAttribute("x2", x(i));
      const now = values[before] + (values[after] - values[before]) * (i - before);
      read.textContent = now.toPrecision(3);
    });
    return el("div", { class: "mv-plot" }, picture, el("div", { class: "mv-plot-foot" }, el("span", {}, card.series_label || "per frame"), read));
  }

  function card(item) {
    const [badge, why] = exactness[item.exactness] || ["", ""];
    return el("article", { class: "mv-card", "data-metric": item.name },
      el("div", { class: "mv-card-head" }, el("h3", {}, item.title), el("span", { class: `mv-tag mv-${item.exactness}`, title: why }, badge)),
      item.skipped
        ? el("p", { class: "mv-skipped" }, `Not measured: ${item.skipped}`)
        : el("p", { class: "mv-value" }, el("b", {}, item.display), item.unit ? el("span", {}, ` ${item.unit}`) : null,
          el("span", { class: "mv-direction", title: directions[item.direction] }, `${arrows[item.direction]} ${directions[item.direction]}`)),
      item.position === null ? null : el("div", { class: "mv-scale", "aria-hidden": "true" },
        el("span", { class: `mv-scale-fill mv-${item.direction}` }), el("i", { style: { left: `${item.position * 100}%` } }),
        el("small", {}, item.low), el("small", {}, item.high)),
      el("p", { class: "mv-words" }, item.plain_words),
      item.note ? el("p", { class: "mv-words mv-muted" }, item.note) : null,
      item.series.length > 1 ? plot(item) : null);
  }

  // What the tags on the cards mean: a tooltip alone would not reach fingers.
  function legend(cards) {
    const kinds = new Map(cards.filter((card) => exactness[card.exactness]).map((card) => exactness[card.exactness]));
    return el("dl", { class: "mv-key-list" }, ...[...kinds].map(([name, meaning]) =>
      el("div", {}, el("dt", { class: "mv-tag" }, name), el("dd", {}, meaning))));
  }

  function more(cards) {
    if (!cards.length) return "";
    const fold = el("details", { class: "mv-fold", open: unfolded, ontoggle: () => { unfolded = fold.open; } },
      el("summary", {}, `More figures (${cards.length})`), el("div", { class: "mv-cards" }, ...cards.map(card)));
    return fold;
  }

  MoE.loop(15, () => {
    const video = MoE.clip.video;
    if (video && video.duration && cursors.length && root.offsetParent !== null) {
      const frame = (video.currentTime / video.duration) * Math.max(1, total);
      for (const move of cursors) move(frame);
    }
  });
  let total = 1;
  let seen = "";

  return (value) => {
    const key = JSON.stringify(value);
    if (key === seen) return;
    seen = key;
    cursors = [];
    total = value.frames;
    if (!value.cards.length) {
      root.replaceChildren(el("p", { class: "mv-muted mv-pad" }, value.message));
      return;
    }
    root.replaceChildren(
      value.flags.length ? el("p", { class: "mv-note" }, ...value.flags.map((text) => el("span", {}, text))) : "",
      el("div", { class: "mv-cards mv-lead" }, ...value.cards.filter((item) => item.headline).map(card)),
      more(value.cards.filter((item) => !item.headline)),
      legend(value.cards),
      el("div", { class: "mv-head mv-gap" }, el("h2", {}, "Time on this machine"), el("span", { class: "mv-tag mv-measured" }, "measured")),
      el("div", { class: "mv-times", role: "img", "aria-label": value.stages.map((s) => `${s.title} ${format.ms(s.ms)}`).join(", ") },
        ...value.stages.map((s, i) => el("span", { class: `mv-stage-${i}`, style: { "flex-grow": s.ms }, title: `${s.title} ${format.ms(s.ms)}` }))),
      el("dl", { class: "mv-facts" }, ...value.facts.map((fact) => el("div", {}, el("dt", {}, fact.title), el("dd", {}, fact.text)))));
  };
};
