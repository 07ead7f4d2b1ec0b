// Draws the page from the JSON beside it. Everything that a file or a model said is put in as a text node (`h`), never as HTML.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const runs = data.runs, many = runs.length > 1;
const colour = i => "c" + i % 6, dash = i => "d" + i % 4;

// ---- Elements, numbers, the one tooltip.

function make(namespace, tag, attributes, children) {
  const element = namespace ? document.createElementNS(namespace, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);  // strings become text nodes
  }
  return element;
}
const h = (tag, attributes, ...children) => make(null, tag, attributes, children);
const s = (tag, attributes, ...children) => make("http://www.w3.org/2000/svg", tag, attributes, children);

function show(value, unit, digits = 3) {
  if (value === null || value === undefined) return "-";
  const size = Math.abs(value);
  const text = size === 0 ? "0" : size >= 1e5 && size < 1e9 ? `${Number((value / (size < 1e6 ? 1e3 : 1e6)).toPrecision(3))}${size < 1e6 ? "k" : "M"}`
    : size >= 1e9 || size < 1e-4 ? value.toExponential(1).replace("e+", "e").replace(".0e", "e")
    : size >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(digits)));
  return text.replace("-", "\u2212") + (unit === "%" ? "%" : "");
}
const percent = (value, digits = 1) => value === null ? "-" : (100 * value).toFixed(digits).replace("-", "\u2212");
const range = score => score.half === null ? "" : `[${percent(score.mean - score.half)}, ${percent(score.mean + score.half)}]`;
const signed = ([mean, half]) => (mean >= 0 ? "+" : "") + percent(mean, 2) + (half === null ? "" : " \u00b1 " + percent(half, 2));
const stepName = ([a, b]) => a === b ? "step " + a : `steps ${a}\u2013${b}`;

const tip = h("div", {id: "tip", role: "tooltip"});
document.body.append(tip);
function showTip(x, y, ...content) {
  tip.replaceChildren(...content);
  tip.style.display = "block";
  const {width, height} = tip.getBoundingClientRect();
  tip.style.left = Math.max(8, Math.min(x + 14, innerWidth - width - 8)) + "px";
  tip.style.top = (y + 16 + height < innerHeight - 8 ? y + 16 : Math.max(8, y - height - 12)) + "px";
}
const hideTip = () => { tip.style.display = "none"; };
addEventListener("keydown", event => { if (event.key === "Escape") hideTip(); });
addEventListener("scroll", hideTip, {passive: true});

// The tooltip has one owner at a time; each gives it up by its own function, and only while it is the owner.
let owner = hideTip;
function own(leave) {
  if (owner !== leave) owner();
  owner = leave;
}
addEventListener("pointerdown", event => { if (!event.target.closest(".plot, .tokens")) own(hideTip); });

// ---- One chart. A line: {label, tone, dash, x, y, low, high, names, dots, area}; a band: {label, tone, mean, half}.

const drawers = [];  // of every chart: called again when a run is hidden or another slice is chosen

function ticks(low, high, wanted, whole) {
  const raw = (high - low) / wanted, power = 10 ** Math.floor(Math.log10(raw));
  let step = [1, 2, 5, 10].map(m => m * power).find(m => m >= raw * .999);
  if (whole) step = Math.max(1, step);
  const out = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) out.push(i * step);
  return out;
}

function tickLabels(values, unit) {  // as many digits as tell them apart
  let labels, digits = 3;
  do labels = values.map(v => show(v, unit, digits)); while (new Set(labels).size < values.length && digits++ < 12);
  return labels;
}

function quantile(values, q) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.round(q * (sorted.length - 1))];
}

function yRange(lines, bands, robust) {
  const values = [];
  for (const l of lines) for (const list of [l.y, l.low, l.high]) for (const v of list || []) if (v !== null) values.push(v);
  for (const b of bands) values.push(b.mean - (b.half || 0), b.mean + (b.half || 0));
  if (!values.length) return null;
  let low = Math.min(...values), high = Math.max(...values);
  if (robust) {  // the scale of most points, when a few are far away
    const least = quantile(values, .05), most = quantile(values, .9), room = Math.max(most - least, Math.abs(most) * .2);
    if (high > most + 2 * room) high = most + room;
    if (low < least - 2 * room) low = least - room;
  }
  if (low >= 0 && low < .5 * high) low = 0;
  if (high - low < 1e-12 + 1e-6 * Math.abs(high)) { const pad = Math.abs(high) * .1 || 1; if (low !== 0) low -= pad; high += pad; }
  const pad = .06 * (high - low);
  return [low === 0 ? 0 : low - pad, high + pad];
}

