"""A source of prompts -> local files: paths, folders, patterns, and data sets on the Hugging Face hub.

In: what a config or a command names. Out: files that `rows.py` reads, in a fixed order. Sources are
    prompts.jsonl, prompts.jsonl.gz, prompts.parquet     one file, also on gs://
    folder, folder/train-*.parquet                       all such files in it, by name
    hf://datasets/OWNER/NAME[@REVISION]/PATH             a file, folder or pattern of a data set on the hub, downloaded once
    tiny:NAME/SPLIT                                      rows made by `gopd_jax.tiny.tasks`
"""

import fnmatch
import functools
import os

from etils import epath

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
HUB = "hf://datasets/"
_WANTED = f"wanted a file ending in {', '.join(SUFFIXES)}, a folder or pattern of them, {HUB}OWNER/NAME/PATH, or tiny:NAME/SPLIT"


def stem(source: str) -> str:
    """What prompt ids of this source begin with: NAME/SPLIT, the data set's name, or the file's without its suffix."""
    if source.startswith("tiny:"):
        return source.removeprefix("tiny:")
    if source.startswith(HUB):
        _, name, _, path = _hub_parts(source)
        return name if not path.endswith(SUFFIXES) or _is_pattern(path) else f"{name}/{stem(path)}"
    path = epath.Path(source)
    if _is_pattern(source):
        return path.parent.name or "files"
    return path.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".parquet")


def files(source: str) -> list[str]:
    """The files of a source, at least one.

    Raises:
      ValueError: not a source, or none of its files is there; says which and what was wanted.
    """
    if source.startswith("tiny:"):
        name, _, split = source.removeprefix("tiny:").partition("/")
        if not name or not split:
            raise ValueError(f"{source!r}: wanted tiny:NAME/SPLIT, for example tiny:math/train")
        return [source]
    if source.startswith(HUB):
        return _from_hub(source)
    if _is_pattern(source):
        path = epath.Path(source)
        found = sorted(str(p) for p in path.parent.glob(path.name) if str(p).endswith(SUFFIXES))
    elif source and not source.endswith(SUFFIXES) and epath.Path(source).is_dir():
        found = sorted(str(p) for p in epath.Path(source).iterdir() if str(p).endswith(SUFFIXES))
    elif not source.endswith(SUFFIXES):
        raise ValueError(f"{source!r}: {_WANTED}")
    elif not epath.Path(source).exists():
        raise ValueError(f"{source!r}: no such file")
    else:
        return [source]
    if not found:
        raise ValueError(f"{source!r}: no file there ends in {', '.join(SUFFIXES)}")
    return found


def _is_pattern(path: str) -> bool:
    return any(mark in path for mark in "*?[")


def _hub_parts(source: str) -> tuple[str, str, str | None, str]:
    owner, _, rest = source.removeprefix(HUB).partition("/")
    name, _, path = rest.partition("/")
    name, _, revision = name.partition("@")
    if not owner or not name:
        raise ValueError(
            f"{source!r}: wanted {HUB}OWNER/NAME[@REVISION]/PATH, PATH a file, folder or pattern of the data set"
        )
    return owner, name, revision or None, path.strip("/")


@functools.cache  # the hub is asked for its list of files once a run
def _from_hub(source: str) -> list[str]:
    import huggingface_hub

    owner, name, revision, path = _hub_parts(source)
    repo = f"{owner}/{name}"
    try:
        if path.endswith(SUFFIXES) and not _is_pattern(path):
            return [
                huggingface_hub.hf_hub_download(repo, path, repo_type="dataset", revision=revision)
            ]
        pattern = path if _is_pattern(path) else f"{path}/*" if path else "*"
        folder = huggingface_hub.snapshot_download(
            repo, repo_type="dataset", revision=revision, allow_patterns=[pattern]
        )
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{source}: the Hugging Face hub did not give it, and it is not in the local cache ({reason})"
        ) from error
    found = []
    for place, _, names in os.walk(folder):  # the cache may hold files of earlier downloads too
        found += [os.path.join(place, n) for n in names if n.endswith(SUFFIXES)]
    found = sorted(
        file for file in found if fnmatch.fnmatchcase(os.path.relpath(file, folder), pattern)
    )
    if not found:
        raise ValueError(
            f"{source}: the data set {repo} has no such file that ends in {', '.join(SUFFIXES)}"
        )
    return found
