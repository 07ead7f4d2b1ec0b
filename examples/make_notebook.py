"""Command: makes distil_two_models.ipynb from distil_two_models.py, with its outputs.

    python -m examples.make_notebook

Cells of the script begin with `# %%` (code) or `# %% [markdown]` (prose). The notebook has the same
cells, the docstring as its title, and a plot at the end. Needs no Jupyter.
"""

import ast
import base64
import contextlib
import io
import json
from pathlib import Path
import re
from typing import Any

SCRIPT = Path(__file__).with_name("distil_two_models.py")
NOTEBOOK = SCRIPT.with_suffix(".ipynb")
PLOT = """import matplotlib.pyplot as plt

plt.figure(figsize=(5, 3))
plt.xlabel("step")
plt.ylabel("KL to the teacher, nats per token")
curve = plt.plot(kl)"""

Cell = dict[str, Any]


def cells_of(script: str) -> list[Cell]:
    """The cells of a notebook without outputs."""
    title, *about = ast.get_docstring(ast.parse(script)).split("\n")
    parts = re.split(r"^# %%(.*)\n", script, flags=re.MULTILINE)[1:]
    cells = [_cell("markdown", "\n".join([f"# {title.rstrip('.')}", *about]))]
    for kind, text in zip(parts[::2], parts[1::2], strict=True):
        if kind.strip() == "[markdown]":
            cells.append(_cell("markdown", re.sub(r"^# ?", "", text.strip(), flags=re.MULTILINE)))
        else:
            cells.append(_cell("code", text.strip()))
    cells.append(_cell("code", PLOT))
    return [cell | {"id": f"cell-{i}"} for i, cell in enumerate(cells)]


def _cell(kind: str, source: str) -> Cell:
    cell = {"cell_type": kind, "metadata": {}, "source": source.splitlines(keepends=True)}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def run_cells(cells: list[Cell]) -> dict[str, Any]:
    """Runs the code cells in order and puts what they print, and their figure, into them.

    Returns:
        The variables that the cells leave.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    variables: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate((c for c in cells if c["cell_type"] == "code"), start=1):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec("".join(cell["source"]), variables)
        outputs = []
        if text := printed.getvalue():
            lines = text.splitlines(keepends=True)
            outputs.append({"output_type": "stream", "name": "stdout", "text": lines})
        if plt.get_fignums():
            outputs.append({"output_type": "display_data", "metadata": {}, "data": _picture(plt)})
        cell |= {"execution_count": number, "outputs": outputs}
    return variables


def _picture(plt: Any) -> dict[str, str]:
    """The current figure, which is closed."""
    file = io.BytesIO()
    plt.savefig(file, dpi=80, bbox_inches="tight", metadata={"Software": None})
    plt.close()
    return {"image/png": base64.b64encode(file.getvalue()).decode()}


def main() -> None:
    cells = cells_of(SCRIPT.read_text())
    run_cells(cells)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    notebook = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    NOTEBOOK.write_text(json.dumps(notebook, indent=1) + "\n")


if __name__ == "__main__":
    main()
