// Puts the sections on the page, in the order in which they are read.

const SECTIONS = {
  result: "Result", warnings: "Warnings", curves: "Curves", position: "Position",
  samples: "Samples", setup: "Setup",
};

function pageHeader() {
  const stateOf = run => run.label + (run.finished ? "" : ` (unfinished at step ${run.lastStep})`);
  const [first] = runs;
  const method = (first.facts.find(([name]) => name === "method") || ["", ""])[1];
  const state = first.finished ? "finished" : "unfinished";
  const alone = `${state} at step ${first.lastStep}. ${method}`;
  return html("header", null,
    html("p", {class: "soft small"}, `gopd_jax report, ${data.made}`),
    html("h1", null, many ? `${runs.length} runs compared` : first.label),
    html("p", {class: "soft lead"}, many ? runs.map(stateOf).join(` ${DOT} `) : alone));
}

// Links to the sections, with the number of warnings, and the choice of runs and domains.
function navigation() {
  const worst = worstLevel();
  const count = runs.flatMap(run => run.findings).length;
  const links = Object.entries(SECTIONS).map(([id, name]) => html("a", {href: "#" + id}, name,
    id === "warnings" && worst && html("span", {class: "verdict " + worst}, ` ${count}`)));
  return html("nav", null,
    html("div", {class: "links"}, links), (many || sliced) && selectionControls(), liveControl());
}

function section(id, title, content, about) {
  const intro = about && html("p", {class: "soft small", style: "margin-bottom:10px"}, about);
  return html("section", {id}, html("h2", null, title), intro, content);
}

const periods = many || sliced ? "the last third of the steps" : "thirds of the run";
document.title = runs.map(run => run.label).join(", ") + " \u2013 gopd_jax report";
document.getElementById("page").replaceChildren(
  pageHeader(),
  navigation(),
  section("result", "Result", resultSection()),
  section("warnings", "Warnings", warningSection()),
  section("curves", "Curves by step", curveSection(), data.notes.join(" ") || null),
  section("position", "By position in the response", positionSection(),
    `Averages over ${periods}, by the position of the token in its response.`),
  section("samples", "Samples", sampleSection()),
  section("setup", "Setup", setupSection()));
startLive();
