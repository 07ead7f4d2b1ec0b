// Results, warnings and setup: what there is to read besides the charts.

// ---- Results: the student against its teacher.

const VERDICTS = {
  yes: "above its teacher",
  no: "below its teacher",
  unclear: "not distinguishable from its teacher",
};
const STUDENT_MINUS_TEACHER = `student ${MINUS} teacher, points`;

function resultSection() {
  const results = runs.flatMap((run, i) => run.results.map(result => [run, i, result]));
  if (!results.length) {
    return html("div", {class: "card soft"}, "No held-out score has been written yet.");
  }
  const tiles = many ? [] : results.flatMap(([, , result]) => resultTiles(result));
  return html("div", {class: "stack"},
    tiles.length ? html("div", {class: "tiles"}, tiles) : null,
    html("div", {class: "card"}, resultTable(results)),
    html("p", {class: "soft small"},
      "Held-out prompts; 95% intervals by prompt. Differences are paired, over the prompts that " +
      "both answered. The intervals do not cover the spread over training seeds."));
}

function resultTiles(result) {
  const where = domains.length > 1 ? result.domain + ": " : "";
  const tile = (name, value, below, tone) => html("div", {class: "card tile " + (tone || "")},
    html("span", {class: "soft small"}, where + name),
    html("b", null, value),
    html("span", {class: "soft small"}, below));
  const scoreTile = (name, score) =>
    tile(name, formatPercent(score.mean) + "%", formatInterval(score));
  const {verdict, difference, teacher} = result;
  return [
    difference && tile(
      STUDENT_MINUS_TEACHER, formatDifference(difference), VERDICTS[verdict], "big " + verdict),
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
    versus && (result.versus ? formatDifference(result.versus) : "-"),
    lengthCell(result),
    formatPercent(result.after.truncated) + "%",
    measuredCell(result),
  ].filter(cell => cell !== false));
  return table(heads.filter(Boolean), rows);
}

const detail = text => html("small", null, text);

function scoreCell(score) {
  return score ? [formatPercent(score.mean) + "% ", detail(formatInterval(score))] : "-";
}

function differenceCell({difference, verdict}) {
  if (!difference) return "-";
  const words = verdict && html("span", {class: "verdict " + verdict}, VERDICTS[verdict]);
  return [formatDifference(difference), detail(words)];
}

function lengthCell({after, teacher}) {
  const text = formatNumber(after.length) + " tokens";
  return [text, teacher && detail("teacher " + formatNumber(teacher.length))];
}

function measuredCell({step, prompts, samples}) {
  return [`step ${step}`, detail(`${formatCount(prompts)} prompts \u00d7 ${samples ?? "?"}`)];
}

// ---- Warnings.

const LEVELS = {bad: "the result is in doubt", look: "look at it", note: "for your information"};

function warningSection() {
  const order = Object.keys(LEVELS);
  const findings = runs.flatMap((run, i) => run.findings.map(finding => [run, i, finding]));
  findings.sort(([, , a], [, , b]) => order.indexOf(a.level) - order.indexOf(b.level));
  return html("div", {class: "stack"},
    findings.length
      ? html("div", {class: "findings"}, findings.map(findingCard))
      : html("div", {class: "card"},
        html("b", {class: "verdict yes"}, "Nothing found. "), "All checks passed."),
    html("details", {class: "small"}, html("summary", null, "What is checked"),
      html("ul", null, data.checks.map(check => html("li", null, check)))));
}

function findingCard([run, i, finding]) {
  return html("div", {class: "card finding " + finding.level},
    html("b", null, finding.title),
    html("span", {class: "soft small"}, "  " + LEVELS[finding.level]),
    many && html("p", {class: "small"}, inlineSwatch(i), run.label),
    html("p", null, finding.text),
    html("p", {class: "soft"}, "What to do: " + finding.todo));
}

// The most serious level among the findings; undefined where nothing was found.
function worstLevel() {
  const levels = runs.flatMap(run => run.findings).map(finding => finding.level);
  return Object.keys(LEVELS).find(level => levels.includes(level));
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
