"""The architecture of a decoder, read from and written to a Hugging Face config.

In: a local folder or hub id. Out: a `ModelConfig`, the few numbers that the block needs, or an
error that names the first field the block does not implement. Does not read weights.
"""

import dataclasses
import os
from typing import Any

from huggingface_hub.errors import StrictDataclassError
import transformers

from gopd_jax.runtime.errors import brief
from gopd_jax.runtime.hub import ask_for
from gopd_jax.runtime.object_store import local_copy

FAMILIES = {
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "llama": "LlamaForCausalLM",
}
ROPE_TYPES = ("default", "linear", "llama3")


class UnsupportedModel(ValueError):
    """A readable config with an architecture or field value the block does not implement."""


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Scaling of the rotary frequencies, see `rope.inverse_frequencies`.

    kind: one of `ROPE_TYPES`. The fields after `factor` apply to "llama3" only.
    """

    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    original_length: int = 0


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Architecture of a decoder; letters are those of the shape legend in `gopd_jax.types`.

    experts: number of experts in each layer, E; 0 for a dense MLP.
    experts_per_token: number of experts a token goes to, weighted by the router's probabilities.
    moe_mlp_width: F of one expert.
    norm_topk_prob: the weights of a token's experts are divided by their sum.
    """

    family: str
    vocab_size: int  # V
    layers: int  # L
    width: int  # D
    heads: int  # N
    kv_heads: int  # K
    head_size: int  # H
    mlp_width: int  # F
    norm_eps: float = 1e-6
    rope_theta: float = 1e6
    rope_scaling: RopeScaling = RopeScaling()
    tied_embeddings: bool = True
    max_positions: int = 32768
    experts: int = 0
    experts_per_token: int = 0
    moe_mlp_width: int = 0
    norm_topk_prob: bool = True

    @property
    def qk_norm(self) -> bool:
        """Queries and keys are normalised per head."""
        return self.family in ("qwen3", "qwen3_moe")

    @property
    def qkv_bias(self) -> bool:
        """The query, key and value projections have biases."""
        return self.family == "qwen2"

    @property
    def num_params(self) -> int:
        """Number of parameters; a tied embedding counts once."""
        attention = self.width * self.head_size * 2 * (self.heads + self.kv_heads)
        if self.qkv_bias:
            attention += self.head_size * (self.heads + 2 * self.kv_heads)
        if self.qk_norm:
            attention += 2 * self.head_size
        mlp = 3 * self.width * self.mlp_width
        if self.experts:
            mlp = self.experts * (3 * self.width * self.moe_mlp_width + self.width)
        layer = attention + mlp + 2 * self.width
        embeddings = self.vocab_size * self.width * (1 if self.tied_embeddings else 2)
        return self.layers * layer + self.width + embeddings


def load_config(path: str) -> ModelConfig:
    """Reads the `config.json` of a local folder, a folder on an object store, or a hub id.

    Raises:
        ValueError: no such folder or hub id, or a malformed field.
        UnsupportedModel: a ValueError for an architecture or a field value that the block does not
            implement. The message names the field, its value and what is supported.
    """
    path = local_copy(path)
    refuse_path(path)
    try:
        # The family is checked first, because transformers has its own error, and its own advice,
        # for an architecture that it does not know.
        found, _ = transformers.PretrainedConfig.get_config_dict(path)
        if not found:
            raise OSError("no config.json there")
        if not isinstance(found, dict):
            raise TypeError("config.json is not a JSON object")
        _refuse_family(found.get("model_type"), path)
        raw = transformers.AutoConfig.from_pretrained(path)
    except UnsupportedModel:
        raise
    except (
        *(OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError),
        StrictDataclassError,
    ) as e:
        reason = brief(e)
        raise ValueError(
            f"cannot read a model config from {path!r}: expected a Hugging Face folder with "
            f"config.json, or a hub id ({reason})"
        ) from e
    return from_hf(raw, path)


