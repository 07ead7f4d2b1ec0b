"""Bad model folders, given to whichever command reads that part of them first."""

from pathlib import Path

from bad_train import config
from cases import case, cut, edit, model, write

NO_CONFIG = (
    "cannot read a model config from 'student': expected a Hugging Face folder with config.json, "
    "or a hub id"
)


def student(folder: Path) -> list[str]:
    return [config(folder, student="student"), "--workdir=run"]


def teacher(folder: Path) -> list[str]:
    return [config(folder, teacher="teacher"), "--workdir=run"]


def generate(folder: Path) -> list[str]:
    write(folder / "prompts.jsonl", [{"prompt": "1+1"}])
    return ["--model=student", "--prompt-file=prompts.jsonl", "--out=out/samples.jsonl"]


@case("train", "student that is neither a folder nor on the hub", NO_CONFIG)
def student_missing(folder):
    return student(folder)


@case(
    "train",
    "student given as a path that does not exist",
    (
        "no model at './models/gone': expected a Hugging Face folder or hub id, but there"
        " is no such folder"
    ),
)
def student_path_missing(folder):
    return [config(folder, student="./models/gone"), "--workdir=run"]


@case(
    "train",
    "student that is an empty folder",
    (
        "cannot read a model config from 'student': expected a Hugging Face folder with "
        "config.json, or a hub id (no config.json there)"
    ),
)
def student_empty(folder):
    (folder / "student").mkdir()
    return student(folder)


@case(
    "train",
    "student that is a file",
    "no model at 'student': expected a Hugging Face folder or hub id, but it is a file",
)
def student_is_a_file(folder):
    write(folder / "student", "mine")
    return student(folder)


@case(
    "train",
    "student that is the safetensors file",
    (
        "no model at 'student/model.safetensors': expected a Hugging Face folder or hub "
        "id, but it is a file"
    ),
)
def student_is_the_weights(folder):
    model(folder)
    return [config(folder, student="student/model.safetensors"), "--workdir=run"]


@case("train", "config.json cut short", NO_CONFIG, "student/config.json")
def config_json_halved(folder):
    cut(model(folder) / "config.json")
    return student(folder)


@case(
    "train",
    "config.json that is a list",
    (
        "cannot read a model config from 'student': expected a Hugging Face folder with "
        "config.json, or a hub id (config.json is not a JSON object)"
    ),
)
def config_json_list(folder):
    write(model(folder) / "config.json", "[1, 2]")
    return student(folder)


@case("train", "config.json with a text for a number", NO_CONFIG, "hidden_size")
def config_json_text(folder):
    edit(model(folder) / "config.json", hidden_size="wide")
    return student(folder)


@case("train", "config.json with null for a size", NO_CONFIG, "hidden_size")
def config_json_null(folder):
    edit(model(folder) / "config.json", hidden_size=None)
    return student(folder)


@case("train", "config.json with a fraction for a size", NO_CONFIG, "num_hidden_layers")
def config_json_fraction(folder):
    edit(model(folder) / "config.json", num_hidden_layers=2.5)
    return student(folder)


@case("train", "config.json with a negative size", NO_CONFIG, "num_hidden_layers")
def config_json_negative(folder):
    edit(model(folder) / "config.json", num_hidden_layers=-2)
    return student(folder)


@case(
    "train",
    "config.json with zero heads",
    "student: unsupported config field num_attention_heads=0; expected an integer >= 1",
)
def config_json_zero(folder):
    edit(model(folder) / "config.json", num_attention_heads=0)
    return student(folder)


@case(
    "train",
    "config.json with a negative vocabulary",
    "student: unsupported config field vocab_size=-1; expected an integer >= 1",
)
def config_json_vocab(folder):
    edit(model(folder) / "config.json", vocab_size=-1)
    return student(folder)


@case("train", "config.json with an odd head size", NO_CONFIG, "head_dim")
def config_json_odd_head(folder):
    edit(model(folder) / "config.json", head_dim=15)
    return student(folder)


@case(
    "train",
    "config.json of an architecture that is not implemented",
    (
        "student: unsupported architecture model_type='gpt2'; supported: ['llama', "
        "'qwen2', 'qwen3', 'qwen3_moe']"
    ),
)
def config_json_gpt2(folder):
    edit(model(folder) / "config.json", model_type="gpt2")
    return student(folder)


@case("train", "config.json whose model_type is a list", NO_CONFIG)
def config_json_type_list(folder):
    edit(model(folder) / "config.json", model_type=["qwen3"])
    return student(folder)


@case("train", "config.json whose rope_scaling lacks its factor", NO_CONFIG, "factor")
def config_json_rope(folder):
    edit(model(folder) / "config.json", rope_scaling={"rope_type": "linear"})
    return student(folder)


@case(
    "train",
    "config.json whose rope_theta is a text",
    "student: unsupported config field rope_theta='x'; expected a number >= 1",
)
def config_json_theta(folder):
    path = model(folder) / "config.json"
    edit(path, rope_parameters={"rope_theta": "x", "rope_type": "default"})
    return student(folder)


@case(
    "train",
    "config.json with a rope_theta of 0",
    "student: unsupported config field rope_theta=0; expected a number >= 1",
)
def config_json_theta_zero(folder):
    path = model(folder) / "config.json"
    edit(path, rope_parameters={"rope_theta": 0, "rope_type": "default"})
    return student(folder)


@case(
    "train",
    "config.json whose quantization is not implemented",
    (
        "student: unsupported config field quantization_config={'quant_method': 'awq', "
        "'bits': 4}; supported: None"
    ),
)
def config_json_quantized(folder):
    edit(model(folder) / "config.json", quantization_config={"quant_method": "awq", "bits": 4})
    return student(folder)


@case("generate", "config.json and the weights are of different models", NO_CONFIG)
def other_config(folder):
    edit(model(folder) / "config.json", num_hidden_layers=3)
    return generate(folder)


@case("train", "an attention kernel for other devices", "kernel='pallas_tpu' runs on tpu, the")
def attention_kernel(folder):
    return [config(folder), "--workdir=run", "--config.learner.attention=pallas_tpu"]
