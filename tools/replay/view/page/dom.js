// Elements from text. Ids and texts come from clients: nothing here ever parses HTML.

export const byId = (id) => document.getElementById(id);

/** An element with properties (`class`, `on…`, `aria-…`, `--custom`) and children (nodes or texts). */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key.startsWith("--")) made.style.setProperty(key, value);
    else if (key === "width") made.style.width = value;
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Gives a canvas as many pixels as the screen has there; drawing stays in CSS pixels. */
export function sharpContext(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  const wanted = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== wanted[0] || canvas.height !== wanted[1]) {
    [canvas.width, canvas.height] = wanted;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

let tooltip = null;

/** Shows lines beside the pointer; without lines it goes away. */
export function showTooltip(lines, x = 0, y = 0) {
  tooltip ??= byId("tooltip");
  tooltip.hidden = !lines;
  if (!lines) return;
  tooltip.textContent = lines.join("\n");
  const { offsetWidth: width, offsetHeight: height } = tooltip;
  const left = x + 14 + width > window.innerWidth - 8 ? x - width - 14 : x + 14;
  tooltip.style.left = `${Math.max(8, left)}px`;
  tooltip.style.top = `${Math.max(8, Math.min(y + 14, window.innerHeight - height - 8))}px`;
}