def refuse_path(path: str | os.PathLike[str]) -> None:
    """Refuses what is no folder and cannot be a hub id; says that the hub is asked for an id.

    Raises:
        ValueError: a file, or a path of a folder that does not exist.
    """
    name = os.fspath(path)
    if os.path.isdir(name):
        return
    if os.path.exists(name):
        what = "it is a file"
    elif not name or name.startswith((".", "/", "~")) or name.count("/") > 1:
        what = "there is no such folder"
    else:
        ask_for(name)
        return
    raise ValueError(f"no model at {name!r}: expected a Hugging Face folder or hub id, but {what}")


def from_hf(raw: transformers.PretrainedConfig, path: str = "config") -> ModelConfig:
    """The architecture in a transformers config.

    Args:
        raw: the config.
        path: where it comes from, for error messages.

    Raises:
        UnsupportedModel: see `load_config`.
    """
    _refuse_family(raw.model_type, path)
    _refuse_sizes(raw, path)
    _refuse_unsupported(raw, path)
    rope = _rope_parameters(raw)
    return ModelConfig(
        family=raw.model_type,
        vocab_size=raw.vocab_size,
        layers=raw.num_hidden_layers,
        width=raw.hidden_size,
        heads=raw.num_attention_heads,
        kv_heads=raw.num_key_value_heads or raw.num_attention_heads,
        head_size=getattr(raw, "head_dim", None) or raw.hidden_size // raw.num_attention_heads,
        mlp_width=raw.intermediate_size,
        norm_eps=raw.rms_norm_eps,
        rope_theta=_rope_theta(rope, path),
        rope_scaling=_rope_scaling(rope, path),
        tied_embeddings=bool(raw.tie_word_embeddings),
        max_positions=raw.max_position_embeddings,
        **_experts(raw, path),
    )


def to_hf(config: ModelConfig, **extra: Any) -> transformers.PretrainedConfig:
    """The transformers config of an architecture; `extra` are more fields, such as token ids."""
    rope: dict[str, Any] = {"rope_theta": config.rope_theta, "rope_type": config.rope_scaling.kind}
    # Given explicitly, because Llama's config class has defaults of 1 and 2.
    extra = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None} | extra
    if config.rope_scaling.kind != "default":
        rope["factor"] = config.rope_scaling.factor
    if config.rope_scaling.kind == "llama3":
        rope["low_freq_factor"] = config.rope_scaling.low_freq_factor
        rope["high_freq_factor"] = config.rope_scaling.high_freq_factor
        rope["original_max_position_embeddings"] = config.rope_scaling.original_length
    experts = {}
    if config.experts:
        experts = {
            "num_experts": config.experts,
            "num_experts_per_tok": config.experts_per_token,
            "moe_intermediate_size": config.moe_mlp_width,
            "norm_topk_prob": config.norm_topk_prob,
        }
    return transformers.AutoConfig.for_model(
        config.family,
        architectures=[FAMILIES[config.family]],
        vocab_size=config.vocab_size,
        num_hidden_layers=config.layers,
        hidden_size=config.width,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        head_dim=config.head_size,
        intermediate_size=config.mlp_width,
        rms_norm_eps=config.norm_eps,
        rope_parameters=rope,
        tie_word_embeddings=config.tied_embeddings,
        max_position_embeddings=config.max_positions,
        **experts,
        **extra,
    )


def _rope_parameters(raw: transformers.PretrainedConfig) -> dict[str, Any]:
    """The flat dict of rope parameters.

    transformers moves the top-level rope_theta and rope_scaling of older config.json files into it.
    A config with layer types may nest it as {"full_attention": {...}}.
    """
    rope = dict(getattr(raw, "rope_parameters", None) or {})
    return dict(rope.get("full_attention", rope))


def _rope_theta(rope: dict[str, Any], path: str) -> float:
    theta = rope.get("rope_theta", 10000.0)
    if isinstance(theta, bool) or not isinstance(theta, (int, float)) or not 1 <= theta < 1e30:
        raise UnsupportedModel(
            f"{path}: unsupported config field rope_theta={theta!r}; expected a number >= 1"
        )
    return float(theta)


