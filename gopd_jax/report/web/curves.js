// What the charts show: curves by step, held-out scores, curves by position, times of a step.

function curveSection() {
  const groups = [...new Set(data.charts.map(c => c.group))];
  return [smoothingControl(), heldOutCharts(), ...groups.map(group => [
    html("h3", null, group),
    html("div", {class: "charts"},
      group === "Speed" && phaseCard(),
      data.charts.filter(c => c.group === group).map(curveChart)),
  ]), emptyNote()];
}

// The scores on held-out prompts, and whatever else was measured on them.
function heldOutCharts() {
  const drawn = domains.flatMap(domain => [
    runs.some(run => run.scores[domain]?.student.length) && scoreChart(domain),
    ...data.heldOutCharts.map(spec => hasHeldOut(domain, spec) && heldOutChart(domain, spec)),
  ]).filter(Boolean);
  return drawn.length > 0 && [
    html("h3", null, "Held-out prompts"), html("div", {class: "charts"}, drawn)];
}

const hasHeldOut = (domain, {key}) =>
  runs.some(run => run.heldOut[domain]?.[key]?.some(([, value]) => value));

// Names the charts that are left out, so that nothing is missing without a word.
function emptyNote() {
  const titles = data.emptyCharts.join(", ");
  return titles && html("p", {class: "soft small", style: "margin-top:14px"},
    "Left out, because not recorded or 0 at every step: " + titles + ".");
}

// How far apart the points are that are averaged, as a share of the run.
const SMOOTHING = [0, .005, .01, .02, .05, .1];
const FEWEST_SMOOTHED = 10;  // points; fewer are not smoothed

function smoothingControl() {
  const lengths = runs.map(run => run.curves.steps.length);
  if (Math.max(0, ...lengths) < FEWEST_SMOOTHED) return null;
  const text = html("span", {class: "soft"});
  const say = () => {
    const sigma = formatNumber(smoothingSteps(), "", 2);
    text.replaceChildren(view.smoothing ? `over about ${sigma} steps to each side` : "off");
  };
  const change = event => {
    view.smoothing = Number(event.target.value);
    say();
    redrawCharts();
  };
  say();
  return html("label", {class: "chips small"}, "Smoothing",
    html("input", {
      type: "range", min: 0, max: SMOOTHING.length - 1, value: view.smoothing, input: change}),
    text);
}

// In steps, the same for all runs, so that they can be compared; below 0.7 there is no effect.
function smoothingSteps() {
  const ends = runs.flatMap(run => run.curves.steps.slice(-1).map(([, last]) => last));
  return view.smoothing && Math.max(.7, SMOOTHING[view.smoothing] * Math.max(0, ...ends));
}

const curveChart = spec => chart({...spec, key: false, content: () => curveContent(spec)});

function scoreChart(domain) {
  return chart({
    title: "Held-out score" + inDomain(domain),
    unit: "%",
    kind: "share",
    key: true,
    about: "avg@k with 95% interval by prompt.",
    content: () => scoreContent(domain),
  });
}

const inDomain = domain => domains.length > 1 ? ", " + domain : "";

function heldOutChart(domain, spec) {
  const factor = spec.kind === "share" ? 100 : 1;
  const line = ([run, i]) => {
    const points = run.heldOut[domain]?.[spec.key];
    return points && {
      label: many ? run.label : "student",
      tone: many ? colour(i) : toneOf(0, sliced ? domain : "").tone,
      dots: true,
      x: points.map(([step]) => step), names: points.map(([step]) => "step " + step),
      y: points.map(([, value]) => factor * value), ...intervalOf(points),
    };
  };
  const content = () => ({lines: shownRuns().map(line).filter(Boolean)});
  return chart({...spec, title: spec.title + inDomain(domain), key: false, content});
}

// Whiskers, where each point has an interval.
const intervalOf = points => points.every(([, , low, high]) => low !== null && high !== null)
  ? {low: points.map(point => point[2]), high: points.map(point => point[3])} : {};

function positionSection() {
  if (!runs.some(run => Object.keys(run.positions.values).length)) {
    const text = "These runs have no advantages by position.";
    return html("div", {class: "card soft"}, text);
  }
  const xNames = data.bins.map(bin => bin.split("-")[0]);
  return html("div", {class: "charts"}, data.positionCharts.map(spec =>
    chart({...spec, xNames, key: true, content: () => positionContent(spec.key)})));
}

// A line for each run and slice that are shown.
function curveContent(spec) {
  const slices = spec.by_slice ? shownSlices() : [""];
  const pairs = shownRuns().flatMap(([run, i]) => slices.map(slice => [run, i, slice]));
  return {lines: pairs.map(([run, i, slice]) => curveLine(spec, run, i, slice)).filter(Boolean)};
}

