// One chart: its scales, axes, lines and bands.
//
// A chart is {title, unit, about, key, kind, robust, xNames, content}. `content()` returns what is
// shown now, {lines, bands}. A line is {label, tone, dash, x, y, low, high, names, dots, smooth}: a
// curve `y` with an interval from `low` to `high`, or without `y` only the area between the two;
// `names` says what each x is, `smooth` is `y` smoothed, drawn before it. A band is {label, tone,
// mean, low, high}: a horizontal line with its interval.

const PLOT = {height: 190, top: 10, bottom: 24, right: 12};

// Redraws every chart; called when a run is hidden or another domain is chosen.
const charts = [];
const redrawCharts = () => charts.forEach(draw => draw());

function chart(spec) {
  const plot = html("div", {class: "plot"}), key = html("div", {class: "key"});
  const figure = html("figure", {class: "card"},
    html("figcaption", null, spec.title, spec.unit && html("span", null, "  " + spec.unit)),
    spec.about && html("p", {class: "soft small"}, spec.about),
    key,
    plot);
  let width = 0;

  function draw() {
    const {lines, bands = []} = spec.content();
    figure.style.display = lines.length ? "" : "none";
    if (!width || !lines.length) return;
    key.replaceChildren(...(spec.key ? legend(lines, bands) : []));
    const scale = scaleOf(spec, lines, bands, width);
    const root = svg("svg", {
      height: PLOT.height, viewBox: `0 0 ${width} ${PLOT.height}`, tabindex: 0, role: "img",
      "aria-label": `${spec.title}: arrow keys read the values`,
    });
    drawAxes(root, spec, scale);
    for (const band of bands) drawBand(root, band, scale);
    for (const line of lines) drawLine(root, line, scale);
    const guide = svg("g");
    root.append(guide);
    plot.replaceChildren(root);
    readOnPointer(root, guide, lines, bands, scale);
  }

  new ResizeObserver(([entry]) => {
    const now = Math.floor(entry.contentRect.width);
    if (now && now !== width) {
      width = now;
      draw();
    }
  }).observe(plot);
  charts.push(draw);
  draw();
  return figure;
}

// The legend of one chart. Several runs have theirs at the top of the page.
function legend(lines, bands) {
  const entries = [
    ...(many ? [] : lines.map(l => [l, l.dash])),
    ...bands.map(b => [b, "d1"]),
  ];
  return entries.map(([l, dashes]) => html("span", null, lineSwatch(l.tone, dashes), l.label));
}

// ---- Scales and axes.

// Where values are on the plot: X and Y map them to pixels.
function scaleOf(spec, lines, bands, width) {
  const values = lines.flatMap(l => [l.y, l.low, l.high].flatMap(list => list || []))
    .concat(bands.flatMap(b => [b.low, b.high])).filter(v => v !== null);
  const [low, high] = axisRange(values, data.scales[spec.kind], spec.robust) || [0, 1];
  const xs = [...new Set(lines.flatMap(l => l.x))].sort((a, b) => a - b);
  const first = xs[0], last = xs.length > 1 ? xs[xs.length - 1] : xs[0] + 1;
  const yTicks = ticks(low, high, 4), yLabels = tickLabels(yTicks, spec.unit);
  const left = 12 + 6.6 * Math.max(...yLabels.map(t => t.length));
  const inside = width - left - PLOT.right, bottom = PLOT.height - PLOT.bottom;
  const X = x => left + 4 + (x - first) / (last - first) * (inside - 8);
  const xAt = pixel => first + (pixel - left - 4) / (inside - 8) * (last - first);
  const clamp = y => Math.max(low, Math.min(high, y));
  const Y = y => bottom - (clamp(y) - low) / (high - low) * (bottom - PLOT.top);
  return {
    X, Y, xAt, xs, first, last, low, high, yTicks, yLabels, width, left, inside, bottom,
    unit: spec.unit,
  };
}

