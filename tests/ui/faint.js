// Texts whose contrast to the first opaque background behind them is below WCAG AA.
() => {
  const parse = (text) => {
    const numbers = (text.match(/[\d.]+/g) || []).map(Number);
    const scale = text.startsWith('color(') ? 255 : 1;
    return {rgb: numbers.slice(0, 3).map((n) => n * scale), alpha: numbers.length > 3 ? numbers[3] : 1};
  };
  const over = (top, under) => top.rgb.map((n, i) => n * top.alpha + under[i] * (1 - top.alpha));
  const light = (rgb) => { const [r, g, b] = rgb.map((n) => n / 255).map((n) => n <= 0.04045 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (node) => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      layers.push(colour);
      if (colour.alpha === 1) break;
    }
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255]);
  };
  const found = [];
  for (const node of document.querySelectorAll('.gradio-container *')) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    const style = getComputedStyle(node);
    if (!own || !node.checkVisibility({checkOpacity: true, checkVisibilityCSS: true}) || node.closest('svg, .mv-slot, .mv-spoken, :disabled')) continue;
    const ground = behind(node), text = over(parse(style.color), ground);
    const [high, low] = [light(text), light(ground)].sort((a, b) => b - a);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < (large ? 3 : 4.5)) found.push(`${node.textContent.trim().slice(0, 40)} ${ratio.toFixed(2)} ${style.color}`);
  }
  return found;
}
