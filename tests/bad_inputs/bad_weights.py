"""Bad safetensors files and shard indices in a model folder."""

from pathlib import Path

from bad_models import generate, student, teacher
from cases import case, cut, model, write
import numpy as np
from safetensors.numpy import load_file, save_file

NO_WEIGHTS = "student: cannot read model.safetensors, expected a safetensors file"
INDEX = "student/model.safetensors.index.json is damaged: expected "


def change_tensors(path: Path, change) -> None:
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def sharded(folder: Path, change) -> list[str]:
    """A student in one shard with an index; `change` makes another index of the right one."""
    path = model(folder)
    (path / "model.safetensors").rename(path / "model-00001-of-00001.safetensors")
    names = list(load_file(path / "model-00001-of-00001.safetensors"))
    index = {"weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}
    write(path / "model.safetensors.index.json", change(index))
    return student(folder)


@case("train", "safetensors cut short", NO_WEIGHTS)
def weights_halved(folder):
    cut(model(folder) / "model.safetensors")
    return student(folder)


@case("train", "safetensors that are empty", NO_WEIGHTS)
def weights_empty(folder):
    cut(model(folder) / "model.safetensors", 0)
    return student(folder)


@case("train", "safetensors with a header that is not JSON", NO_WEIGHTS)
def weights_header(folder):
    path = model(folder) / "model.safetensors"
    content = path.read_bytes()
    write(path, content[:8] + b"garbage!" + content[16:])
    return student(folder)


@case("train", "safetensors that are a Git LFS pointer", NO_WEIGHTS)
def weights_lfs(folder):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 431000\n"
    write(model(folder) / "model.safetensors", pointer)
    return student(folder)


@case(
    "train",
    "a tensor is missing in the student",
    (
        "student: missing tensors, expected in a qwen3: model.norm.weight [64] (our "
        "final_norm/scale)"
    ),
)
def tensor_missing(folder):
    change_tensors(model(folder), lambda t: t.pop("model.norm.weight"))
    return student(folder)


@case(
    "train",
    "a tensor of the teacher has another shape",
    "teacher: wrong shapes: model.norm.weight is [3], expected [64] (our final_norm/scale [64])",
)
def tensor_shape(folder):
    path = model(folder, "teacher", "math_teacher")
    change_tensors(path, lambda t: t.update({"model.norm.weight": np.ones(3, np.float32)}))
    return teacher(folder)


@case(
    "train",
    "an unexpected tensor in the student",
    "student: unexpected tensors, which map to nothing in a qwen3 (tied_embeddings=True): lora_A",
)
def tensor_unexpected(folder):
    change_tensors(model(folder), lambda t: t.update({"lora_A": np.ones(3, np.float32)}))
    return student(folder)


@case(
    "generate",
    "a tensor is missing in the model",
    (
        "student: missing tensors, expected in a qwen3: model.norm.weight [64] (our "
        "final_norm/scale)"
    ),
)
def model_tensor_missing(folder):
    change_tensors(model(folder), lambda t: t.pop("model.norm.weight"))
    return generate(folder)


@case(
    "train",
    "index that names a shard that is not there",
    "student: cannot read model-00002-of-00002.safetensors, expected a safetensors file",
)
def shard_missing(folder):
    entry = {"model.extra": "model-00002-of-00002.safetensors"}
    return sharded(folder, lambda index: {"weight_map": index["weight_map"] | entry})


@case("train", "index without a weight_map", INDEX + "a JSON object in its 'weight_map'")
def shard_no_map(folder):
    return sharded(folder, lambda index: {"metadata": {}})


@case("train", "index whose weight_map is a list", INDEX + "a JSON object in its 'weight_map'")
def shard_list(folder):
    return sharded(folder, lambda index: {"weight_map": [1]})


@case(
    "train",
    "index whose shards are numbers",
    (
        "student/model.safetensors.index.json is damaged: expected names of files in its "
        "'weight_map', not 1"
    ),
)
def shard_numbers(folder):
    return sharded(folder, lambda index: {"weight_map": {"model.norm.weight": 1}})


@case(
    "train",
    "index with a path outside of the folder",
    (
        "student/model.safetensors.index.json is damaged: expected names of files in its "
        "'weight_map', not '../../x'"
    ),
)
def shard_outside(folder):
    return sharded(folder, lambda index: {"weight_map": {"model.norm.weight": "../../x"}})


@case(
    "train",
    "index that is not JSON",
    "student/model.safetensors.index.json is damaged: expected a JSON object",
)
def shard_not_json(folder):
    return sharded(folder, lambda index: "{")


@case(
    "train",
    "index that is empty",
    (
        "student/model.safetensors.index.json is damaged: expected names of files in its "
        "'weight_map', not nothing"
    ),
)
def shard_none(folder):
    return sharded(folder, lambda index: {"weight_map": {}})
