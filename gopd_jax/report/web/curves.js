// What the charts show: curves by step, held-out scores, curves by position, times of a step.

function curveSection() {
  const groups = [...new Set(data.charts.map(c => c.group))];
  return groups.map(group => [
    html("h3", null, group),
    html("div", {class: "charts"},
      group === "Responses" && domains.map(scoreChart),
      group === "Speed" && phaseCard(),
      data.charts.filter(c => c.group === group).map(curveChart)),
  ]);
}

const curveChart = spec => chart({...spec, key: false, content: () => curveContent(spec)});

function scoreChart(domain) {
  return chart({
    title: "Held-out score" + (domains.length > 1 ? ", " + domain : ""),
    unit: "%",
    key: true,
    about: "avg@k with 95% interval by prompt.",
    content: () => scoreContent(domain),
  });
}

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
  const {steps, values} = run.curves, factor = spec.percent ? 100 : 1;
  const get = key => {
    const list = key && values[key + suffix];
    return list && list.map(v => v === null ? null : v * factor);
  };
  const y = get(spec.key), half = get(spec.half);
  let low = get(spec.low), high = get(spec.high);
  if (y && half) {
    const missing = j => y[j] === null || half[j] === null;
    [low, high] = [-1, 1].map(sign => y.map((v, j) => missing(j) ? null : v + sign * half[j]));
  }
  if (!y && !(low && high)) return null;
  return {
    label: labelOf(run, slice), ...toneOf(runIndex, slice),
    x: steps.map(([, last]) => last), names: steps.map(formatSteps), y, low, high,
  };
}

// The student's scores as lines, the teachers' as bands; teachers of equal score share one.
function scoreContent(domain) {
  const lines = [], bands = [];
  for (const [run, i] of shownRuns()) {
    const scores = run.scores[domain];
    if (!scores || !scores.student.length) continue;
    lines.push(scoreLine(run, i, domain, scores.student));
    for (const [, share, halfShare] of scores.teacher) {
      const mean = 100 * share, half = 100 * (halfShare || 0);
      const same = bands.find(band => band.mean === mean);
      if (same) same.runs.push(run.label);
      else bands.push({runs: [run.label], tone: colour(i), mean, half});
    }
  }
  for (const band of bands) {
    band.label = bands.length > 1 ? "teacher of " + band.runs.join(", ") : "teacher";
    if (bands.length === 1) band.tone = "ink";
  }
  return {lines, bands};
}

function scoreLine(run, runIndex, domain, points) {
  const column = sign => points.map(([, mean, half]) => 100 * (mean + sign * (half || 0)));
  return {
    label: many ? run.label : "student",
    tone: many ? colour(runIndex) : toneOf(0, sliced ? domain : "").tone,
    dots: true,
    x: points.map(([step]) => step),
    names: points.map(([step, , , prompts]) => `step ${step}, ${formatCount(prompts)} prompts`),
    y: column(0), low: column(-1), high: column(1),
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
    const parts = names.map((name, i) =>
      html("i", {class: colour(i), style: `flex:${run.phases[name] || 0} 0 0`}));
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
