// Shared by all views: DOM building without markup strings, number formats, the preview player, the clip clock.
// Text from a person reaches the page only through textContent or setAttribute.
window.MoE = (() => {
  const views = {};
  const SVG = "http://www.w3.org/2000/svg";

  function fill(node, attributes, children) {
    for (const [key, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (key === "style") for (const [name, v] of Object.entries(value)) node.style.setProperty(name, v);
      else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else node.setAttribute(key, value === true ? "" : String(value));
    }
    node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
    return node;
  }
  const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

  // The head of a panel: its name, one line that says what it shows in plain words, and a tag.
  const head = (title, hint, ...tags) => [
    el("div", { class: "mv-head" }, el("h2", {}, title), ...tags), el("p", { class: "mv-hint" }, hint)];

  const reducedMotion = () => window.matchMedia("(prefers-reduced-motion: reduce)").matches;

  // Calls `draw` before a repaint, at most `rate` times a second: a page left open should cost next to nothing.
  function loop(rate, draw) {
    let last = 0;
    const frame = (now) => {
      if (now - last >= 1000 / rate) { last = now; draw(now); }
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  const format = {
    ms(value) {
      if (value === null || value === undefined) return "–";
      if (value === 0) return "0 ms";
      if (value >= 60000) return `${(value / 60000).toFixed(1)} min`;
      if (value >= 1000) return `${(value / 1000).toFixed(value < 10000 ? 2 : 1)} s`;
      return value >= 10 ? `${Math.round(value)} ms` : `${value.toFixed(1)} ms`;
    },
    joules(value) {
      if (value === null || value === undefined) return "–";
      if (value === 0) return "0 J";
      if (value >= 1000) return `${(value / 1000).toFixed(1)} kJ`;
      if (value >= 10) return `${value.toFixed(0)} J`;
      return value >= 0.1 ? `${value.toFixed(1)} J` : `${(value * 1000).toFixed(0)} mJ`;
    },
    bytes(value) {
      if (!value) return "0 B";
      const units = ["B", "kB", "MB", "GB", "TB"];
      const power = Math.min(units.length - 1, Math.floor(Math.log10(value) / 3));
      const scaled = value / 1000 ** power;
      return `${scaled < 10 && power > 0 ? scaled.toFixed(1) : Math.round(scaled)} ${units[power]}`;
    },
    percent: (value) => (value > 0 && value < 0.01 ? "<1 %" : `${Math.round(value * 100)} %`),
    rate: (mbps) => (mbps >= 1000 ? `${+(mbps / 1000).toFixed(1)} Gb/s` : `${+mbps.toFixed(mbps < 10 ? 1 : 0)} Mb/s`),
  };

  // A latent is 16 pixels wide: doubling with smoothing again and again gives soft shapes instead of diamonds.
  function enlarge(image, x, width, height, target) {
    let source = document.createElement("canvas");
    source.width = width;
    source.height = height;
    source.getContext("2d").drawImage(image, x, 0, width, height, 0, 0, width, height);
    while (source.width < target) {
      const next = document.createElement("canvas");
      next.width = source.width * 2;
      next.height = source.height * 2;
      const context = next.getContext("2d");
      context.imageSmoothingQuality = "high";
      context.drawImage(source, 0, 0, next.width, next.height);
      source = next;
    }
    return source;
  }

  // Cycles the frames of the latest preview strip on a canvas, each melting into the next.
  class PreviewPlayer {
    constructor(canvas) {
      this.canvas = canvas;
      this.frames = [];
      this.seconds = 2;
      this.shown = null;
      loop(20, (now) => this.tick(now));
    }
    show(preview) {
      if (!preview) return this.stop();
      if (preview.sheet === this.shown) return;
      this.shown = preview.sheet;
      this.seconds = preview.seconds || 2;
      const image = new Image();
      image.onload = () => {
        if (this.shown !== preview.sheet) return;
        this.frames = Array.from({ length: preview.count }, (_, i) =>
          enlarge(image, i * preview.width, preview.width, preview.height, 256));
        this.canvas.width = this.frames[0].width;
        this.canvas.height = this.frames[0].height;
        this.canvas.dataset.ready = "true";
      };
      image.src = preview.sheet;
    }
    tick(now) {
      const count = this.frames.length;
      if (!count) return;
      const context = this.canvas.getContext("2d");
      const position = reducedMotion() ? 0 : ((now / 1000 / this.seconds) % 1) * count;
      const index = Math.floor(position);
      context.globalAlpha = 1;
      context.drawImage(this.frames[index], 0, 0);
      context.globalAlpha = position - index;
      context.drawImage(this.frames[(index + 1) % count], 0, 0);
    }
    stop() {
      this.frames = [];
      this.shown = null;
      delete this.canvas.dataset.ready;
    }
  }

  function video(label) {
    const node = el("video", { loop: true, playsinline: true, preload: "auto", "aria-label": label });
    node.muted = true;
    node.setAttribute("muted", "");
    return node;
  }

  function play(node) {
    const started = node.play();
    if (started) started.catch(() => {});  // a browser may refuse to play by itself: the button stays
  }

  // One bar of controls for one or more videos that play in step; the first one leads.
  function transport(videos, label) {
    const button = el("button", { type: "button", class: "mv-play", "aria-label": `Play ${label}` }, "▶");
    const range = el("input", { type: "range", min: 0, max: 1000, value: 0, step: 1, class: "mv-scrub", "aria-label": `Position in ${label}`, "aria-valuetext": "0.0 s" });
    const time = el("span", { class: "mv-time", "aria-hidden": "true" }, "0.0 s");
    const [leader, ...others] = videos;
    let held = false;
    const paint = () => {
      button.textContent = leader.paused ? "▶" : "❚❚";
      button.setAttribute("aria-label", `${leader.paused ? "Play" : "Pause"} ${label}`);
    };
    button.addEventListener("click", () => {
      if (leader.paused) videos.forEach(play);
      else videos.forEach((node) => node.pause());
    });
    range.addEventListener("input", () => {
      held = true;
      if (leader.duration) videos.forEach((node) => { node.currentTime = (range.value / 1000) * leader.duration; });
    });
    range.addEventListener("change", () => { held = false; });
    leader.addEventListener("play", paint);
    leader.addEventListener("pause", paint);
    loop(15, () => {
      if (leader.duration) {
        if (!held) range.value = Math.round((leader.currentTime / leader.duration) * 1000);
        const [at, whole] = [leader.currentTime.toFixed(1), leader.duration.toFixed(1)];
        const words = `${at} of ${whole} s`;  // written when they change only: each writing may be spoken
        if (range.getAttribute("aria-valuetext") !== words) {
          range.setAttribute("aria-valuetext", words);
          time.textContent = `${at} / ${whole} s`;
        }
      }
      for (const node of others) {
        if (node.readyState < 1) continue;
        if (Math.abs(node.currentTime - leader.currentTime) > 0.06) node.currentTime = leader.currentTime;
        if (node.paused !== leader.paused) leader.paused ? node.pause() : play(node);
      }
    });
    return el("div", { class: "mv-transport" }, button, range, time);
  }

  function mount(name, element, props, trigger, watch) {
    const draw = views[name](element.querySelector(".mv-root"), trigger);
    const update = () => { if (props.value) draw(props.value); };
    watch("value", update);
    update();
  }

  const swatch = (colour) => el("span", { class: "mv-swatch", style: { "--c": colour }, "aria-hidden": "true" });

  return { views, mount, loop, el, svg, head, format, reducedMotion, PreviewPlayer, video, play, transport, swatch, clip: { video: null } };
})();