const SHAPE = {height: 190, top: 10, bottom: 24, right: 12};

function chart(spec) {
  const plot = h("div", {class: "plot"}), key = h("div", {class: "key"});
  const figure = h("figure", {class: "card"},
    h("figcaption", null, spec.title, spec.unit && h("span", null, "  " + spec.unit)),
    spec.about && h("p", {class: "soft small"}, spec.about), key, plot);
  let width = 0;

  function draw() {
    const {lines, bands = []} = spec.content();
    figure.style.display = lines.length ? "" : "none";
    if (!width || !lines.length) return;
    key.replaceChildren(...(spec.key ? keyOf(lines, bands) : []));
    const [low, high] = yRange(lines, bands, spec.robust) || [0, 1];
    const xs = [...new Set(lines.flatMap(l => l.x))].sort((a, b) => a - b);
    const first = xs[0], last = xs.length > 1 ? xs[xs.length - 1] : xs[0] + 1;
    const yTicks = ticks(low, high, 4), labels = tickLabels(yTicks, spec.unit);
    const left = 12 + 6.6 * Math.max(...labels.map(t => t.length)), inside = width - left - SHAPE.right;
    const bottom = SHAPE.height - SHAPE.bottom;
    const X = x => left + 4 + (x - first) / (last - first) * (inside - 8);
    const Y = y => bottom - (Math.max(low, Math.min(high, y)) - low) / (high - low) * (bottom - SHAPE.top);
    const svg = s("svg", {height: SHAPE.height, viewBox: `0 0 ${width} ${SHAPE.height}`, tabindex: 0, role: "img",
      "aria-label": `${spec.title}: arrow keys read the values`});
    yTicks.forEach((v, i) => svg.append(s("line", {class: "grid", x1: left, x2: width - SHAPE.right, y1: Y(v), y2: Y(v)}),
      s("text", {x: left - 6, y: Y(v) + 4, "text-anchor": "end"}, labels[i])));
    svg.append(s("line", {class: "axis", x1: left, x2: width - SHAPE.right, y1: bottom, y2: bottom}));
    for (const [x, text] of xLabels(spec, first, last, inside)) {
      const anchor = X(x) > width - 30 ? "end" : "middle";
      svg.append(s("text", {x: anchor === "end" ? width - 4 : X(x), y: SHAPE.height - 7, "text-anchor": anchor}, text));
    }
    for (const b of bands) {
      const half = b.half || 0;
      svg.append(s("rect", {class: "area " + b.tone, x: left, width: inside, y: Y(b.mean + half), height: Y(b.mean - half) - Y(b.mean + half)}),
        s("line", {class: "dashed " + b.tone, x1: left, x2: width - SHAPE.right, y1: Y(b.mean), y2: Y(b.mean)}));
    }
    for (const line of lines) drawLine(svg, line, X, Y, low, high);
    const guide = s("g");
    svg.append(guide);
    plot.replaceChildren(svg);
    hover(svg, guide, lines, bands, xs, {X, Y, first, last, left, inside, bottom, unit: spec.unit, heading: spec.heading});
  }
  new ResizeObserver(([entry]) => {
    const now = Math.floor(entry.contentRect.width);
    if (now && now !== width) { width = now; draw(); }
  }).observe(plot);
  drawers.push(draw);
  draw();
  return figure;
}

// Of several runs the legend is the one at the top of the page.
const keyOf = (lines, bands) => [...(many ? [] : lines), ...bands].map(l => h("span", null, swatch(l.tone, l.half !== undefined ? "d1" : l.dash), l.label));
const swatch = (tone, dashes) => s("svg", {class: "swatch", viewBox: "0 0 24 8", "aria-hidden": "true"},
  s("line", {class: `curve ${tone} ${dashes || ""}`, x1: 0, x2: 24, y1: 4, y2: 4, style: "stroke-width:2.5"}));

