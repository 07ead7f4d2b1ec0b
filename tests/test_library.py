"""As a library: the example and its notebook run, and docs/library.md names what exists."""

import importlib
import json
from pathlib import Path
import re
import runpy

import jax.numpy as jnp
import numpy as np
import pytest

from examples import make_notebook
from gopd_jax import tiny
from gopd_jax.models.decoder import Decoder, output_head
from gopd_jax.models.load import load_model
from gopd_jax.models.logprobs import token_logprobs
from gopd_jax.objective.loss import weighted_loss

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "library.md").read_text()
NAMES = re.findall(r"^\| `(gopd_jax\.[\w.]+)` \|", PAGE, re.MULTILINE)
NOTEBOOK = json.loads(make_notebook.NOTEBOOK.read_text())


@pytest.fixture(scope="module")
def example():
    """The variables that the script leaves."""
    return runpy.run_path(str(make_notebook.SCRIPT), run_name="__main__")


def test_the_example_brings_the_student_to_the_teacher(example):
    kl = example["kl"]
    assert kl[0] > 1 and kl[-1] < 0.2 * kl[0]


def test_the_notebook_runs_and_gives_the_numbers_of_the_script(example, tmp_path):
    cells = [{**cell} for cell in NOTEBOOK["cells"]]
    variables = make_notebook.run_cells(cells)
    assert variables["kl"] == example["kl"]
    (picture,) = (o for c in cells for o in c.get("outputs", ()) if "data" in o)
    assert picture["data"]["image/png"]


def test_the_notebook_is_made_from_the_script():
    """After a change of the script: python -m examples.make_notebook."""
    empty = {"execution_count": None, "outputs": []}
    cells = [c | (empty if c["cell_type"] == "code" else {}) for c in NOTEBOOK["cells"]]
    script = make_notebook.SCRIPT.read_text()
    assert cells == make_notebook.cells_of(script)
    code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    assert all(cell in script for cell in code[:-1])
    lines = sum(len([x for x in cell.split("\n") if x.strip()]) for cell in code[1:-1])
    assert lines <= 45  # without imports


def test_the_notebook_holds_its_outputs(example):
    (printed, picture) = (c["outputs"][0] for c in NOTEBOOK["cells"] if c.get("outputs"))
    shown = [float(x) for x in re.findall(r"([\d.]+) nats", "".join(printed["text"]))]
    np.testing.assert_allclose(shown[0], example["kl"][0], atol=0.01)
    assert len(shown) == 7 and shown[-1] < 0.2 * shown[0]
    assert len(picture["data"]["image/png"]) < 100_000


@pytest.mark.parametrize("name", NAMES)
def test_the_page_names_what_exists(name):
    module, _, attribute = name.rpartition(".")
    found = getattr(importlib.import_module(module), attribute)
    assert found.__module__ == module and found.__doc__.strip().endswith((".", ")", "|"))


def test_the_page_has_the_names_of_the_example():
    text = make_notebook.SCRIPT.read_text()
    imported = re.findall(r"^from (gopd_jax\S+) import (.*)$", text, re.MULTILINE)
    used = {f"{module}.{name}" for module, names in imported for name in names.split(", ")}
    assert len(used) > 10 and used <= set(NAMES)


@pytest.mark.slow
def test_the_code_on_the_page_runs_after_that_of_the_example(example):
    more = {
        "jnp": jnp,
        "tiny": tiny,
        "load_model": load_model,
        "Decoder": Decoder,
        "output_head": output_head,
        "token_logprobs": token_logprobs,
        "weighted_loss": weighted_loss,
    }
    variables = {**example, **more}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(block, variables)
        assert bool(variables["metrics"].applied)
    # The last update was that of the loss on the page.
    batch, tokens = variables["batch"], variables["tokens"]
    gap = np.where(batch.weights > 0, tokens.logprobs - batch.teacher_logprobs, 0)
    half_squared = np.sum(np.asarray(batch.weights, np.float64) * gap**2) / 2
    np.testing.assert_allclose(variables["metrics"].loss, half_squared, rtol=1e-5)
    assert np.isfinite(variables["numbers"]["reverse_kl_teacher"])
    assert variables["entropies"].shape == (1, 12) and bool((variables["entropies"] > 0).all())
