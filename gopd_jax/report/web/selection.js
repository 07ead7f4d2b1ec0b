// The runs of this page, and which of them and of their domains are shown.
//
// A slice is a domain, or "" for all of them together. Runs have a colour each; where there is one
// run, its domains have.

const data = JSON.parse(document.getElementById("data").textContent);
const runs = data.runs, many = runs.length > 1;
const domains = [...new Set(runs.flatMap(run => run.domains))];
const sliced = runs.some(run => run.slices.length > 1);

const EACH_DOMAIN = "each domain";
const DEFAULT_SMOOTHING = 2;  // the place in SMOOTHING (curves.js)
const kept = history.state || {};  // of an earlier load of this page (live.js)
const view = {
  hidden: new Set((kept.view?.hidden || []).map(label => runs.findIndex(r => r.label === label))),
  slice: kept.view?.slice ?? (sliced && !many ? EACH_DOMAIN : ""),
  smoothing: kept.view?.smoothing ?? DEFAULT_SMOOTHING,
};

const viewToKeep = () => ({...view, hidden: [...view.hidden].map(i => runs[i]?.label)});

const shownSlices = () => view.slice === EACH_DOMAIN ? domains : [view.slice];

// Pairs [run, its index]: the index chooses the colour.
const shownRuns = () => runs.map((run, i) => [run, i]).filter(([, i]) => !view.hidden.has(i));

// What the run appends to a metric's name for a slice; null where it has no such domain.
function metricSuffix(run, slice) {
  if (!slice) return "";
  if (!run.domains.includes(slice)) return null;
  return run.slices.length > 1 ? "/" + slice : "";
}

function toneOf(runIndex, slice) {
  const domain = domains.indexOf(slice);
  if (many) {
    const dashed = view.slice === EACH_DOMAIN;
    return {tone: colour(runIndex), dash: dashed ? dash(Math.max(0, domain)) : ""};
  }
  return {tone: slice ? colour(domain) : sliced ? "ink" : "c0", dash: ""};
}

const labelOf = (run, slice) => [many && run.label, slice].filter(Boolean).join(", ") || "this run";

// Chips that show and hide runs and choose the slice; they double as the legend of several runs.
function selectionControls() {
  const bar = html("div", {class: "chips"});

  function runChip(run, i) {
    const toggle = () => {
      if (!view.hidden.delete(i)) view.hidden.add(i);
      update();
    };
    const content = [html("span", {class: "swatch " + colour(i)}), run.label];
    const more = {class: "chip run", title: "show or hide this run"};
    return chip(content, !view.hidden.has(i), toggle, more);
  }

  function sliceChip(slice) {
    const domain = domains.indexOf(slice);
    const swatch = view.slice === EACH_DOMAIN && domain >= 0 &&
      lineSwatch(many ? "ink" : colour(domain), many ? dash(domain) : "");
    const choose = () => {
      view.slice = slice;
      update();
    };
    return chip([swatch, slice || "all domains"], view.slice === slice, choose);
  }

  function fillBar() {
    bar.replaceChildren(
      ...(many ? runs.map(runChip) : []),
      ...(sliced ? ["", ...domains, EACH_DOMAIN].map(sliceChip) : []));
  }

  function update() {
    fillBar();
    redrawCharts();
  }

  fillBar();
  return bar;
}
