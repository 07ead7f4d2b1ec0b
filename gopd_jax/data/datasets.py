"""Source files -> a TFDS data set on disk -> a random-access sequence of `Prompt`.

In: what `rows.read` takes. Out: array_record files, written once by a TFDS builder and read through `as_data_source`, with no
TensorFlow anywhere. The folder is named by the fingerprint of the source, so the same content is built once and changed
content never meets old files. Nothing is tokenised, filtered or shuffled here.
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

from gopd_jax.data import rows
from gopd_jax.types import Prompt

SPLIT = "prompts"


class GopdPrompts(tfds.core.GeneratorBasedBuilder):
    """Rows of one source file, in file order. Raise VERSION when `rows.parse` reads the same file differently."""

    VERSION = tfds.core.Version("1.2.0")
    # Nothing is downloaded, so there are no checksums beside the code to look for; and looking for them takes a package that
    # TFDS 4.9.10 uses without declaring it, importlib_resources: github.com/tensorflow/datasets/issues/11212
    code_path = None

    def __init__(self, *, source: str, skipped: epath.Path | None = None, **kwargs: Any):
        self._source, self._skipped = source, skipped
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        text = {name: tfds.features.Text() for name in ("prompt_id", "ground_truth")}
        lists = {name: tfds.features.Text(doc="JSON") for name in ("messages", "extra")}
        features = tfds.features.FeaturesDict(text | lists)
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager
        return {SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, str]]]:
        skipped: list[str] = []
        found = (
            rows.read(self._source)
            if self._skipped is None
            else rows.read(self._source, skipped.append)
        )
        for number, row in enumerate(found):
            yield (
                number,
                {**row, "messages": json.dumps(row["messages"]), "extra": json.dumps(row["extra"])},
            )
        if self._skipped is not None:
            self._skipped.parent.mkdir(parents=True, exist_ok=True)
            self._skipped.write_text(json.dumps(skipped))


class DataSource(Sequence[Prompt]):
    """The prompts of one source, read from disk when asked for: `len(s)`, `s[i]`, iteration.

    fingerprint: sha256 hex of what decides every prompt here but the domain: content, file stem, reader version.
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

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Prompt:
        record = self._records[
            range(len(self))[index]
        ]  # range: negative indices, and IndexError past the end
        return Prompt(
            prompt_id=record["prompt_id"].decode(),
            messages=tuple(json.loads(record["messages"])),
            domain=self.domain,
            ground_truth=record["ground_truth"].decode(),
            extra=json.loads(record["extra"]),
        )


def prepare(
    source: str | os.PathLike[str],
    data_dir: str | os.PathLike[str],
    *,
    domain: str,
    skip_bad_rows: bool = False,
) -> DataSource:
    """Builds `source` into `data_dir` unless it is there already, and opens it.

    A build that dies leaves only a folder named `incomplete.*`, which is never read; two builds at once both succeed.

    Args:
      source: files, folders, data sets of the hub or "tiny:NAME/SPLIT", see `sources.py`.
      data_dir: where prepared data sets live; each source gets its own folder, `STEM-FINGERPRINT`.
      domain: the domain of every prompt; a "domain" field in the rows is only carried along in `extra`.
      skip_bad_rows: leave out rows that cannot be read, and list them in `skipped`.

    Raises:
      ValueError: a row is malformed or has no ground truth, or two share a prompt_id; the message names file and line.
    """
    source = os.fspath(source)
    fingerprint = rows.fingerprint(
        source, version=f"{GopdPrompts.VERSION}{'-skip' * skip_bad_rows}"
    )
    name = re.sub(r"[^A-Za-z0-9._-]", "_", rows.stem(source))
    folder = epath.Path(data_dir) / f"{name}-{fingerprint[:16]}"
    skipped = folder / "skipped.json" if skip_bad_rows else None
    builder = _builder(source, folder, skipped)
    if not builder.data_path.exists():
        logging.info("building %s into %s", source, folder)
        _build(builder)
        builder = _builder(
            source, folder, skipped
        )  # afresh: another process may have been the one that wrote it
    records = builder.as_data_source(SPLIT)
    return DataSource(
        records, domain, fingerprint, json.loads(skipped.read_text()) if skipped else ()
    )


def _builder(source: str, folder: epath.Path, skipped: epath.Path | None) -> GopdPrompts:
    return GopdPrompts(source=source, skipped=skipped, data_dir=folder, file_format="array_record")


def _build(builder: GopdPrompts) -> None:
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(
            io.StringIO()
        ):  # TFDS prints "Downloading ...", and nothing is downloaded
            builder.download_and_prepare()
    except OSError:
        if (
            not builder.data_path.exists()
        ):  # it exists: another process finished the same build first
            raise