function drawAxes(root, spec, {X, Y, width, left, inside, bottom, first, last, yTicks, yLabels}) {
  const right = width - PLOT.right;
  yTicks.forEach((v, i) => root.append(
    svg("line", {class: "grid", x1: left, x2: right, y1: Y(v), y2: Y(v)}),
    svg("text", {x: left - 6, y: Y(v) + 4, "text-anchor": "end"}, yLabels[i])));
  root.append(svg("line", {class: "axis", x1: left, x2: right, y1: bottom, y2: bottom}));
  for (const [x, text] of xLabels(spec, first, last, inside)) {
    const half = 3.5 * text.length;  // of its width, so that it stays inside
    const place = {x: Math.min(X(x), width - 2 - half), y: PLOT.height - 7};
    root.append(svg("text", {...place, "text-anchor": "middle"}, text));
  }
}

// Pairs [x, label]: round steps, or as many of the given names as there is room for.
function xLabels(spec, first, last, inside) {
  if (!spec.xNames) {
    return ticks(first, last, Math.max(2, inside / 55), true).map(x => [x, formatNumber(x)]);
  }
  const names = spec.xNames.slice(0, last + 1);
  const widest = 12 + 7 * Math.max(...names.map(name => name.length));
  const every = Math.ceil((last + 1) * widest / inside);
  return names.map((name, i) => [i, name]).filter(([i]) => i % every === 0);
}

// ---- Lines and bands.

function drawBand(root, band, {Y, width, left, inside}) {
  const {tone, mean} = band, top = Y(band.high), right = width - PLOT.right;
  const height = Y(band.low) - top;
  root.append(
    svg("rect", {class: "area " + tone, x: left, width: inside, y: top, height}),
    svg("line", {class: "dashed " + tone, x1: left, x2: right, y1: Y(mean), y2: Y(mean)}));
}

function drawLine(root, line, scale) {
  const {X, Y} = scale, tone = line.tone + " " + (line.dash || "");
  if (line.low && line.dots) drawWhiskers(root, line, X, Y);
  else if (line.low) drawArea(root, line, X, Y);
  if (!line.y) {
    root.append(svg("path", {class: "edge " + tone, d: pathOf(line, line.low, X, Y)}),
      svg("path", {class: "edge " + tone, d: pathOf(line, line.high, X, Y)}));
    return;
  }
  const weight = line.smooth ? "raw" : line.x.length > 150 ? "fine" : "";
  root.append(svg("path", {class: `curve ${tone} ${weight}`, d: pathOf(line, line.y, X, Y)}));
  if (line.smooth) {
    root.append(svg("path", {class: "curve " + tone, d: pathOf(line, line.smooth, X, Y)}));
  }
  drawPoints(root, line, scale);
}

// A path through `values`, interrupted where one is missing.
function pathOf(line, values, X, Y) {
  let path = "";
  values.forEach((y, i) => {
    if (y === null) return;
    const joined = path && i && values[i - 1] !== null;
    path += (joined ? "L" : "M") + X(line.x[i]).toFixed(1) + " " + Y(y).toFixed(1);
  });
  return path;
}

function drawWhiskers(root, line, X, Y) {
  line.x.forEach((x, i) => root.append(svg("line", {
    class: "whisker " + line.tone, x1: X(x), x2: X(x), y1: Y(line.low[i]), y2: Y(line.high[i]),
  })));
}

function drawArea(root, line, X, Y) {
  const known = [...line.x.keys()].filter(i => line.low[i] !== null && line.high[i] !== null);
  const outline = [
    ...known.map(i => [line.x[i], line.high[i]]),
    ...known.reverse().map(i => [line.x[i], line.low[i]]),
  ];
  const points = outline.map(([x, y]) => X(x).toFixed(1) + "," + Y(y).toFixed(1)).join(" ");
  root.append(svg("polygon", {class: "area " + line.tone, points}));
}