function xLabels(spec, first, last, inside) {
  if (!spec.xNames) return ticks(first, last, Math.max(2, inside / 55), true).map(x => [x, show(x)]);
  const widest = 12 + 7 * Math.max(...spec.xNames.slice(0, last + 1).map(name => name.length));
  const every = Math.ceil((last + 1) * widest / inside);
  return spec.xNames.slice(0, last + 1).map((name, i) => [i, name]).filter(([i]) => i % every === 0);
}

function drawLine(svg, line, X, Y, low, high) {
  const tone = line.tone + " " + (line.dash || ""), there = line.x.map((_, i) => i);
  const path = list => there.reduce((d, i) => list[i] === null ? d : d + (d && list[i - 1] !== null && i ? "L" : "M") +
    X(line.x[i]).toFixed(1) + " " + Y(list[i]).toFixed(1), "");
  if (line.low && line.dots) {
    for (const i of there) svg.append(s("line", {class: "whisker " + line.tone, x1: X(line.x[i]), x2: X(line.x[i]), y1: Y(line.low[i]), y2: Y(line.high[i])}));
  } else if (line.low) {
    const known = there.filter(i => line.low[i] !== null && line.high[i] !== null);
    const around = [...known.map(i => [i, line.high[i]]), ...known.reverse().map(i => [i, line.low[i]])];
    svg.append(s("polygon", {class: "area " + line.tone, points: around.map(([i, v]) => X(line.x[i]).toFixed(1) + "," + Y(v).toFixed(1)).join(" ")}));
  }
  if (!line.y) {
    svg.append(s("path", {class: "edge " + tone, d: path(line.low)}), s("path", {class: "edge " + tone, d: path(line.high)}));
    return;
  }
  svg.append(s("path", {class: `curve ${tone} ${there.length > 150 ? "fine" : ""}`, d: path(line.y)}));
  for (const i of there) {
    const y = line.y[i], x = X(line.x[i]);
    if (y === null) continue;
    if (y > high || y < low) svg.append(s("path", {class: "outside " + line.tone, d: y > high ? `M${x - 4} ${Y(y) + 6}h8l-4 -6z` : `M${x - 4} ${Y(y) - 6}h8l-4 6z`}));
    else if (line.dots || there.length === 1) svg.append(s("circle", {class: "dot " + line.tone, cx: x, cy: Y(y), r: 4}));
  }
}

function hover(svg, guide, lines, bands, xs, at) {
  let index = 0;
  const leave = () => { guide.replaceChildren(); hideTip(); };
  function read(x, event) {
    own(leave);
    const near = xs.reduce((best, v) => Math.abs(v - x) < Math.abs(best - x) ? v : best, xs[0]);
    index = xs.indexOf(near);
    const rows = [];
    guide.replaceChildren(s("line", {class: "guide", x1: at.X(near), x2: at.X(near), y1: SHAPE.top, y2: at.bottom}));
    let heading = "";
    for (const line of lines) {
      const i = line.x.reduce((best, v, j) => Math.abs(v - near) < Math.abs(line.x[best] - near) ? j : best, 0);
      if (Math.abs(line.x[i] - near) > .03 * (at.last - at.first)) continue;
      const exact = line.x[i] === near;
      if (exact && !heading) heading = line.names[i];
      const interval = line.low && line.low[i] !== null;
      const text = line.y ? show(line.y[i], at.unit) + (interval && line.y[i] !== null ? ` \u00b1 ${show(line.high[i] - line.y[i])}` : "")
        : interval ? `${show(line.low[i], at.unit)} to ${show(line.high[i], at.unit)}` : "-";
      rows.push(h("tr", null, h("td", null, swatch(line.tone, line.dash)), h("td", null, line.label + (exact ? "" : ` (${line.names[i]})`)), h("td", null, text)));
      for (const v of line.y ? [line.y[i]] : [line.low[i], line.high[i]]) {
        if (v !== null) guide.append(s("circle", {class: "dot " + line.tone, cx: at.X(line.x[i]), cy: at.Y(v), r: 4}));
      }
    }
    for (const b of bands) rows.push(h("tr", null, h("td", null, swatch(b.tone, "d1")), h("td", null, b.label), h("td", null, show(b.mean, at.unit) + (b.half ? ` \u00b1 ${show(b.half)}` : ""))));
    const box = svg.getBoundingClientRect();
    showTip(event ? event.clientX : box.left + at.X(near), event ? event.clientY : box.top + 30, h("b", null, heading), h("table", null, rows));
  }
  const point = event => read(at.first + (event.clientX - svg.getBoundingClientRect().left - at.left - 4) / (at.inside - 8) * (at.last - at.first), event);
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointerleave", event => { if (event.pointerType !== "touch") leave(); });  // what a tap shows stays
  svg.addEventListener("blur", () => { if (owner === leave) leave(); });
  svg.addEventListener("keydown", event => {
    const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (!by) return;
    event.preventDefault();
    read(xs[Math.max(0, Math.min(xs.length - 1, index + by))]);
  });
}

