// The tokens of a response, each coloured by its advantage.

const advantages = runs.flatMap(run => run.samples)
  .flatMap(sample => sample.advantage || []).filter(a => a !== null).map(Math.abs);

// The advantage of the strongest colour: a round number near the 95th percentile.
const strongest = advantages.length
  ? nearestRound(Math.max(quantile(advantages, .95), 1e-6)) : 1;

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
