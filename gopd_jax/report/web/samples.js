// Samples: responses with every token coloured by its advantage.

const advantages = runs.flatMap(run => run.samples)
  .flatMap(sample => sample.advantage || []).filter(a => a !== null).map(Math.abs);

// The advantage of the strongest colour: a round number near the 95th percentile.
const strongest = advantages.length
  ? ticks(0, Math.max(quantile(advantages, .95), 1e-6), 2)[1] : 1;

function sampleSection() {
  const sampled = runs.filter(run => run.samples.length);
  if (!sampled.length) {
    const text = "No samples were written (log.samples, log.samples_every).";
    return html("div", {class: "card soft"}, text);
  }
  const chosen = {run: sampled[0], step: null};
  const bar = html("div", {class: "stack"}), cards = html("div", {class: "stack"});

  function runChip(run) {
    const content = [html("span", {class: "swatch " + colour(runs.indexOf(run))}), run.label];
    return chip(content, run === chosen.run, () => choose({run}));
  }

  const stepChip = step => chip("step " + step, step === chosen.step, () => choose({step}));

  function choose(change) {
    Object.assign(chosen, change);
    const {samples} = chosen.run, steps = [...new Set(samples.map(sample => sample.step))];
    if (!steps.includes(chosen.step)) chosen.step = steps[steps.length - 1];
    const shown = samples.filter(sample => sample.step === chosen.step);
    bar.replaceChildren(
      ...(many ? [html("div", {class: "chips"}, sampled.map(runChip))] : []),
      html("div", {class: "chips"}, steps.map(stepChip)));
    cards.className = shown.every(sample => sample.tokens.length < 60) ? "stack pairs" : "stack";
    cards.replaceChildren(...shown.map(sampleCard));
  }

  choose({});
  return html("div", {class: "stack"}, colourScale(sampled), bar, cards);
}

// What the colours mean, and how many of the samples are on the page.
function colourScale(sampled) {
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

function sampleCard(sample) {
  const {reward} = sample, right = reward === null ? "" : reward > 0 ? "yes" : "no";
  const verified = reward === null ? "not verified" : "reward " + formatNumber(reward);
  const label = text => html("p", {class: "label"}, text);
  const spaced = {style: "white-space:pre-wrap"};
  return html("article", {class: "card"},
    html("div", null,
      html("span", {class: "tag " + right}, verified),
      html("span", {class: "tag"}, sample.domain),
      sample.finish_reason === "length" && html("span", {class: "tag no"}, "truncated"),
      html("span", {class: "soft small"}, `${sample.prompt_id}, sample ${sample.sample_id}`)),
    html("div", {class: "sides"},
      html("div", null,
        label("prompt"), html("div", {class: "mono soft", ...spaced}, sample.prompt),
        label("response"), tokenBox(sample)),
      html("div", null,
        label("verdict"), html("div", null, sample.verdict),
        label("ground truth"), html("div", {class: "mono", ...spaced}, sample.ground_truth))));
}

// ---- Tokens.

// The response as spans; pointer, tap and arrow keys show the numbers of a token.
function tokenBox(sample) {
  const spans = sample.tokens.map((text, i) => tokenSpan(sample, text, i));
  const label = "response; arrow keys go from token to token";
  const box = html("div", {class: "tokens", "aria-label": label}, spans);
  if (sample.left_out) {
    const [after, count] = sample.left_out;
    const text = ` \u2026 ${formatCount(count)} tokens left out \u2026 `;
    spans[after]?.before(html("span", {class: "mark"}, text));
  }
  const spanOf = event => event.target.closest("[data-i]");
  const leave = () => hideTooltip();

  function open(event) {
    const span = spanOf(event);
    if (!span) {
      hideTooltip();
      return;
    }
    ownTooltip(leave);
    const box = span.getClientRects()[0];
    showTooltip(box.left - 10, box.bottom - 10, ...tokenNumbers(sample, Number(span.dataset.i)));
  }

  function move(event) {
    const by = {ArrowLeft: -1, ArrowRight: 1, Home: -1e9, End: 1e9}[event.key];
    const span = spanOf(event);
    if (!by || !span) return;
    event.preventDefault();
    const index = Number(span.dataset.i) + by;
    const next = spans[Math.max(0, Math.min(spans.length - 1, index))];
    for (const other of spans) other.setAttribute("tabindex", other === next ? 0 : -1);
    next.focus();
  }

  for (const name of ["pointerover", "click", "focusin"]) box.addEventListener(name, open);
  for (const name of ["pointerleave", "focusout"]) {
    box.addEventListener(name, () => disownTooltip(leave));
  }
  box.addEventListener("keydown", move);
  return box;
}

// One token, coloured on the side of its advantage and as strongly.
function tokenSpan(sample, text, i) {
  const advantage = sample.advantage ? sample.advantage[i] || 0 : 0;
  const strength = Math.min(1, Math.abs(advantage) / strongest) * 88;
  const side = advantage >= 0 ? "more" : "less";
  const attributes = {
    "data-i": i, tabindex: i ? -1 : 0, "aria-describedby": "tip",
    style: `--side:var(--${side});--much:${strength.toFixed(0)}%`,
  };
  return html("span", attributes, tokenText(text));
}

// Marks line ends, tabs, and tokens without text of their own: parts of a character.
function tokenText(text) {
  const mark = sign => html("span", {class: "mark"}, sign);
  if (text === "") return [mark("\u2205")];
  const signs = new Map([["\n", "\u21b5"], ["\t", "\u21e5"]]);
  return text.split(/(\n|\t)/).map(part =>
    signs.has(part) ? [mark(signs.get(part)), part] : part);
}

// The token as JSON text, its log-probs and its advantage.
function tokenNumbers(sample, i) {
  const format = value => value === null ? "-" : value.toFixed(3);
  const row = (name, value) => html("tr", null,
    html("td", {class: "soft"}, "log " + name), html("td", null, format(value)));
  const rows = data.logprobs.filter(name => sample[name]).map(name => row(name, sample[name][i]));
  const advantage = sample.advantage && sample.advantage[i];
  const bold = text => html("td", null, html("b", null, text));
  return [
    html("code", null, JSON.stringify(sample.tokens[i])),
    html("table", null, rows, sample.advantage && html("tr", null,
      bold("advantage"), bold((advantage > 0 ? "+" : "") + format(advantage)))),
  ];
}
