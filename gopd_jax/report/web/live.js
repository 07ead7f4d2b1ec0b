// A page of runs that go on: it reloads itself, and keeps what was chosen and the place on it.
//
// `kept` is what an earlier load of this page left in the history entry: file pages have no other
// memory that every browser allows. selection.js and samples.js read their part of it.

function keepView() {
  const state = {view: viewToKeep(), samples: chosen, scroll: scrollY, live: live.on};
  history.replaceState(state, "");
}

const live = {on: kept.live ?? true};

// Whoever reads a value or types is not interrupted.
const isBusy = () => document.activeElement?.matches("input, select, svg, [data-i]") ||
  tooltip.style.display === "block";

function reloadLater() {
  setTimeout(() => {
    if (!live.on || isBusy()) return reloadLater();
    keepView();
    location.reload();
  }, 1000 * data.reload);
}

function liveControl() {
  if (!data.reload) return null;
  const bar = html("span");
  const show = () => bar.replaceChildren(chip(
    live.on ? `live, every ${formatNumber(data.reload)} s` : "live: paused", live.on, () => {
      live.on = !live.on;
      show();
    }));
  show();
  return bar;
}

// The browser would restore the place before the page has its height.
function startLive() {
  addEventListener("pagehide", keepView);
  history.scrollRestoration = "manual";
  if (kept.scroll) scrollTo(0, kept.scroll);
  if (data.reload) reloadLater();
}
