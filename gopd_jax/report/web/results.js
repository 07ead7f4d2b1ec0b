// Results and setup: what there is to read besides the charts.

// ---- Results: the student against its teacher.

const VERDICTS = {
  yes: "above its teacher",
  no: "below its teacher",
  unclear: "not distinguishable from its teacher",
};
const STUDENT_MINUS_TEACHER = `student ${MINUS} teacher, points`;

function resultSection() {
  const results = runs.flatMap((run, i) => run.results.map(result => [run, i, result]));
  const names = runs.flatMap(run => run.unscored.map(row => row.domain));
  const unscored = [...new Set(names)].map(unscoredCard);
  if (!results.length) {
    const none = html("div", {class: "card soft"}, "No held-out score has been written yet.");
    return html("div", {class: "stack"}, unscored.length ? unscored : none);
  }
  const tiles = many ? [] : results.flatMap(([, , result]) => resultTiles(result));
  return html("div", {class: "stack"},
    tiles.length ? html("div", {class: "tiles"}, tiles) : null,
    html("div", {class: "card"}, resultTable(results)),
    unscored,
    html("p", {class: "soft small"},
      "Held-out prompts; 95% intervals by prompt, which also hold for few prompts and at 0 or " +
      "100%. Differences are paired, over the prompts that both answered. The intervals do not " +
      "cover the spread over training seeds."));
}

// What was measured in a domain whose answers nobody judges, before and at the end.
function unscoredCard(domain) {
  const specs = data.heldOutCharts.filter(spec => hasHeldOut(domain, spec));
  const rows = runs.flatMap((run, i) => {
    const measured = run.unscored.find(row => row.domain === domain);
    const isKnown = spec => run.heldOut[domain]?.[spec.key]?.length;
    return measured ? specs.filter(isKnown).map(spec => unscoredRow(run, i, measured, spec)) : [];
  });
  const heads = ["held-out prompts", "student before", "student", "change", "measured"];
  if (many) heads.unshift("run");
  return html("div", {class: "card"},
    html("b", null, "No score" + inDomain(domain)),
    html("p", {class: "soft"}, "Its answers are not verified: whether the student is above its " +
      "teacher was not measured."),
    rows.length ? table(heads, rows) : null);
}

function unscoredRow(run, i, measured, spec) {
  const points = run.heldOut[measured.domain][spec.key];
  const [first, last] = [points[0], points[points.length - 1]];
  const number = value => formatNumber(value);
  const cell = ([, value, low, high]) => spec.kind === "share" ? formatPercent(value) + "%" : [
    `${number(value)} ${spec.unit}`, isPresent(low) && detail(`[${number(low)}, ${number(high)}]`)];
  const change = spec.key === "kl" && measured.change;
  const [mean, ...ends] = (change || []).map(value => isPresent(value) && formatChange(value));
  const between = ends[0] && detail(`[${ends.join(", ")}], paired by prompt`);
  const cells = [
    spec.title, cell(first), cell(last),
    change ? [mean, between] : "-", measuredCell(measured),
  ];
  return many ? [[inlineSwatch(i), run.label], ...cells] : cells;
}

function resultTiles(result) {
  const where = domains.length > 1 ? result.domain + ": " : "";
  const tile = (name, value, below, tone) => html("div", {class: "card tile " + (tone || "")},
    html("span", {class: "soft small"}, where + name),
    html("b", null, value),
    html("span", {class: "soft small"}, below));
  const scoreTile = (name, score) =>
    tile(name, formatPercent(score.interval[0]) + "%", formatInterval(score.interval));
  const {verdict, difference, teacher} = result;
  return [
    difference && tile(STUDENT_MINUS_TEACHER, formatPoints(difference[0]),
      `${formatPointsInterval(difference)}, ${VERDICTS[verdict]}`, "big " + verdict),
    scoreTile(`student, step ${result.step}`, result.after),
    teacher && scoreTile("teacher", teacher),
    scoreTile("student before", result.before),
  ];
}

function resultTable(results) {
  const versus = results.some(([, , result]) => result.versus);
  const heads = [
    many && "run", "domain", "lambda", "student before", "teacher", "student",
    STUDENT_MINUS_TEACHER, versus && `student ${MINUS} that of the first run`, "response length",
    "truncated", "measured",
  ];
  const rows = results.map(([run, i, result]) => [
    many && html("span", {class: "named"},
      html("span", {class: "swatch " + colour(i)}), html("span", {class: "any"}, run.label)),
    result.domain,
    formatNumber(result.reward_scale),
    scoreCell(result.before),
    scoreCell(result.teacher),
    scoreCell(result.after),
    differenceCell(result),
    versus && (result.versus
      ? [formatPoints(result.versus[0]), detail(formatPointsInterval(result.versus))] : "-"),
    lengthCell(result),
    formatPercent(result.after.truncated) + "%",
    measuredCell(result),
  ].filter(cell => cell !== false));
  return table(heads.filter(Boolean), rows);
}

const detail = text => html("small", null, text);

function scoreCell(score) {
  const text = score && formatPercent(score.interval[0]) + "% ";
  return score ? [text, detail(formatInterval(score.interval))] : "-";
}

function differenceCell({difference, verdict}) {
  if (!difference) return "-";
  const words = verdict && html("span", {class: "verdict " + verdict}, VERDICTS[verdict]);
  return [formatPoints(difference[0]), detail(formatPointsInterval(difference)), detail(words)];
}

function lengthCell({after, teacher}) {
  const text = formatNumber(after.length) + " tokens";
  return [text, teacher && detail("teacher " + formatNumber(teacher.length))];
}

function measuredCell({step, prompts, samples}) {
  const count = prompts ? formatCount(prompts) : "?";
  return [`step ${step}`, detail(`${count} prompts \u00d7 ${samples ?? "?"}`)];
}

// ---- Setup: what was run.

function setupSection() {
  return html("div", {class: "stack"},
    many && differenceCard(),
    runs.map(setupCard),
    data.notes.map(note => html("p", {class: "soft small"}, note)));
}

const codeCells = rows => rows.map(row => row.map(text => html("span", {class: "mono"}, text)));

function differenceCard() {
  const heads = ["field", ...runs.map(run => run.label)];
  return html("div", {class: "card"},
    html("b", null, "Where the configs differ"),
    data.differences.length
      ? table(heads, codeCells(data.differences))
      : html("p", {class: "soft"}, "Nowhere."));
}

function setupCard(run, i) {
  const facts = run.facts.map(([name, value]) => [html("dt", null, name), html("dd", null, value)]);
  return html("details", {class: "card", open: many ? null : ""},
    html("summary", null, many && inlineSwatch(i), many ? run.label : "This run"),
    html("div", {class: "stack", style: "margin-top:12px"},
      html("dl", null, facts),
      run.commands.map(command => html("pre", null, command)),
      run.changed.length
        ? table(["config field", "value", "default"], codeCells(run.changed)) : null));
}
