"""The architectures of a run's models, without their weights, and without a network where possible.

In: folders, hub ids, or names in capitals that stand for a folder of the user. Out: a `ModelConfig`
for each, and a note where it is assumed. A folder needs config.json alone.
"""

from collections.abc import Mapping
import os
import re

import transformers

from gopd_jax.config import Config
from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.models.config import ModelConfig, from_hf, load_config

_QWEN3 = {
    "vocab_size": 151936,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rope_theta": 1000000,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
# Fields of the public config.json of the models that the config files name.
KNOWN = {
    "Qwen/Qwen3-1.7B": (
        "qwen3",
        _QWEN3
        | {
            "hidden_size": 2048,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "intermediate_size": 6144,
        },
    ),
    "Qwen/Qwen3-4B": (
        "qwen3",
        _QWEN3 | {"hidden_size": 2560, "num_hidden_layers": 36, "intermediate_size": 9728},
    ),
    "Qwen/Qwen3-30B-A3B-Instruct-2507": (
        "qwen3_moe",
        _QWEN3
        | {
            "hidden_size": 2048,
            "num_hidden_layers": 48,
            "num_key_value_heads": 4,
            "intermediate_size": 6144,
            "moe_intermediate_size": 768,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "max_position_embeddings": 262144,
            "rope_theta": 10000000,
            "tie_word_embeddings": False,
        },
    ),
}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*")


def architectures(roles: Mapping[str, str]) -> tuple[dict[str, ModelConfig], list[str]]:
    """The architecture of each path, and sentences about what is assumed.

    Args:
        roles: path of the model in each role, the student first.

    Raises:
        ValueError: a model that is neither a folder, nor known here, nor found on the hub.
    """
    found: dict[str, ModelConfig] = {}
    notes = []
    for role, path in roles.items():
        if path in found:
            continue
        if os.path.isdir(path):
            found[path] = load_config(path)
        elif path in KNOWN:
            family, fields = KNOWN[path]
            found[path] = from_hf(transformers.AutoConfig.for_model(family, **fields), path)
            notes.append(f"{role}: the architecture of {path} as it is published")
        elif PLACEHOLDER.fullmatch(path) and role != "student":
            found[path] = found[roles["student"]]
            notes.append(f"{role}: {path} stands for a folder of yours, with the student's size")
        else:
            found[path] = _from_hub(role, path)
    return found, notes


def ids_of(config: Config) -> tuple[int | None, tuple[int, ...]]:
    """Number of ids and stop ids of the student's tokenizer; None and () where it is not there."""
    if not any(os.path.exists(os.path.join(config.student, name)) for name in TOKENIZER_FILES):
        return None, ()
    tokenizer = ChatTokenizer.load(
        config.student,
        extra_stop_ids=config.rollout.extra_stop_ids,
        template_kwargs=config.data.template_kwargs,
    )
    return tokenizer.num_ids, tokenizer.stop_ids


def _from_hub(role: str, path: str) -> ModelConfig:
    try:
        return load_config(path)
    except ValueError as e:
        raise ValueError(
            f"{role}: {e}; a folder that holds config.json alone is enough here, such as "
            f"--config.{_field(role)}=FOLDER"
        ) from e


def _field(role: str) -> str:
    kind, _, domain = role.partition(" of ")
    return f"domains.{domain}.teacher" if kind == "teacher" else kind
