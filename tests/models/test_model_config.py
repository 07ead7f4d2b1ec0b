"""Published config.json files, as written for transformers 4, and configs that are refused."""

import json

from model_cases import CASES
import pytest
import transformers

from gopd_jax.models.config import (
    ModelConfig,
    RopeScaling,
    UnsupportedModel,
    from_hf,
    load_config,
    to_hf,
)
from gopd_jax.models.rope import inverse_frequencies

QWEN3_4B = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2560,
    "initializer_range": 0.02,
    "intermediate_size": 9728,
    "max_position_embeddings": 40960,
    "max_window_layers": 36,
    "model_type": "qwen3",
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
QWEN25_7B_INSTRUCT = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "model_type": "qwen2",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.1",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 152064,
}
LLAMA31_8B = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.0.dev0",
    "use_cache": True,
    "vocab_size": 128256,
}
LLAMA32_1B = LLAMA31_8B | {
    "head_dim": 64,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "rope_scaling": LLAMA31_8B["rope_scaling"] | {"factor": 32.0},
    "tie_word_embeddings": True,
    "transformers_version": "4.45.0.dev0",
}

LLAMA31_ROPE = RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)
LLAMA32_ROPE = RopeScaling("llama3", 32.0, 1.0, 4.0, 8192)
# Name -> the file, the expected architecture, the number of parameters on the model card.
PUBLISHED = {
    "Qwen3-4B": (
        QWEN3_4B,
        ModelConfig(
            "qwen3", 151936, 36, 2560, 32, 8, 128, 9728, 1e-6, 1e6, RopeScaling(), True, 40960
        ),
        4_022_468_096,
    ),
    "Qwen2.5-7B-Instruct": (
        QWEN25_7B_INSTRUCT,
        ModelConfig(
            "qwen2", 152064, 28, 3584, 28, 4, 128, 18944, 1e-6, 1e6, RopeScaling(), False, 32768
        ),
        7_615_616_512,
    ),
    "Llama-3.2-1B": (
        LLAMA32_1B,
        ModelConfig(
            "llama", 128256, 16, 2048, 32, 8, 64, 8192, 1e-5, 5e5, LLAMA32_ROPE, True, 131072
        ),
        1_235_814_400,
    ),
    "Llama-3.1-8B": (
        LLAMA31_8B,
        ModelConfig(
            "llama", 128256, 32, 4096, 32, 8, 128, 14336, 1e-5, 5e5, LLAMA31_ROPE, False, 131072
        ),
        8_030_261_248,
    ),
}


def _load(folder, raw):
    (folder / "config.json").write_text(json.dumps(raw))
    return load_config(str(folder))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs(tmp_path, name):
    raw, expected, parameters = PUBLISHED[name]
    config = _load(tmp_path, raw)
    assert config == expected
    assert config.num_params == parameters
    assert from_hf(to_hf(config)) == config


@pytest.mark.parametrize("case", CASES)
def test_round_trip_through_a_file(tmp_path, case):
    written = to_hf(CASES[case], dtype="bfloat16", eos_token_id=[3, 4])
    assert _load(tmp_path, written.to_diff_dict()) == CASES[case]
    again = transformers.AutoConfig.from_pretrained(tmp_path)
    assert str(again.dtype) in ("torch.bfloat16", "bfloat16")
    assert (again.eos_token_id, again.bos_token_id) == ([3, 4], None)


def test_rope_of_transformers_5(tmp_path):
    """Newer files write rope parameters flat or nested by layer type; older ones use "type"."""
    raw = {k: v for k, v in LLAMA31_8B.items() if k not in ("rope_theta", "rope_scaling")}
    rope = LLAMA31_8B["rope_scaling"] | {"rope_theta": 500000.0}
    expected = PUBLISHED["Llama-3.1-8B"][1]
    assert _load(tmp_path, raw | {"rope_parameters": rope}) == expected
    qwen = {k: v for k, v in QWEN3_4B.items() if k not in ("rope_theta", "rope_scaling")}
    nested = {"full_attention": {"rope_type": "default", "rope_theta": 1000000.0}}
    assert _load(tmp_path, qwen | {"rope_parameters": nested}) == PUBLISHED["Qwen3-4B"][1]
    linear = _load(tmp_path, QWEN3_4B | {"rope_scaling": {"type": "linear", "factor": 4.0}})
    assert (linear.rope_theta, linear.rope_scaling) == (1e6, RopeScaling("linear", 4.0))


def test_missing_fields_have_the_defaults_of_transformers(tmp_path):
    missing = ("num_key_value_heads", "rope_theta", "rope_scaling")
    config = _load(tmp_path, {k: v for k, v in LLAMA31_8B.items() if k not in missing})
    assert (config.kv_heads, config.head_size) == (32, 128)
    assert (config.rope_theta, config.rope_scaling.kind) == (1e4, "default")


def test_llama3_frequencies_at_the_ends():
    """Llama-3.1-8B: the fastest pair keeps its frequency, the slowest is divided by 8."""
    frequencies = inverse_frequencies(PUBLISHED["Llama-3.1-8B"][1])
    assert frequencies.shape == (64,)
    assert frequencies[0] == 1.0
    assert frequencies[-1] * 8 == pytest.approx(500000.0 ** -(126 / 128), rel=1e-5)


FAMILIES = "['llama', 'qwen2', 'qwen3', 'qwen3_moe']"
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"model_type": "gemma2"}, ["model_type='gemma2'", FAMILIES]),
        ({"model_type": "mixtral"}, ["model_type='mixtral'", FAMILIES]),
        ({"model_type": "from_next_year"}, ["model_type='from_next_year'", FAMILIES]),
        ({"model_type": None}, ["model_type=None", FAMILIES]),
        ({"hidden_act": "gelu"}, ["hidden_act='gelu'", "'silu'"]),
        ({"attention_bias": True}, ["attention_bias=True", "False"]),
        ({"partial_rotary_factor": 0.5}, ["partial_rotary_factor=0.5", "1.0"]),
        ({"quantization_config": {"quant_method": "fp8"}}, ["quantization_config", "fp8"]),
        (
            {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 20},
            ["layer_types=['full_attention', 'sliding_attention']", "['full_attention']"],
        ),
        ({"rope_scaling": YARN}, ["rope_type='yarn'", "['default', 'linear', 'llama3']"]),
        ({"num_key_value_heads": 5}, ["num_key_value_heads=5", "32"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_unsupported_is_named(tmp_path, change, words):
    with pytest.raises(UnsupportedModel) as error:
        _load(tmp_path, QWEN3_4B | change)
    message = str(error.value)
    assert all(word in message for word in [*words, "supported", str(tmp_path)]), message
    assert "\n" not in message


def test_sliding_windows_that_no_layer_uses_are_fine(tmp_path):
    unused = {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 36}
    assert _load(tmp_path, QWEN3_4B | unused) == PUBLISHED["Qwen3-4B"][1]


@pytest.mark.parametrize(
    "change",
    [{"hidden_size": "wide"}, {"rope_scaling": {"type": "linear"}}, {"vocab_size": None}],
    ids=str,
)
def test_malformed_field(tmp_path, change):
    with pytest.raises(ValueError, match="cannot read a model config"):
        _load(tmp_path, QWEN3_4B | change)


def test_not_a_model_folder(tmp_path):
    message = "cannot read a model config.*expected a Hugging Face folder with config.json"
    with pytest.raises(ValueError, match=message):
        load_config(str(tmp_path))
