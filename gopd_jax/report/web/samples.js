// Samples: responses with every token coloured by its advantage; to be searched and compared.

const SIDE_BY_SIDE = "side by side", MOST_CARDS = 24;

const sampled = runs.filter(run => run.samples.length);
const pairs = samePrompt(sampled.map(run => run.samples));

// What is shown: `run` is the label of a run, or SIDE_BY_SIDE for one prompt in several runs.
const chosen = {
  run: pairs.length ? SIDE_BY_SIDE : sampled[0]?.label,
  text: "", outcome: "", domain: "", step: "", ...kept.samples,
};

function sampleSection() {
  if (!sampled.length) {
    const text = "No samples were written (log.samples, log.samples_every).";
    return html("div", {class: "card soft"}, text);
  }
  const known = [...sampled.map(run => run.label), pairs.length && SIDE_BY_SIDE];
  if (!known.includes(chosen.run)) chosen.run = sampled[0].label;
  const choice = html("div", {class: "chips"}), count = html("span", {class: "soft small"});
  const cards = html("div", {class: "stack"});

  function update() {
    choice.replaceChildren(...(many ? known.filter(Boolean).map(runChip) : []));
    const isPaired = chosen.run === SIDE_BY_SIDE;
    const [shown, of, what] = isPaired ? wantedPairs() : wantedSamples();
    const first = shown.slice(0, MOST_CARDS);
    const more = shown.length > first.length ? `; the first ${first.length} are shown` : "";
    count.replaceChildren(`${shown.length} of ${of} ${what}${more}`);
    const areShort = !isPaired && first.every(sample => sample.tokens.length < 60);
    cards.className = areShort ? "stack pairs" : "stack";
    cards.replaceChildren(...first.map(isPaired ? pairCard : sampleCard));
  }

  function runChip(label) {
    const i = runs.findIndex(run => run.label === label);
    const content = [i >= 0 && html("span", {class: "swatch " + colour(i)}), label];
    return chip(content, label === chosen.run, () => {
      chosen.run = label;
      update();
    });
  }

  const bar = html("div", {class: "chips"}, searchFields(update), count);
  update();
  return html("div", {class: "stack"}, colourScale(), many && choice, bar, cards);
}

function wantedSamples() {
  const {samples} = sampled.find(run => run.label === chosen.run);
  const shown = samples.filter(sample => isWanted(sample, chosen));
  return [shown.sort((a, b) => b.step - a.step), samples.length, "samples"];
}

// The prompts of which any run has a sample that is wanted.
function wantedPairs() {
  const isShown = pair => pair.sides.flat().some(sample => isWanted(sample, chosen));
  return [pairs.filter(isShown), pairs.length, "prompts that several runs answered"];
}

// The search text, and one menu each for outcome, domain and step.
function searchFields(update) {
  const set = name => event => {
    chosen[name] = event.target.value;
    update();
  };
  const all = sampled.flatMap(run => run.samples);
  const steps = [...new Set(all.map(sample => sample.step))].sort((a, b) => a - b);
  const outcomes = [...OUTCOMES.filter(o => all.some(s => outcomeOf(s) === o)), "truncated"];
  const names = [...new Set(all.map(sample => sample.domain))];
  return [
    html("input", {
      type: "search", placeholder: "search prompt, response, verdict", value: chosen.text,
      "aria-label": "search the samples", input: set("text")}),
    menu("right or wrong", outcomes, set("outcome"), chosen.outcome),
    names.length > 1 && menu("all domains", names, set("domain"), chosen.domain),
    menu("all steps", steps, set("step"), chosen.step, step => "step " + step),
  ];
}

// A menu whose first entry, `all`, chooses "".
function menu(all, values, change, current, label = String) {
  const entry = (value, text) =>
    html("option", {value, selected: String(value) === String(current) ? "" : null}, text);
  return html("select", {class: "chip", "aria-label": all, change},
    entry("", all), values.map(value => entry(value, label(value))));
}

// One prompt, and below it what each run answered, beside each other.
function pairCard({sample, sides}) {
  const column = (samples, i) => html("div", null,
    html("p", {class: "small"}, inlineSwatch(runs.indexOf(sampled[i])), sampled[i].label),
    samples.length ? samples.map(answer) : html("p", {class: "soft"}, "no sample on this page"));
  return html("article", {class: "card"},
    html("span", {class: "tag"}, sample.domain),
    html("span", {class: "soft small"}, sample.prompt_id),
    html("p", {class: "label"}, "prompt"),
    html("div", {class: "mono soft", style: "white-space:pre-wrap"}, sample.prompt),
    groundTruth(sample),
    html("div", {class: "columns"}, sides.map(column)));
}

// One answer of a pair. Those that the search is not for are pale.
function answer(sample) {
  return html("div", {class: isWanted(sample, chosen) ? "answer" : "answer pale"},
    outcomeTags(sample),
    html("span", {class: "soft small"}, `step ${sample.step}, sample ${sample.sample_id}`),
    tokenBox(sample), html("p", {class: "soft small"}, sample.verdict));
}

// What the colours mean, and how many of the samples are on the page.
function colourScale() {
  const counts = sampled.map(run => `${run.samples.length} of ${run.samplesWritten}`);
  const shown = [...new Set(counts)].join(", ") + (many ? " of a run" : "");
  const about = "advantage in nats, stronger ones in the strongest colour; point at a token, tap " +
    `it or use the arrow keys for its log-probs. Samples shown: ${shown}.`;
  return html("div", {class: "chips small"},
    html("span", null, `${MINUS}${formatNumber(strongest)} less likely`),
    html("span", {class: "scale", role: "img", "aria-label": "colour scale"}),
    html("span", null, `more likely +${formatNumber(strongest)}`),
    html("span", {class: "soft"}, about));
}

// Nothing where the row had none.
const groundTruth = sample => sample.ground_truth && [
  html("p", {class: "label"}, "ground truth"),
  html("div", {class: "mono", style: "white-space:pre-wrap"}, sample.ground_truth)];

function outcomeTags(sample) {
  const {reward} = sample, tones = ["yes", "unclear", "no", ""];
  const tone = tones[OUTCOMES.indexOf(outcomeOf(sample))];
  const verified = reward === null ? "not verified" : "reward " + formatNumber(reward);
  return [
    html("span", {class: "tag " + tone}, verified),
    sample.finish_reason === "length" && html("span", {class: "tag no"}, "truncated"),
  ];
}

function sampleCard(sample) {
  const label = text => html("p", {class: "label"}, text);
  const spaced = {style: "white-space:pre-wrap"};
  return html("article", {class: "card"},
    html("div", null,
      outcomeTags(sample),
      html("span", {class: "tag"}, sample.domain),
      html("span", {class: "soft small"},
        `step ${sample.step}, ${sample.prompt_id}, sample ${sample.sample_id}`)),
    html("div", {class: "sides"},
      html("div", null,
        label("prompt"), html("div", {class: "mono soft", ...spaced}, sample.prompt),
        label("response"), tokenBox(sample)),
      html("div", null,
        label("verdict"), html("div", null, sample.verdict),
        groundTruth(sample))));
}