def _rope_scaling(rope: dict[str, Any], path: str) -> RopeScaling:
    kind = rope.get("rope_type", "default")
    if kind not in ROPE_TYPES:
        raise UnsupportedModel(
            f"{path}: unsupported rope_type={kind!r}; supported: {list(ROPE_TYPES)}"
        )
    if kind == "default":
        return RopeScaling()
    if kind == "linear":
        return RopeScaling(kind, rope["factor"])
    return RopeScaling(
        kind,
        rope["factor"],
        rope["low_freq_factor"],
        rope["high_freq_factor"],
        rope["original_max_position_embeddings"],
    )


def _experts(raw: transformers.PretrainedConfig, path: str) -> dict[str, Any]:
    if raw.model_type != "qwen3_moe":
        return {}
    for field, value in {"mlp_only_layers": [], "decoder_sparse_step": 1}.items():
        if (found := getattr(raw, field, value)) != value:
            raise UnsupportedModel(
                f"{path}: unsupported config field {field}={found!r}; supported: {value!r} "
                "(experts in every layer)"
            )
    if not 1 <= raw.num_experts_per_tok <= raw.num_experts:
        raise UnsupportedModel(
            f"{path}: unsupported config field num_experts_per_tok={raw.num_experts_per_tok}; "
            f"supported: 1 to num_experts={raw.num_experts}"
        )
    return {
        "experts": raw.num_experts,
        "experts_per_token": raw.num_experts_per_tok,
        "moe_mlp_width": raw.moe_intermediate_size,
        "norm_topk_prob": bool(raw.norm_topk_prob),
    }


def _refuse_family(family: str | None, path: str) -> None:
    if family not in FAMILIES:
        raise UnsupportedModel(
            f"{path}: unsupported architecture model_type={family!r}; supported: {sorted(FAMILIES)}"
        )


def _refuse_sizes(raw: transformers.PretrainedConfig, path: str) -> None:
    """transformers checks the types of sizes, and not that there is anything."""
    sizes = ["vocab_size", "num_hidden_layers", "hidden_size", "num_attention_heads"]
    sizes += ["intermediate_size", "max_position_embeddings"]
    # None: as many as query heads, and the width divided by their number.
    sizes += [f for f in ("num_key_value_heads", "head_dim") if getattr(raw, f, None) is not None]
    for field in sizes:
        value = getattr(raw, field)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UnsupportedModel(
                f"{path}: unsupported config field {field}={value!r}; expected an integer >= 1"
            )


def _refuse_unsupported(raw: transformers.PretrainedConfig, path: str) -> None:
    # Not checked: use_sliding_window, because layer_types says which layers use a window, and
    # pretraining_tp, which changes no number.
    supported = {
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "quantization_config": None,
    }
    if raw.model_type == "qwen2":
        del supported["attention_bias"]  # its block has q, k, v biases, whatever this field says
    found = {field: getattr(raw, field, value) for field, value in supported.items()}
    supported["partial_rotary_factor"] = 1.0
    found["partial_rotary_factor"] = _rope_parameters(raw).get("partial_rotary_factor", 1.0)
    supported["layer_types"] = ["full_attention"]
    found["layer_types"] = sorted(set(getattr(raw, "layer_types", None) or ["full_attention"]))
    for field, value in supported.items():
        if found[field] != value:
            raise UnsupportedModel(
                f"{path}: unsupported config field {field}={found[field]!r}; supported: {value!r}"
            )
    heads, kv_heads = raw.num_attention_heads, raw.num_key_value_heads or raw.num_attention_heads
    if heads % kv_heads:
        raise UnsupportedModel(
            f"{path}: unsupported config field num_key_value_heads={kv_heads}; supported: divisors "
            f"of {heads}, the number of query heads"
        )
