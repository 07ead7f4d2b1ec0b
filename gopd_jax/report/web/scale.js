// The range of an axis, and smoothed curves. In: numbers. Out: numbers; draws nothing.

// Lowest and highest value of an axis, null without any value. `scale` is that of a kind of metric
// (charts.py): the axis is never so narrow that noise fills it. A robust range follows most of the
// points when a few are far away: those are drawn as arrows at the edge.
function axisRange(values, scale, robust) {
  if (!values.length) return null;
  let low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
  if (robust) {
    const least = quantile(values, .05), most = quantile(values, .9);
    const room = Math.max(most - least, Math.abs(most) * .2);
    if (high > most + 2 * room) high = most + room;
    if (low < least - 2 * room) low = least - room;
  }
  if (scale.zero) [low, high] = [Math.min(low, 0), Math.max(high, 0)];
  else if (low >= 0 && low < .5 * high) low = 0;
  const least = Math.max(scale.span, .1 * Math.max(Math.abs(low), Math.abs(high))) || 1;
  const missing = least - (high - low);
  if (missing > 0) {
    if (low === 0) high += missing;
    else if (high === 0) low -= missing;
    else [low, high] = [low - missing / 2, high + missing / 2];
  }
  const margin = .06 * (high - low);
  return withinBounds(low && low - margin, high && high + margin, scale);
}

// The range moved, and only then cut, to what the metric can be.
function withinBounds(low, high, {lowest, highest}) {
  const least = lowest ?? -Infinity, most = highest ?? Infinity;
  if (low < least) [low, high] = [least, high + (least - low)];
  if (high > most) [low, high] = [Math.max(least, low - (high - most)), most];
  return [low, high];
}

// Each value as the mean of those around it, weighted by a Gaussian of their distance in x. Unlike
// a running average it does not lag behind. A missing value stays missing.
function smoothed(x, y, sigma) {
  if (!sigma) return y;
  return y.map((value, i) => {
    if (value === null) return null;
    let sum = 0, weights = 0;
    for (let j = 0; j < y.length; j++) {
      const distance = (x[j] - x[i]) / sigma;
      if (y[j] === null || Math.abs(distance) > 4) continue;
      const weight = Math.exp(-distance * distance / 2);
      sum += weight * y[j];
      weights += weight;
    }
    return sum / weights;
  });
}

// What percentage of their sum each value is: flex factors that sum to less than 1 leave space.
function percentages(values) {
  const sum = values.reduce((a, b) => a + b, 0);
  return values.map(value => sum ? 100 * value / sum : 0);
}
