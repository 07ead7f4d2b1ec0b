// HTML and SVG elements, and the one tooltip of the page.
//
// Text that comes from a file or a model reaches the page here, as text nodes, never as HTML.

const SVG_NAMESPACE = "http://www.w3.org/2000/svg";

const html = (tag, attributes, ...children) =>
  fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  fill(document.createElementNS(SVG_NAMESPACE, tag), attributes, children);

const isPresent = value => value !== null && value !== undefined && value !== false;

// Attributes that are functions become event listeners; strings among the children become text
// nodes; null, undefined and false are left out.
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (isPresent(value)) element.setAttribute(name, value);
  }
  for (const child of children.flat(Infinity)) if (isPresent(child)) element.append(child);
  return element;
}

// Colour classes of runs and domains, and dash classes of domains (style.css).
const colour = index => "c" + index % 6;
const dash = index => "d" + index % 4;

const inlineSwatch = index =>
  html("span", {class: "swatch " + colour(index), style: "display:inline-block;margin-right:7px"});

// A short piece of a line, as a legend shows it.
function lineSwatch(tone, dashes) {
  const line = {class: `curve ${tone} ${dashes || ""}`, x1: 0, x2: 24, y1: 4, y2: 4};
  return svg("svg", {class: "swatch", viewBox: "0 0 24 8", "aria-hidden": "true"},
    svg("line", {...line, style: "stroke-width:2.5"}));
}

// A button that is pressed or not, such as the choice of a domain.
function chip(content, pressed, click, more) {
  const attributes = {class: "chip", type: "button", "aria-pressed": String(pressed), click};
  return html("button", {...attributes, ...more}, content);
}

// A table; on a narrow screen each cell shows the head of its column.
function table(heads, rows) {
  const isLongName = text => text.length > 24 && !text.includes(" ");
  const head = heads.map(text => html("th", {class: isLongName(text) && "any"}, text));
  const cell = (content, i) => html("td", {"data-name": heads[i]}, html("div", null, content));
  return html("table", {class: "wide"},
    html("thead", null, html("tr", null, head)),
    html("tbody", null, rows.map(row => html("tr", null, row.map(cell)))));
}

// ---- The tooltip.

const tooltip = html("div", {id: "tip", role: "tooltip"});
document.body.append(tooltip);

function showTooltip(x, y, ...content) {
  tooltip.replaceChildren(...content);
  tooltip.style.display = "block";
  const {width, height} = tooltip.getBoundingClientRect();
  const below = y + 16, above = Math.max(8, y - height - 12);
  tooltip.style.left = Math.max(8, Math.min(x + 14, innerWidth - width - 8)) + "px";
  tooltip.style.top = (below + height < innerHeight - 8 ? below : above) + "px";
}

function hideTooltip() {
  tooltip.style.display = "none";
}

// The tooltip has one owner at a time, named by the function that gives it up.
let tooltipOwner = hideTooltip;

function ownTooltip(leave) {
  if (tooltipOwner !== leave) tooltipOwner();
  tooltipOwner = leave;
}

// Gives the tooltip up, unless somebody else owns it by now.
function disownTooltip(leave) {
  if (tooltipOwner === leave) leave();
}

addEventListener("keydown", event => { if (event.key === "Escape") hideTooltip(); });
addEventListener("scroll", hideTooltip, {passive: true});
addEventListener("pointerdown", event => {
  if (!event.target.closest(".plot, .tokens")) ownTooltip(hideTooltip);
});