// ---- What is compared: runs (a colour each), and slices of one run or several (all domains, one, or each).

const domains = [...new Set(runs.flatMap(r => r.domains))];
const sliced = runs.some(r => r.slices.length > 1);
const EACH = "each domain";
const view = {hidden: new Set(), slice: sliced && !many ? EACH : ""};
const shownSlices = () => view.slice === EACH ? domains : [view.slice];
const shownRuns = () => runs.map((run, i) => [run, i]).filter(([, i]) => !view.hidden.has(i));

function suffix(run, slice) {  // how the run calls this slice, or null where it has no such domain
  if (!slice) return "";
  return !run.domains.includes(slice) ? null : run.slices.length > 1 ? "/" + slice : "";
}
function toneOf(run, slice) {
  return {tone: many ? colour(run) : slice ? colour(domains.indexOf(slice)) : sliced ? "ink" : "c0",
    dash: many && view.slice === EACH ? dash(Math.max(0, domains.indexOf(slice))) : ""};
}
const labelOf = (run, slice) => [many && run.label, slice].filter(Boolean).join(", ") || "this run";

function curveContent(c) {
  const factor = c.percent ? 100 : 1, lines = [];
  const scaled = list => list && list.map(v => v === null ? null : v * factor);
  for (const [run, i] of shownRuns()) for (const slice of c.by_slice ? shownSlices() : [""]) {
    const end = suffix(run, slice);
    if (end === null) continue;
    const get = key => key && scaled(run.curves.values[key + end]);
    const y = get(c.key), half = get(c.half);
    let low = get(c.low), high = get(c.high);
    if (y && half) [low, high] = [-1, 1].map(sign => y.map((v, j) => v === null || half[j] === null ? null : v + sign * half[j]));
    if (!y && !(low && high)) continue;
    lines.push({label: labelOf(run, slice), ...toneOf(i, slice), x: run.curves.steps.map(p => p[1]), names: run.curves.steps.map(stepName), y, low, high});
  }
  return {lines};
}

function scoreContent(domain) {
  const lines = [], bands = [];
  for (const [run, i] of shownRuns()) {
    const scores = run.scores[domain];
    if (!scores || !scores.student.length) continue;
    const column = (j, sign) => scores.student.map(p => 100 * (p[1] + sign * (p[2] || 0)));
    lines.push({label: many ? run.label : "student", tone: many ? colour(i) : toneOf(0, sliced ? domain : "").tone, dots: true,
      x: scores.student.map(p => p[0]), names: scores.student.map(p => `step ${p[0]}, ${p[3].toLocaleString("en")} prompts`),
      y: column(1, 0), low: column(1, -1), high: column(1, 1)});
    for (const [, mean, half] of scores.teacher) {
      const same = bands.find(b => b.mean === 100 * mean);
      if (same) same.of.push(run.label);
      else bands.push({label: "teacher", tone: "ink", of: [run.label], own: colour(i), mean: 100 * mean, half: 100 * (half || 0)});
    }
  }
  if (bands.length > 1) for (const b of bands) Object.assign(b, {label: "teacher of " + b.of.join(", "), tone: b.own});
  return {lines, bands};
}

