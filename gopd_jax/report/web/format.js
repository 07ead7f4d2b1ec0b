// Numbers as the page shows them. In: values of the report's JSON. Out: text.

const MINUS = "\u2212", DOT = "\u00b7";

// A number in a few characters: 0.123, 1,234, 56.7k, 1.2e-6; "-" where there is none.
function formatNumber(value, unit, digits = 3) {
  if (value === null || value === undefined) return "-";
  return plainNumber(value, digits).replace("-", MINUS) + (unit === "%" ? "%" : "");
}

function plainNumber(value, digits) {
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1e9 || size < 1e-4) {
    return value.toExponential(1).replace("e+", "e").replace(".0e", "e");
  }
  if (size >= 1e6) return Number((value / 1e6).toPrecision(3)) + "M";
  if (size >= 1e5) return Number((value / 1e3).toPrecision(3)) + "k";
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(digits)));
}

const formatCount = count => count.toLocaleString("en");

const formatPercent = (share, digits = 1) =>
  share === null ? "-" : (100 * share).toFixed(digits).replace("-", MINUS);

// The interval of a score [mean, low, high], in percent.
const formatInterval = ([, low, high]) => `[${formatPercent(low)}, ${formatPercent(high)}]`;

// A difference of scores, in points, and the interval of one [mean, low, high].
const formatPoints = share => (share >= 0 ? "+" : "") + formatPercent(share, 2);
const formatPointsInterval = ([, low, high]) => `[${formatPoints(low)}, ${formatPoints(high)}]`;

const formatChange = value => (value >= 0 ? "+" : "") + formatNumber(value);

const formatSteps = ([first, last]) =>
  first === last ? "step " + first : `steps ${first}\u2013${last}`;

// Labels of an axis, with as many digits as it takes to tell them apart.
function tickLabels(values, unit) {
  let labels, digits = 3;
  do {
    labels = values.map(v => formatNumber(v, unit, digits));
  } while (new Set(labels).size < values.length && digits++ < 12);
  return labels;
}

// Round values from `low` to `high`, about `count` of them.
function ticks(low, high, count, whole) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  let step = [1, 2, 5, 10].map(m => m * power).find(m => m >= raw * .999);
  if (whole) step = Math.max(1, step);
  const values = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) {
    values.push(i * step);
  }
  return values;
}

// 1, 2 or 5 times a power of ten, whichever is nearest by its ratio to a number above 0.
function nearestRound(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  const ratio = m => Math.abs(Math.log(m * power / value));
  return [1, 2, 5, 10].reduce((best, m) => ratio(m) < ratio(best) ? m : best) * power;
}

function quantile(values, q) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.round(q * (sorted.length - 1))];
}
