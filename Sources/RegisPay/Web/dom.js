// Elements made from code. Everything from the server is set as text, never as HTML.

const svgNamespace = "http://www.w3.org/2000/svg";

/// An element. Properties: `class`, `data` (an object), `on` (listeners by event), anything with a dash or of SVG as an attribute,
/// everything else as a property. Children: nodes, texts, arrays of these; null, undefined and false are left out.
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false && !withFalse.has(name)) continue;
    if (name === "class") element.className = value;
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name.includes("-") || attributes.has(name)) element.setAttribute(name, value === true ? "" : String(value));
    else element[name] = value;
  }
  element.append(...present(children));
  return element;
}

/// Properties for which false differs from not being set.
const withFalse = new Set(["open", "spellcheck"]);
const attributes = new Set(["role", "for", "scope", "list", "datetime", "colspan", "form"]);

export function svg(tag, properties = {}, ...children) {
  const element = document.createElementNS(svgNamespace, tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value !== undefined && value !== null) element.setAttribute(name, String(value));
  }
  element.append(...present(children));
  return element;
}

function present(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false)
    .map((child) => child instanceof Node ? child : String(child));
}

/// The paths of icons in a square of 20 units, drawn with round strokes.
const icons = {
  overview: ["M3 11a7 7 0 0 1 14 0", "M10 11l3.5-3.5", "M3 15h14"],
  payments: ["M2.5 5h15v10h-15z", "M2.5 8.5h15", "M5 12h3"],
  add: ["M10 4v12", "M4 10h12"],
  processing: ["M4 6h8", "M12 6l-2.5-2.5", "M12 6l-2.5 2.5", "M16 14H8", "M8 14l2.5-2.5", "M8 14l2.5 2.5"],
  log: ["M4 4h12", "M4 8h12", "M4 12h8", "M4 16h5"],
  webhooks: ["M7 7a3 3 0 1 1 4 2.8l2 3.4", "M13 13a2.5 2.5 0 1 1-1 3H7", "M7 16a2.5 2.5 0 1 1-2-4l3-4"],
  simulator: ["M5 3v14", "M10 3v14", "M15 3v14", "M3.5 7h3", "M8.5 12h3", "M13.5 6h3"],
  system: ["M10 7a3 3 0 1 0 0 6 3 3 0 0 0 0-6z", "M10 2v2.5", "M10 15.5V18", "M2 10h2.5", "M15.5 10H18", "M4.5 4.5l1.7 1.7",
    "M13.8 13.8l1.7 1.7", "M15.5 4.5l-1.7 1.7", "M6.2 13.8l-1.7 1.7"],
  search: ["M8.5 3a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11z", "M12.5 12.5L17 17"],
  done: ["M4 10.5l4 4 8-9"],
  wait: ["M10 3a7 7 0 1 0 0 14 7 7 0 0 0 0-14z", "M10 6v4l2.5 2"],
  move: ["M3 10h13", "M11 5l5 5-5 5"],
  bad: ["M5 5l10 10", "M15 5L5 15"],
  unknown: ["M7 7.5a3 3 0 1 1 4.3 2.7c-.9.5-1.3 1-1.3 2", "M10 15.5v.2"],
  stop: ["M10 3a7 7 0 1 0 0 14 7 7 0 0 0 0-14z", "M5.5 5.5l9 9"],
  back: ["M16 10H4", "M9 5l-5 5 5 5"],
  menu: ["M3 6h14", "M3 10h14", "M3 14h14"],
  copy: ["M7 7h9v9H7z", "M13 7V4H4v9h3"],
  down: ["M5 8l5 5 5-5"],
  up: ["M5 12l5-5 5 5"],
  warn: ["M10 3l8 14H2z", "M10 8v4", "M10 14.5v.2"],
  pause: ["M7 4v12", "M13 4v12"],
  play: ["M6 4l10 6-10 6z"],
  refund: ["M4 8h8a4 4 0 0 1 0 8H7", "M4 8l3.5-3.5", "M4 8l3.5 3.5"],
  key: ["M7 10a3 3 0 1 1-6 0 3 3 0 0 1 6 0z", "M7 10h11", "M15 10v3", "M12 10v2"],
};

const drawn = new Map();

/// An icon for the eye only: what it means is said in text beside it.
export function icon(name, size = 20) {
  const key = `${name} ${size}`;
  if (!drawn.has(key)) drawn.set(key, draw(name, size));
  return drawn.get(key).cloneNode(true);
}

function draw(name, size) {
  return svg("svg", { viewBox: "0 0 20 20", width: size, height: size, class: "icon", "aria-hidden": "true" },
    icons[name].map((d) => svg("path", { d })));
}

/// Replaces the content of an element. Keeps the focus on an element with the same `data-focus` name.
export function replace(element, ...children) {
  const focused = element.contains(document.activeElement) ? document.activeElement.dataset.focus : undefined;
  element.replaceChildren(...present(children));
  if (focused) element.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}
