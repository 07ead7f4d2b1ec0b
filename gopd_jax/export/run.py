"""The student of a run as a Hugging Face folder, for transformers, vLLM or the hub.

In: a run folder with a checkpoint. Out: a model folder with its card. The run is only read.
"""

from pathlib import Path

from gopd_jax.export.card import is_on_hub, model_card
from gopd_jax.models.config import load_config
from gopd_jax.models.decoder import abstract_params, param_shardings
from gopd_jax.models.huggingface_save import check_free, save_pretrained
from gopd_jax.runtime.checkpoint import restore_params
from gopd_jax.runtime.files import JsonObject
from gopd_jax.runtime.mesh import make_mesh, with_shardings
from gopd_jax.runtime.run_folder import read_run


def export(
    workdir: str,
    out: str,
    step: int | None = None,
    dtype: str = "bfloat16",
    public: bool = False,
) -> int:
    """Writes the student of a run as a Hugging Face folder.

    Args:
        workdir: folder of the run.
        out: folder to write.
        step: step of the checkpoint; None takes the latest.
        dtype: of the weights written, "bfloat16" or "float32".
        public: gopd.json names local models by their last name alone, as the card does.

    Returns:
        The step.

    Raises:
        ValueError: there is no such run or step, or `out` is not free.
    """
    run = read_run(workdir)
    student = run["config"].get("student")
    if not isinstance(student, str):
        raise ValueError(
            f"{workdir}/run.json is damaged: expected a text as 'student' of its config, not "
            f"{student!r}"
        )
    student = _start(run, student)
    check_free(out)  # before restoring, which can take minutes
    checkpoints = Path(workdir).resolve() / "checkpoints"
    if checkpoints in (Path(out).resolve(), *Path(out).resolve().parents):
        raise ValueError(f"--out={out} is among the checkpoints of the run: expected another place")
    config = load_config(student)
    abstract = with_shardings(abstract_params(config), param_shardings(config, make_mesh()))
    step, params = restore_params(workdir, step, abstract)
    card = model_card(workdir, step, dtype)
    made = _made(run, step, public)
    save_pretrained(out, config, params, dtype, tokenizer_from=student, card=card, made=made)
    return step


def _start(run: JsonObject, given: str) -> str:
    """Where the model that the student started from is, also where a relative path leads elsewhere.

    run.json has the folder that the path led to when the run started; that of a model of the hub
    is a copy with a name of its own, and the hub id is kept.
    """
    recorded = run.get("models", {}).get("student", {}).get("folder") or ""
    same = Path(recorded).name == Path(given).name and Path(recorded).is_dir()
    return recorded if same else given


def _made(run: JsonObject, step: int, public: bool) -> JsonObject:
    """The content of gopd.json, see `models.exported`."""
    config, weights = run["config"], run["fingerprints"].get("weights", {})
    models = run.get("models", {})

    def model(role: str, path: str) -> JsonObject:
        if not is_on_hub(path):
            folder = models.get(role, {}).get("folder") or str(Path(path).absolute())
            path = Path(folder).name if public else folder
        return {"path": path, "weights": weights.get(role)}

    start = model("student", config["student"])
    given = config.get("reference")
    return {
        "run": config.get("name"),
        "step": step,
        "method": config.get("method", "gopd"),
        "student": start,
        "reference": model("reference", given) if given else start,
    }
