"""The student of a run as a Hugging Face folder, for transformers, vLLM or the hub.

In: a run folder with a checkpoint. Out: a model folder with its card. The run is only read. The
adapter of a run that trained one is merged into the model that it started from, or written alone.
"""

from pathlib import Path
from typing import Literal

from gopd_jax.export.card import is_on_hub, model_card
from gopd_jax.learner.adapters import trained_params
from gopd_jax.models.config import load_config
from gopd_jax.models.decoder import param_shardings
from gopd_jax.models.huggingface import load_params, weights_fingerprint
from gopd_jax.models.huggingface_save import check_free, save_pretrained
from gopd_jax.models.lora import adapted, merged
from gopd_jax.models.peft_save import save_adapter
from gopd_jax.models.settings import LoraSettings
from gopd_jax.runtime import schema
from gopd_jax.runtime.checkpoint import restore_params
from gopd_jax.runtime.files import JsonObject
from gopd_jax.runtime.mesh import make_mesh
from gopd_jax.runtime.run_folder import read_run

Format = Literal["merged", "peft"]


def export(
    workdir: str,
    out: str,
    step: int | None = None,
    dtype: str = "bfloat16",
    public: bool = False,
    form: Format = "merged",
) -> int:
    """Writes the student of a run as a Hugging Face folder.

    Args:
        workdir: folder of the run.
        out: folder to write.
        step: step of the checkpoint; None takes the latest.
        dtype: of the weights written, "bfloat16" or "float32".
        public: gopd.json names local models by their last name alone, as the card does.
        form: "merged" is a whole model, "peft" the adapter alone, in PEFT's format.

    Returns:
        The step.

    Raises:
        ValueError: there is no such run or step, `out` is not free, the run has no adapter to write
            alone, or the model that its adapter belongs to has other weights now.
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
    config, mesh = load_config(student), make_mesh()
    given = run["config"].get("lora", {})
    lora = schema.build(LoraSettings, given, f"{workdir}/run.json: config.lora")
    if form == "peft" and not lora.rank:
        raise ValueError(
            f"--format=peft: {workdir} has no adapter, its config.lora.rank is 0; expected "
            "--format=merged"
        )
    if lora.rank:
        _check_base(run, student)
    step, params = restore_params(workdir, step, trained_params(config, lora, mesh))
    card = model_card(workdir, step, dtype, alone=form == "peft")
    made = _made(run, step, public)
    if form == "peft":
        base = made["student"]["path"]
        save_adapter(out, config, lora, params, base, dtype, card=card, made=made)
        return step
    if lora.rank:
        base = load_params(student, config, "float32", param_shardings(config, mesh))
        params = merged(adapted(base, params, lora))
    save_pretrained(out, config, params, dtype, tokenizer_from=student, card=card, made=made)
    return step


def _check_base(run: JsonObject, student: str) -> None:
    """Raises ValueError if the student's folder has other weights than the adapter belongs to."""
    recorded = run["fingerprints"].get("weights", {}).get("student")
    if recorded and (found := weights_fingerprint(student)) != recorded:
        raise ValueError(
            f"the adapter belongs to other weights than {student!r} has now (sha256 {found}); "
            f"expected {recorded}"
        )


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
