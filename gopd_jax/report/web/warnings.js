// Warnings: what the checks found, what they saw, and what could not be checked.

const LEVELS = {bad: "the result is in doubt", look: "look at it", note: "for your information"};
const STATES = {passed: "yes", found: "unclear", "not checked": "soft"};

function warningSection() {
  const order = Object.keys(LEVELS);
  const findings = runs.flatMap((run, i) => run.findings.map(finding => [run, i, finding]));
  findings.sort(([, , a], [, , b]) => order.indexOf(a.level) - order.indexOf(b.level));
  return html("div", {class: "stack"},
    findings.length > 0 && html("div", {class: "findings"}, findings.map(findingCard)),
    runs.map(checkCard));
}

function findingCard([run, i, finding]) {
  return html("div", {class: "card finding " + finding.level},
    html("b", null, finding.title),
    html("span", {class: "soft small"}, "  " + LEVELS[finding.level]),
    many && html("p", {class: "small"}, inlineSwatch(i), run.label),
    html("p", null, finding.text),
    html("p", {class: "soft"}, "What to do: " + finding.todo));
}

// What the checks of one run come to, and each of them.
function checkCard(run, i) {
  const count = state => run.checks.filter(check => check.state === state).length;
  const missed = run.checks.filter(check => check.state === "not checked");
  const ran = run.checks.length - missed.length, found = count("found");
  const words = found ? `${found} of the ${ran} checks that ran found something.`
    : missed.length ? `Nothing found by the ${ran} checks that ran.`
      : `Nothing found: all ${ran} checks ran and passed.`;
  const tone = found ? "unclear" : missed.length ? "" : "yes";
  const rows = run.checks.map(({rule, state, saw}) => [
    html("span", {class: "verdict " + STATES[state]}, state), rule, saw]);
  return html("div", {class: "card"},
    many && html("p", {class: "small"}, inlineSwatch(i), run.label),
    html("b", {class: "verdict " + tone}, words),
    missed.length > 0 && html("p", null, html("b", null, "Not checked: "), reasonsOf(missed)),
    html("details", {class: "small", style: "margin-top:8px"},
      html("summary", null, "What each check saw"), table(["", "found when", "saw"], rows)));
}

// The reasons, each with what was not checked for it; many checks are only counted.
function reasonsOf(missed) {
  const reasons = new Map();
  for (const {saw, rule} of missed) {
    const reason = saw.split(":")[0];
    reasons.set(reason, [...(reasons.get(reason) || []), rule]);
  }
  const named = rules => rules.length > 2 ? `${rules.length} checks` : rules.join("; ");
  return [...reasons].map(([reason, rules]) => `${reason} (${named(rules)})`).join(", ") + ".";
}

// The most serious level among the findings; undefined where nothing was found.
function worstLevel() {
  const levels = runs.flatMap(run => run.findings).map(finding => finding.level);
  return Object.keys(LEVELS).find(level => levels.includes(level));
}
