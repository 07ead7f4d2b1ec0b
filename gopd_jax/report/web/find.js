// Which samples are shown: search, choices, and the same prompt in several runs. In: samples of the
// report's JSON. Out: lists of them; draws nothing.

const OUTCOMES = ["right", "partly right", "wrong", "not verified"];

function outcomeOf({reward}) {
  if (reward === null) return "not verified";
  return reward >= 1 ? "right" : reward > 0 ? "partly right" : "wrong";
}

// Whether a sample has every word of the search, whatever the case, and is what was chosen.
// `wanted` is {text, outcome, domain, step}; "" takes all.
function isWanted(sample, wanted) {
  const {text, outcome, domain, step} = wanted;
  if (outcome === "truncated" ? sample.finish_reason !== "length"
    : outcome && outcomeOf(sample) !== outcome) return false;
  if (domain && sample.domain !== domain) return false;
  if (step !== "" && sample.step !== Number(step)) return false;
  const parts = [sample.prompt_id, sample.prompt, sample.tokens.join(""), sample.ground_truth,
    sample.verdict];
  const all = parts.join("\n").toLowerCase();
  return text.toLowerCase().split(/\s+/).every(word => all.includes(word));
}

// Groups of samples of one prompt, of at least two of the lists: {prompt, sides}, where `sides`
// holds the samples of each list. The prompts that most lists have come first.
function samePrompt(lists) {
  const groups = new Map();
  lists.forEach((samples, i) => samples.forEach(sample => {
    const key = JSON.stringify([sample.domain, sample.prompt_id]);
    if (!groups.has(key)) groups.set(key, {sample, sides: lists.map(() => [])});
    groups.get(key).sides[i].push(sample);
  }));
  const filled = group => group.sides.filter(side => side.length).length;
  return [...groups.values()].filter(group => filled(group) > 1)
    .sort((a, b) => filled(b) - filled(a));
}