function positionContent(key) {
  const lines = [];
  for (const [run, i] of shownRuns()) for (const slice of shownSlices()) {
    const end = suffix(run, slice), periods = end === null ? null : run.positions.values[key + end];
    if (!periods) continue;
    const kept = many || view.slice === EACH ? [periods.length - 1] : periods.map((_, p) => p);
    for (const p of kept) {
      const when = stepName(run.positions.periods[p]);
      const look = kept.length > 1 ? {tone: "p" + p, label: when} : {...toneOf(i, slice), label: `${labelOf(run, slice)}, ${when}`};
      lines.push({...look, x: periods[p].map((_, b) => b), names: data.bins.map(b => "tokens " + b), y: periods[p], dots: periods[p].length < 12});
    }
  }
  return {lines};
}

// ---- Sections.

const chip = (text, pressed, click, extra) => h("button", {class: "chip", type: "button", "aria-pressed": String(pressed), click, ...extra}, text);

function controls() {
  const bar = h("div", {class: "chips"});
  function fill() {
    bar.replaceChildren(...[
      many && runs.map((run, i) => chip([h("span", {class: "swatch " + colour(i)}), run.label], !view.hidden.has(i), () => {
        view.hidden.has(i) ? view.hidden.delete(i) : view.hidden.add(i);
        update();
      }, {class: "chip run", title: "show or hide this run"})),
      sliced && ["", ...domains, EACH].map(slice => chip([view.slice === EACH && domains.includes(slice) &&
        swatch(many ? "ink" : colour(domains.indexOf(slice)), many ? dash(domains.indexOf(slice)) : ""), slice || "all domains"],
        view.slice === slice, () => { view.slice = slice; update(); })),
    ].flat().filter(Boolean));
  }
  const update = () => { fill(); drawers.forEach(draw => draw()); };
  fill();
  return bar;
}

function table(heads, rows) {
  return h("table", {class: "wide"}, h("thead", null, h("tr", null, heads.map(text => h("th", {class: text.length > 24 && !text.includes(" ") && "any"}, text)))),
    h("tbody", null, rows.map(row => h("tr", null, row.map((cell, i) => h("td", {"data-name": heads[i]}, h("div", null, cell)))))));
}

const VERDICTS = {yes: "above its teacher", no: "below its teacher", unclear: "not told apart from its teacher"};
const verdictOf = r => r.verdict && h("span", {class: "verdict " + r.verdict}, VERDICTS[r.verdict]);
const scoreCell = score => score ? [percent(score.mean) + "% ", h("small", null, range(score))] : "-";

function resultSection() {
  const rows = runs.flatMap((run, i) => run.results.map(r => [run, i, r]));
  if (!rows.length) return h("div", {class: "card soft"}, "No held-out score has been written yet.");
  const tiles = many ? [] : rows.flatMap(([, , r]) => {
    const where = domains.length > 1 ? r.domain + ": " : "";
    const tile = (name, value, below, tone) => h("div", {class: "card tile " + (tone || "")}, h("span", {class: "soft small"}, where + name), h("b", null, value), h("span", {class: "soft small"}, below));
    return [
      r.difference && tile("student \u2212 teacher, points", signed(r.difference), VERDICTS[r.verdict], "big " + r.verdict),
      tile(`student, step ${r.step}`, percent(r.after.mean) + "%", range(r.after)),
      r.teacher && tile("teacher", percent(r.teacher.mean) + "%", range(r.teacher)),
      tile("student before", percent(r.before.mean) + "%", range(r.before)),
    ];
  });
  const versus = rows.some(([, , r]) => r.versus);
  const heads = [many && "run", "domain", "lambda", "student before", "teacher", "student", "student \u2212 teacher, points", versus && "student \u2212 that of the first run", "answer length", "cut", "measured"];
  const cells = rows.map(([run, i, r]) => [
    many && h("span", {class: "named"}, h("span", {class: "swatch " + colour(i)}), h("span", {class: "any"}, run.label)),
    r.domain, r.reward_scale === null ? "-" : show(r.reward_scale), scoreCell(r.before), scoreCell(r.teacher), scoreCell(r.after),
    r.difference ? [signed(r.difference), h("small", null, verdictOf(r))] : "-", versus && (r.versus ? signed(r.versus) : "-"),
    [show(r.after.length) + " tokens", r.teacher && h("small", null, "teacher " + show(r.teacher.length))], percent(r.after.truncated) + "%",
    [`step ${r.step}`, h("small", null, `${r.prompts.toLocaleString("en")} prompts \u00d7 ${r.samples ?? "?"}`)],
  ].filter(cell => cell !== false));
  return h("div", {class: "stack"},
    tiles.length ? h("div", {class: "tiles"}, tiles) : null,
    h("div", {class: "card"}, table(heads.filter(Boolean), cells)),
    h("p", {class: "soft small"}, "Held-out prompts; 95% intervals by prompt. Differences are paired: over the prompts that both answered. They do not cover the spread over training seeds."));
}