// Dots where there are few, and arrows for points outside of the range.
function drawPoints(root, line, {X, Y, low, high}) {
  line.x.forEach((step, i) => {
    const value = line.y[i], x = X(step), y = Y(value);
    if (value === null) return;
    if (value > high || value < low) {
      const arrow = value > high ? `M${x - 4} ${y + 6}h8l-4 -6z` : `M${x - 4} ${y - 6}h8l-4 6z`;
      root.append(svg("path", {class: "outside " + line.tone, d: arrow}));
    } else if (line.dots || line.x.length === 1) {
      root.append(svg("circle", {class: "dot " + line.tone, cx: x, cy: y, r: 4}));
    }
  });
}

// ---- Reading values by pointer, touch or arrow keys.

function readOnPointer(root, guide, lines, bands, scale) {
  const {xs, X, xAt} = scale;
  let index = 0;
  const leave = () => {
    guide.replaceChildren();
    hideTooltip();
  };

  function read(x, event) {
    ownTooltip(leave);
    const nearest = xs.reduce((best, v) => Math.abs(v - x) < Math.abs(best - x) ? v : best, xs[0]);
    index = xs.indexOf(nearest);
    const {heading, rows, dots} = valuesAt(nearest, lines, scale);
    const at = X(nearest);
    guide.replaceChildren(
      svg("line", {class: "guide", x1: at, x2: at, y1: PLOT.top, y2: scale.bottom}), ...dots);
    rows.push(...bands.map(band => bandRow(band, scale.unit)));
    const box = root.getBoundingClientRect();
    const [left, top] = event ? [event.clientX, event.clientY] : [box.left + at, box.top + 30];
    showTooltip(left, top, html("b", null, heading), html("table", null, rows));
  }

  const point = event => read(xAt(event.clientX - root.getBoundingClientRect().left), event);
  root.addEventListener("pointermove", point);
  root.addEventListener("pointerdown", point);
  root.addEventListener("pointerleave", event => {
    if (event.pointerType !== "touch") leave();  // what a tap shows stays
  });
  root.addEventListener("blur", () => disownTooltip(leave));
  root.addEventListener("keydown", event => {
    const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (!by) return;
    event.preventDefault();
    read(xs[Math.max(0, Math.min(xs.length - 1, index + by))]);
  });
}

// What the lines hold at `x`: rows of the tooltip, dots on the plot. A line without a point there
// shows its nearest one, if that is close.
function valuesAt(x, lines, {X, Y, first, last, unit}) {
  const rows = [], dots = [];
  let heading = "";
  for (const line of lines) {
    const distance = i => Math.abs(line.x[i] - x);
    const i = line.x.reduce((best, _, j) => distance(j) < distance(best) ? j : best, 0);
    if (distance(i) > .03 * (last - first)) continue;
    const exact = line.x[i] === x;
    if (exact && !heading) heading = line.names[i];
    const label = line.label + (exact ? "" : ` (${line.names[i]})`);
    rows.push(valueRow(line.tone, line.dash, label, valueText(line, i, unit)));
    for (const y of line.y ? [line.y[i]] : [line.low[i], line.high[i]]) {
      if (y === null) continue;
      dots.push(svg("circle", {class: "dot " + line.tone, cx: X(line.x[i]), cy: Y(y), r: 4}));
    }
  }
  return {heading, rows, dots};
}

function valueText(line, i, unit) {
  const interval = line.low && line.low[i] !== null;
  if (line.y) {
    const ends = interval
      ? ` [${formatNumber(line.low[i])}, ${formatNumber(line.high[i])}]` : "";
    const smooth = line.smooth ? `, smoothed ${formatNumber(line.smooth[i], unit)}` : "";
    return formatNumber(line.y[i], unit) + ends + smooth;
  }
  if (!interval) return "-";
  return `${formatNumber(line.low[i], unit)} to ${formatNumber(line.high[i], unit)}`;
}

function bandRow({tone, label, mean, low, high}, unit) {
  const ends = ` [${formatNumber(low)}, ${formatNumber(high)}]`;
  return valueRow(tone, "d1", label, formatNumber(mean, unit) + ends);
}

function valueRow(tone, dashes, label, text) {
  const cells = [lineSwatch(tone, dashes), label, text];
  return html("tr", null, cells.map(cell => html("td", null, cell)));
}
