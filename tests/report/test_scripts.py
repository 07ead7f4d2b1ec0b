"""The arithmetic of the page's scripts, run by Node: axes, smoothing, search.

The files under test touch no page. Without Node these tests are skipped.
"""

import dataclasses
import json
from pathlib import Path
import shutil
import subprocess

import pytest
from report_cases import sample

from gopd_jax.report import charts, page

WEB = Path(page.__file__).parent / "web"

pytestmark = pytest.mark.skipif(not shutil.which("node"), reason="Node is not installed")


def run(expression, **values):
    """The value of a JavaScript expression, with `values` as its variables."""
    code = "".join((WEB / name).read_text() for name in ("format.js", "scale.js", "find.js"))
    code += "".join(f"const {name} = {json.dumps(value)};\n" for name, value in values.items())
    code += f"process.stdout.write(JSON.stringify({expression}));"
    done = subprocess.run(["node", "-"], input=code, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def axis(values, kind, robust=False):
    scale = dataclasses.asdict(charts.SCALES[kind])
    return run("axisRange(values, scale, robust)", values=values, scale=scale, robust=robust)


def test_noise_does_not_fill_an_axis():
    low, high = axis([5.0, 5.000001], "nats")
    assert low < 4.8 and high > 5.2
    low, high = axis([0.3, 0.3001], "share")
    assert high - low >= 5
    assert axis([1e-6, 2e-6], "gap")[1] >= 0.002  # float32


def test_what_moves_fills_its_axis():
    low, high = axis([0.2, 0.1, 0.003], "kl")
    assert low == 0 and 0.2 < high < 0.22
    low, high = axis([40.0, 60.0], "share")
    assert 37 < low < 40 and 60 < high < 63


@pytest.mark.parametrize(
    "values, ends",
    [
        ([0.0, 0.0], (0, 5)),
        ([100.0, 100.0], (90, 100)),
        ([0, 100], (0, 100)),
        ([97, 100], (90, 100)),
    ],
)
def test_a_share_stays_between_0_and_100_percent(values, ends):
    low, high = axis(values, "share")
    assert ends[0] - 2 < low <= min(values) and max(values) <= high < ends[1] + 2
    assert low >= 0 and high <= 100


def test_zero_is_shown_where_it_is_natural():
    assert axis([3.0, 4.0], "positive")[0] == 0
    assert axis([-0.2, -0.1], "signed")[1] == 0
    assert axis([16.0, 17.0], "tokens")[0] > 10
    assert axis([1.0, 10.0], "tokens")[0] == 0


def test_distant_points_may_fall_outside_of_a_robust_axis():
    values = [100.0] + [1.0, 1.1] * 20
    assert axis(values, "positive")[1] > 100 and axis(values, "positive", robust=True)[1] < 2


def test_smoothing_keeps_lines_and_gaps_and_takes_out_noise():
    x = list(range(100))
    line = [2.0 * v for v in x]
    line[50] = None
    smooth = run("smoothed(x, y, 3)", x=x, y=line)
    assert smooth[50] is None
    assert smooth[20:38] == pytest.approx(line[20:38])  # no lag
    noise = [(-1.0) ** v for v in x]
    assert max(map(abs, run("smoothed(x, y, 3)", x=x, y=noise)[12:88])) < 0.01
    assert run("smoothed(x, y, 0)", x=x, y=noise) == noise


NOTHING = {"text": "", "outcome": "", "domain": "", "step": ""}


@pytest.mark.parametrize(
    "wanted, found",
    [
        ({}, [0, 1, 2, 3]),
        ({"text": "TWO 1+1"}, [0, 1, 2, 3]),
        ({"text": "1+1 eight"}, []),
        ({"text": "p/7"}, [2]),
        ({"outcome": "right"}, [0]),
        ({"outcome": "wrong"}, [1]),
        ({"outcome": "partly right"}, [2]),
        ({"outcome": "not verified"}, [3]),
        ({"outcome": "truncated"}, [1]),
        ({"domain": "code"}, [3]),
        ({"step": "10"}, [1, 2]),
        ({"step": "10", "outcome": "wrong"}, [1]),
    ],
)
def test_search(wanted, found):
    samples = [
        sample(1),
        sample(10, reward=0.0, finish_reason="length"),
        sample(10, reward=0.5, prompt_id="p/7"),
        sample(20, reward=None, domain="code"),
    ]
    code = "samples.map((s, i) => isWanted(s, wanted) ? i : -1).filter(i => i >= 0)"
    assert run(code, samples=samples, wanted=NOTHING | wanted) == found


def test_prompts_that_several_runs_answered_stand_side_by_side():
    first = [sample(1, prompt_id="a"), sample(1, prompt_id="b"), sample(2, prompt_id="b")]
    second = [sample(9, prompt_id="c"), sample(9, prompt_id="b"), sample(9, prompt_id="a")]
    third = [sample(5, prompt_id="d"), sample(5, prompt_id="b", domain="code")]
    third.append(sample(5, prompt_id="b"))
    code = "samePrompt(lists).map(p => [p.sample.prompt_id, p.sides.map(s => s.map(x => x.step))])"
    pairs = run(code, lists=[first, second, third])
    assert pairs == [["b", [[1, 2], [9], [5]]], ["a", [[1], [9], []]]]  # of three runs first
    assert run(code, lists=[first]) == []


@pytest.mark.parametrize("name", page.SCRIPTS)
def test_scripts_are_well_formed(name):
    subprocess.run(["node", "--check", WEB / name], check=True)


def test_the_bar_of_the_phases_is_filled():
    assert run("percentages(values)", values=[0.1, 0.0, 0.3]) == pytest.approx([25, 0, 75])
    assert run("percentages(values)", values=[0.0]) == [0]


def test_a_change_has_its_sign():
    assert run("[0.02, -0.0374, 0].map(formatChange)") == ["+0.02", "\u22120.0374", "+0"]


def test_the_strongest_colour_is_a_round_number_whatever_the_advantages():
    values = [0.42, 0.1, 0.11, 1.9, 6.0, 9.0, 1e-6]
    found = run("values.map(nearestRound)", values=values)
    assert found == pytest.approx([0.5, 0.1, 0.1, 2, 5, 10, 1e-6])