function warningSection() {
  const all = runs.flatMap((run, i) => run.findings.map(f => [run, i, f]));
  const words = {bad: "the result is in doubt", look: "look at it", note: "for your information"};
  all.sort((a, b) => Object.keys(words).indexOf(a[2].level) - Object.keys(words).indexOf(b[2].level));
  return h("div", {class: "stack"},
    all.length ? h("div", {class: "findings"}, all.map(([run, i, f]) => h("div", {class: "card finding " + f.level},
      h("b", null, f.title), h("span", {class: "soft small"}, "  " + words[f.level]),
      many && h("p", {class: "small"}, h("span", {class: "swatch " + colour(i), style: "display:inline-block;margin-right:7px"}), run.label),
      h("p", null, f.text), h("p", {class: "soft"}, "What to do: " + f.todo))))
      : h("div", {class: "card"}, h("b", {class: "verdict yes"}, "Nothing found. "), "All checks passed."),
    h("details", {class: "small"}, h("summary", null, "What is checked"), h("ul", null, data.checks.map(c => h("li", null, c)))));
}

function phaseCard() {
  const names = [...new Set(runs.flatMap(r => Object.keys(r.phases)))];
  const total = run => Object.values(run.phases).reduce((a, b) => a + b, 0);
  const most = Math.max(...runs.map(total));
  if (!names.length) return null;
  return h("figure", {class: "card", style: "grid-column:1/-1"}, h("figcaption", null, "Where the time of a step goes", h("span", null, "  median seconds")),
    h("div", {class: "key"}, names.map((n, i) => h("span", null, h("i", {class: "swatch " + colour(i)}), n))),
    runs.map(run => h("div", {style: "margin-top:8px"}, h("span", {class: "small"}, many ? run.label + "  " : "",
      h("span", {class: "soft"}, names.filter(n => n in run.phases).map(n => `${n} ${show(run.phases[n])}`).join(" \u00b7 ") + ` \u00b7 together ${show(total(run))} s`)),
      h("div", {class: "bar", style: `width:${100 * total(run) / most}%`}, names.map((n, i) => h("i", {class: colour(i), style: `flex:${run.phases[n] || 0} 0 0`}))))));
}

function curveSection() {
  const groups = [...new Set(data.charts.map(c => c.group))];
  return groups.map(group => [h("h3", null, group), h("div", {class: "charts"},
    group === "Answers" && domains.map(d => chart({title: "Held-out score" + (domains.length > 1 ? ", " + d : ""), unit: "%", key: true,
      about: "avg@k with 95% interval by prompt.", content: () => scoreContent(d)})),
    group === "Speed" && phaseCard(),
    data.charts.filter(c => c.group === group).map(c => chart({...c, key: false, content: () => curveContent(c)})))]);
}

function positionSection() {
  if (!runs.some(r => Object.keys(r.positions.values).length)) return h("div", {class: "card soft"}, "These runs were written before advantages by position were.");
  return h("div", {class: "charts"}, data.positionCharts.map(c => chart({...c, xNames: data.bins.map(b => b.split("-")[0]), key: true, content: () => positionContent(c.key)})));
}

// ---- Samples: tokens coloured by advantage.

const advantages = runs.flatMap(r => r.samples.flatMap(x => (x.advantage || []).filter(a => a !== null).map(Math.abs)));
const strongest = advantages.length ? ticks(0, Math.max(quantile(advantages, .95), 1e-6), 2)[1] : 1;