// The line of one run and slice; null where the run has no such metric.
function curveLine(spec, run, runIndex, slice) {
  const suffix = metricSuffix(run, slice);
  if (suffix === null) return null;
  const {steps, values} = run.curves, factor = spec.kind === "share" ? 100 : 1;
  const get = key => {
    const list = key && values[key + suffix];
    return list && list.map(v => v === null ? null : v * factor);
  };
  const y = get(spec.key), low = get(spec.low), high = get(spec.high);
  const x = steps.map(([, last]) => last);
  const sigma = smoothingSteps();
  const isLong = x.length >= FEWEST_SMOOTHED;
  if (!y && !(low && high)) return null;
  return {
    label: labelOf(run, slice), ...toneOf(runIndex, slice),
    x, names: steps.map(formatSteps), y, low, high,
    smooth: y && sigma && isLong ? smoothed(x, y, sigma) : null,
  };
}

// The student's scores as lines, the teachers' as bands; teachers of equal score share one.
function scoreContent(domain) {
  const lines = [], bands = [];
  for (const [run, i] of shownRuns()) {
    const scores = run.scores[domain];
    if (!scores || !scores.student.length) continue;
    lines.push(scoreLine(run, i, domain, scores.student));
    for (const point of scores.teacher) {
      const [mean, low, high] = point.slice(1).map(share => 100 * share);
      const same = bands.find(band => band.mean === mean);
      if (same) same.runs.push(run.label);
      else bands.push({runs: [run.label], tone: colour(i), mean, low, high});
    }
  }
  for (const band of bands) {
    band.label = bands.length > 1 ? "teacher of " + band.runs.join(", ") : "teacher";
    if (bands.length === 1) band.tone = "ink";
  }
  return {lines, bands};
}

function scoreLine(run, runIndex, domain, points) {
  const column = i => points.map(point => 100 * point[i]);
  return {
    label: many ? run.label : "student",
    tone: many ? colour(runIndex) : toneOf(0, sliced ? domain : "").tone,
    dots: true,
    x: points.map(([step]) => step),
    names: points.map(([step, , , , prompts]) => `step ${step}, ${formatCount(prompts)} prompts`),
    y: column(1), low: column(2), high: column(3),
  };
}

// One run and slice is shown in thirds of the run; of several, each shows its last third.
function positionContent(key) {
  const lines = [], lastOnly = many || view.slice === EACH_DOMAIN;
  for (const [run, i] of shownRuns()) for (const slice of shownSlices()) {
    const suffix = metricSuffix(run, slice);
    const periods = suffix === null ? null : run.positions.values[key + suffix];
    if (!periods) continue;
    const kept = lastOnly ? [periods.length - 1] : [...periods.keys()];
    for (const p of kept) {
      const when = formatSteps(run.positions.periods[p]);
      const look = kept.length > 1
        ? {tone: "p" + p, label: when}
        : {...toneOf(i, slice), label: `${labelOf(run, slice)}, ${when}`};
      lines.push({
        ...look, x: [...periods[p].keys()], names: data.bins.map(bin => "tokens " + bin),
        y: periods[p], dots: periods[p].length < 12,
      });
    }
  }
  return {lines};
}

// Bars of the median seconds that each phase of a step takes.
function phaseCard() {
  const names = [...new Set(runs.flatMap(run => Object.keys(run.phases)))];
  if (!names.length) return null;
  const total = run => Object.values(run.phases).reduce((a, b) => a + b, 0);
  const longest = Math.max(...runs.map(total));

  function row(run) {
    const shown = names.filter(name => name in run.phases);
    const texts = shown.map(name => `${name} ${formatNumber(run.phases[name])}`);
    texts.push(`together ${formatNumber(total(run))} s`);
    const widths = percentages(names.map(name => run.phases[name] || 0));
    const parts = widths.map((width, i) =>
      html("i", {class: colour(i), style: `flex:${width} 0 0`}));
    return html("div", {style: "margin-top:8px"},
      html("span", {class: "small"}, many ? run.label + "  " : "",
        html("span", {class: "soft"}, texts.join(` ${DOT} `))),
      html("div", {class: "bar", style: `width:${100 * total(run) / longest}%`}, parts));
  }

  return html("figure", {class: "card", style: "grid-column:1/-1"},
    html("figcaption", null, "Where the time of a step goes",
      html("span", null, "  median seconds")),
    html("div", {class: "key"}, names.map((name, i) =>
      html("span", null, html("i", {class: "swatch " + colour(i)}), name))),
    runs.map(row));
}
