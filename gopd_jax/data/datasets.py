"""Source files -> a TFDS data set on disk -> a random-access sequence of `Prompt`.

In: a source, see `sources`. Out: array_record files, written once by a TFDS builder and read
through `as_data_source`, without TensorFlow. The folder of a data set is named by the fingerprint
of its source: the same content is built once, and changed content goes to another folder. Does
not tokenize, filter or shuffle.
"""

from collections.abc import Iterator, Sequence
import contextlib
import io
import json
import os
import re
from typing import Any

from absl import logging
from etils import epath
import tensorflow_datasets as tfds

from gopd_jax.data import rows, sources
from gopd_jax.runtime.files import replace_text
from gopd_jax.types import Prompt

SPLIT = "prompts"
JSON_FIELDS = ("messages", "extra", "tools", "template_kwargs")  # of a row, stored as text
KEPT_BYTES = 1 << 26  # of the rows of a source that stay in memory
PROMPT_BYTES = 2000  # of a prompt, besides its text


class GopdPrompts(tfds.core.GeneratorBasedBuilder):
    """The rows of one source, in order.

    Raise VERSION when `rows.parse` reads the same row differently.
    """

    VERSION = tfds.core.Version("1.4.0")
    # TFDS looks for checksums of downloads beside the code, but nothing is downloaded here, and the
    # search takes a package that TFDS 4.9.10 uses without declaring it, importlib_resources:
    # github.com/tensorflow/datasets/issues/11212
    code_path = None

    def __init__(
        self,
        *,
        source: str,
        skipped: epath.Path | None = None,
        prompt_alone: bool = False,
        **kwargs: Any,
    ):
        self._source, self._skipped, self._prompt_alone = source, skipped, prompt_alone
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        text = {name: tfds.features.Text() for name in ("prompt_id", "ground_truth")}
        lists = {name: tfds.features.Text(doc="JSON") for name in JSON_FIELDS}
        features = tfds.features.FeaturesDict(text | lists)
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager
        return {SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, str]]]:
        skipped: list[str] = []
        if self._skipped is None:
            found = rows.read(self._source, None, self._prompt_alone)
        else:
            found = rows.read(self._source, skipped.append, self._prompt_alone)
        for number, row in enumerate(found):
            lists = {name: json.dumps(row[name]) for name in JSON_FIELDS}
            yield number, {**row, **lists}
        if self._skipped is not None:
            self._skipped.parent.mkdir(parents=True, exist_ok=True)
            replace_text(self._skipped, json.dumps(skipped))


class DataSource(Sequence[Prompt]):
    """The prompts of one source, each read from disk when it is first asked for.

    Reading a row takes 0.14 ms, of 512 prompts a tenth of a step of the embedded run; so rows stay
    in memory, up to `KEPT_BYTES`, and those beyond are read each time.

    domain: the domain of every prompt.
    fingerprint: sha256 hex of everything that decides the prompts, apart from the domain: content,
        stem of the source, version of the reader.
    skipped: bad rows that were left out, each with file, line and what is wrong.
    """

    def __init__(
        self,
        records: Sequence[dict[str, bytes]],
        domain: str,
        fingerprint: str,
        skipped: Sequence[str] = (),
    ):
        self._records = records
        self.domain = domain
        self.fingerprint = fingerprint
        self.skipped = tuple(skipped)
        self._kept: dict[int, Prompt] = {}
        self._room = KEPT_BYTES

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Prompt:
        # The range supports negative indices, and raises IndexError past the end.
        index = range(len(self))[index]
        if (kept := self._kept.get(index)) is not None:
            return kept
        record = self._records[index]
        prompt = Prompt(
            prompt_id=record["prompt_id"].decode(),
            messages=tuple(json.loads(record["messages"])),
            domain=self.domain,
            ground_truth=record["ground_truth"].decode(),
            extra=json.loads(record["extra"]),
            tools=json.loads(record["tools"]),
            template_kwargs=json.loads(record["template_kwargs"]),
        )
        size = PROMPT_BYTES + sum(len(field) for field in record.values())
        if size <= self._room:
            self._kept[index] = prompt
            self._room -= size
        return prompt


def prepare(
    source: str | os.PathLike[str],
    data_dir: str | os.PathLike[str],
    *,
    domain: str,
    skip_bad_rows: bool = False,
    prompt_alone: bool = False,
) -> DataSource:
    """Builds a source into `data_dir`, unless it is there already, and opens it.

    A build that is killed leaves only a folder named `incomplete.*`, which is never read. Of two
    builds at once, both succeed.

    Args:
        source: see `sources`.
        data_dir: folder of the prepared data sets; each has its own folder, `STEM-FINGERPRINT`.
        domain: the domain of every prompt. A "domain" field of a row is only kept in `extra`.
        skip_bad_rows: leave out rows that cannot be read, and list them in `skipped`.
        prompt_alone: a row needs no ground truth.

    Returns:
        The prompts.

    Raises:
        ValueError: a row is malformed or has no ground truth, or two rows share a prompt_id; the
            message names file and line.
    """
    source = os.fspath(source)
    version = f"{GopdPrompts.VERSION}{'-skip' if skip_bad_rows else ''}"
    version += "-prompts" if prompt_alone else ""
    fingerprint = rows.fingerprint(source, version)
    name = re.sub(r"[^A-Za-z0-9._-]", "_", sources.stem(source))
    folder = epath.Path(data_dir) / f"{name}-{fingerprint[:16]}"
    skipped = folder / "skipped.json" if skip_bad_rows else None
    builder = _builder(source, folder, skipped, prompt_alone)
    if not builder.data_path.exists():
        logging.info("building %s into %s", source, folder)
        new = [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            _build(builder)
        except ValueError:
            if "://" not in str(folder):
                _remove_empty(folder, new)
            raise
        # A new builder, because another process may have written the files.
        builder = _builder(source, folder, skipped, prompt_alone)
    records = builder.as_data_source(SPLIT)
    bad = json.loads(skipped.read_text()) if skipped else ()
    return DataSource(records, domain, fingerprint, bad)


def _remove_empty(folder: epath.Path, new: list[epath.Path]) -> None:
    """Removes the empty folders of a build that failed, and those of `new` that it has created.

    Another build at once loses nothing.
    """
    within = [place for place, _, _ in os.walk(folder, topdown=False)]
    for place in [*within, *new]:
        with contextlib.suppress(OSError):  # not empty
            os.rmdir(place)


def _builder(
    source: str, folder: epath.Path, skipped: epath.Path | None, prompt_alone: bool
) -> GopdPrompts:
    return GopdPrompts(
        source=source,
        skipped=skipped,
        prompt_alone=prompt_alone,
        data_dir=folder,
        file_format="array_record",
    )


def _build(builder: GopdPrompts) -> None:
    tfds.disable_progress_bar()
    try:
        # TFDS prints "Downloading ...", although nothing is downloaded.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
    except OSError:
        # The build failed, unless another process finished the same one first.
        if not builder.data_path.exists():
            raise