function tokenText(text) {
  if (text === "") return [h("span", {class: "mark"}, "\u2205")];  // part of a character
  return text.split(/(\n|\t)/).map(part => part === "\n" ? [h("span", {class: "mark"}, "\u21b5"), "\n"] : part === "\t" ? [h("span", {class: "mark"}, "\u21e5"), "\t"] : part);
}

function tokenTip(sample, i) {
  const rows = data.logprobs.filter(n => sample[n]).map(n => [n, sample[n][i]]);
  return [h("code", null, JSON.stringify(sample.tokens[i])), h("table", null, rows.map(([n, v]) => h("tr", null, h("td", {class: "soft"}, "log " + n), h("td", null, v === null ? "-" : v.toFixed(3)))),
    sample.advantage && h("tr", null, h("td", null, h("b", null, "advantage")), h("td", null, h("b", null, sample.advantage[i] === null ? "-" : (sample.advantage[i] > 0 ? "+" : "") + sample.advantage[i].toFixed(3)))))];
}

function tokens(sample) {
  const spans = sample.tokens.map((text, i) => {
    const a = sample.advantage ? sample.advantage[i] || 0 : 0;
    const much = Math.min(1, Math.abs(a) / strongest) * 88;
    return h("span", {"data-i": i, tabindex: i ? -1 : 0, "aria-describedby": "tip", style: `--side:var(--${a >= 0 ? "more" : "less"});--much:${much.toFixed(0)}%`}, tokenText(text));
  });
  const box = h("div", {class: "tokens", "aria-label": "response; arrow keys go from token to token"}, spans);
  if (sample.left_out) spans[sample.left_out[0]]?.before(h("span", {class: "mark"}, ` \u2026 ${sample.left_out[1].toLocaleString("en")} tokens left out \u2026 `));
  const of = event => event.target.closest("[data-i]"), leave = () => hideTip();
  const open = event => {
    const span = of(event);
    if (!span) return hideTip();
    own(leave);
    const rect = span.getClientRects()[0];
    showTip(rect.left - 10, rect.bottom - 10, ...tokenTip(sample, Number(span.dataset.i)));
  };
  for (const name of ["pointerover", "click", "focusin"]) box.addEventListener(name, open);
  for (const name of ["pointerleave", "focusout"]) box.addEventListener(name, () => { if (owner === leave) leave(); });
  box.addEventListener("keydown", event => {
    const by = {ArrowLeft: -1, ArrowRight: 1, Home: -1e9, End: 1e9}[event.key], span = of(event);
    if (!by || !span) return;
    event.preventDefault();
    const next = spans[Math.max(0, Math.min(spans.length - 1, Number(span.dataset.i) + by))];
    spans.forEach(x => x.setAttribute("tabindex", x === next ? 0 : -1));
    next.focus();
  });
  return box;
}

function sampleCard(x) {
  const right = x.reward === null ? "" : x.reward > 0 ? "yes" : "no";
  return h("article", {class: "card"},
    h("div", null, h("span", {class: "tag " + right}, x.reward === null ? "not verified" : "reward " + show(x.reward)), h("span", {class: "tag"}, x.domain),
      x.finish_reason === "length" && h("span", {class: "tag no"}, "cut at the limit"), h("span", {class: "soft small"}, `${x.prompt_id}, sample ${x.sample_id}`)),
    h("div", {class: "sides"},
      h("div", null, h("p", {class: "label"}, "prompt"), h("div", {class: "mono soft", style: "white-space:pre-wrap"}, x.prompt), h("p", {class: "label"}, "response"), tokens(x)),
      h("div", null, h("p", {class: "label"}, "verdict"), h("div", null, x.verdict), h("p", {class: "label"}, "ground truth"), h("div", {class: "mono", style: "white-space:pre-wrap"}, x.ground_truth))));
}

