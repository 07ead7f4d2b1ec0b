"""An adapter as a folder that PEFT loads: adapter_config.json and adapter_model.safetensors.

The base is not written; whoever loads the folder needs the model that the student started from.
Format: https://huggingface.co/docs/peft/developer_guides/checkpoint.
"""

from pathlib import Path

from flax.traverse_util import flatten_dict
import jax
import numpy as np
from safetensors.numpy import save_file

from gopd_jax.models import exported
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.huggingface_save import check_free, complete_folder
from gopd_jax.models.lora import target_paths
from gopd_jax.models.settings import LoraSettings
from gopd_jax.models.tensor_names import table
from gopd_jax.runtime.files import JsonObject, replace_json
from gopd_jax.types import Params

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def save_adapter(
    out: str | Path,
    config: ModelConfig,
    lora: LoraSettings,
    adapter: Params,
    base: str,
    dtype: str = "float32",
    card: str = "",
    made: JsonObject | None = None,
) -> Path:
    """Writes an adapter in PEFT's format.

    Args:
        out: folder to create; must not exist, or be empty.
        config: the architecture.
        lora: rank, alpha and targets.
        adapter: as `lora.abstract_adapter` describes it.
        base: folder or hub id of the model that the adapter belongs to.
        dtype: of the written tensors, "float32", "bfloat16" or "float16".
        card: text of README.md, the model card; empty writes none.
        made: content of gopd.json, see `models.exported`; None writes none.

    Returns:
        The folder.

    Raises:
        ValueError: see `check_free`, or an array is not finite in `dtype`.
    """
    with complete_folder(check_free(out)) as folder:
        tensors = peft_tensors(config, lora, adapter, dtype)
        for name, tensor in tensors.items():
            if not np.isfinite(tensor).all():
                raise ValueError(
                    f"tensor {name} is not finite in {dtype}: expected neither NaN nor inf; "
                    "nothing is written"
                )
        replace_json(folder / CONFIG, peft_config(config, lora, base))
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        # safetensors creates files that only their owner may read.
        (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode)
        if made:
            replace_json(folder / exported.NAME, made)
        if card:
            (folder / "README.md").write_text(card, encoding="utf-8")
    return Path(out)


def peft_config(config: ModelConfig, lora: LoraSettings, base: str) -> JsonObject:
    """The content of adapter_config.json."""
    alpha = int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": alpha,  # PEFT multiplies by lora_alpha / r
        "use_rslora": False,
        "target_modules": sorted(name.split(".")[-2] for name in _names(config, lora).values()),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "inference_mode": True,
    }


def peft_tensors(
    config: ModelConfig, lora: LoraSettings, adapter: Params, dtype: str
) -> dict[str, np.ndarray]:
    """The tensors by PEFT's names; those of a layer are [r, inputs] and [outputs, r]."""
    arrays, found = flatten_dict(adapter), {}
    for path, name in _names(config, lora).items():
        a, b = (np.asarray(jax.device_get(arrays[*path, side]), dtype) for side in ("a", "b"))
        for layer in range(config.layers):
            module = "base_model.model." + name.format(layer).removesuffix(".weight")
            low, high = a[layer].reshape(-1, lora.rank).T, b[layer].reshape(lora.rank, -1).T
            found[f"{module}.lora_A.weight"] = np.ascontiguousarray(low)
            found[f"{module}.lora_B.weight"] = np.ascontiguousarray(high)
    return found


def _names(config: ModelConfig, lora: LoraSettings) -> dict[tuple[str, ...], str]:
    """The Hugging Face name of each matrix with an adapter, by its path."""
    names = {row.path: row.name for row in table(config)}
    return {path: names[path] for path in target_paths(config, lora).values()}