function sampleSection() {
  const withSamples = runs.filter(r => r.samples.length);
  if (!withSamples.length) return h("div", {class: "card soft"}, "No samples were written (log.samples, log.samples_every).");
  const chosen = {run: withSamples[0], step: null}, bar = h("div", {class: "stack"}), cards = h("div", {class: "stack"});
  function fill() {
    const steps = [...new Set(chosen.run.samples.map(x => x.step))];
    if (!steps.includes(chosen.step)) chosen.step = steps[steps.length - 1];
    bar.replaceChildren(...[
      many && h("div", {class: "chips"}, withSamples.map(r => chip([h("span", {class: "swatch " + colour(runs.indexOf(r))}), r.label], r === chosen.run, () => { chosen.run = r; fill(); }))),
      h("div", {class: "chips"}, steps.map(step => chip("step " + step, step === chosen.step, () => { chosen.step = step; fill(); }))),
    ].filter(Boolean));
    const those = chosen.run.samples.filter(x => x.step === chosen.step);
    cards.className = those.every(x => x.tokens.length < 60) ? "stack pairs" : "stack";
    cards.replaceChildren(...those.map(sampleCard));
  }
  fill();
  const shown = [...new Set(withSamples.map(r => `${r.samples.length} of ${r.samplesWritten}`))].join(", ");
  return h("div", {class: "stack"},
    h("div", {class: "chips small"}, h("span", null, `\u2212${show(strongest)} less likely`), h("span", {class: "scale", role: "img", "aria-label": "colour scale"}), h("span", null, `more likely +${show(strongest)}`),
      h("span", {class: "soft"}, `advantage in nats, stronger ones in the same colour; point at a token, tap it or use the arrow keys for its log-probs. Samples shown: ${shown}${many ? " of a run" : ""}.`)),
    bar, cards);
}

function setupSection() {
  return h("div", {class: "stack"},
    many && h("div", {class: "card"}, h("b", null, "Where the configs differ"), data.differences.length ?
      table(["field", ...runs.map(r => r.label)], data.differences.map(row => row.map(v => h("span", {class: "mono"}, v)))) : h("p", {class: "soft"}, "Nowhere.")),
    runs.map((run, i) => h("details", {class: "card", open: many ? null : ""}, h("summary", null, many && h("span", {class: "swatch " + colour(i), style: "display:inline-block;margin-right:7px"}), many ? run.label : "This run"),
      h("div", {class: "stack", style: "margin-top:12px"}, h("dl", null, run.facts.map(([k, v]) => [h("dt", null, k), h("dd", null, v)])),
        run.commands.map(c => h("pre", null, c)),
        run.changed.length ? table(["config field", "value", "default"], run.changed.map(row => row.map(v => h("span", {class: "mono"}, v)))) : null))),
    data.notes.map(n => h("p", {class: "soft small"}, n)));
}

// ---- The page.

const section = (id, title, content, about) => h("section", {id}, h("h2", null, title), about && h("p", {class: "soft small", style: "margin-bottom:10px"}, about), content);
const worst = ["bad", "look", "note"].map(level => [level, runs.flatMap(r => r.findings).filter(f => f.level === level).length]).find(([, n]) => n);
const names = {result: "Result", warnings: "Warnings", curves: "Curves", position: "Position", samples: "Samples", setup: "Setup"};
document.title = runs.map(r => r.label).join(", ") + " \u2013 gopd_jax report";
document.getElementById("page").replaceChildren(
  h("header", null, h("p", {class: "soft small"}, `gopd_jax report, ${data.made}`), h("h1", null, many ? `${runs.length} runs compared` : runs[0].label),
    h("p", {class: "soft lead"}, many ? runs.map(r => r.label + (r.finished ? "" : ` (unfinished at step ${r.lastStep})`)).join(" \u00b7 ") :
      `${runs[0].finished ? "finished" : "unfinished"} at step ${runs[0].lastStep}. ${(runs[0].facts.find(f => f[0] === "method") || ["", ""])[1]}`)),
  h("nav", null, h("div", {class: "links"}, Object.entries(names).map(([id, name]) => h("a", {href: "#" + id}, name,
    id === "warnings" && worst && h("span", {class: "verdict " + worst[0]}, ` ${runs.flatMap(r => r.findings).length}`)))),
    (many || sliced) && controls()),
  section("result", "Result", resultSection()),
  section("warnings", "Warnings", warningSection()),
  section("curves", "Curves by step", curveSection(), data.notes.length ? data.notes.join(" ") : null),
  section("position", "By position in the response", positionSection(),
    many || sliced ? "Averages over the last third of the steps, by the position of the token in its response." : "Averages over thirds of the run, by the position of the token in its response."),
  section("samples", "Samples", sampleSection()),
  section("setup", "Setup", setupSection()));
