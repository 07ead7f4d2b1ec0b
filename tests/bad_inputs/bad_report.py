"""Bad folders and options of `python -m gopd_jax.report`; damaged logs are no reason to refuse."""

from bad_export import run
from cases import case, write


@case(
    "report",
    "no such folder",
    (
        "'gone' holds no run: expected a folder written by gopd_jax.train, but there is "
        "no such folder"
    ),
)
def report_nothing(folder):
    return ["gone"]


@case(
    "report",
    "a folder without a run",
    (
        "'empty' holds no run: expected a folder written by gopd_jax.train, but there is "
        "neither run.json nor metrics.jsonl in it"
    ),
)
def report_empty(folder):
    (folder / "empty").mkdir()
    return ["empty"]


@case(
    "report",
    "a file in place of a run",
    (
        "'file' holds no run: expected a folder written by gopd_jax.train, but there is "
        "no such folder"
    ),
)
def report_file(folder):
    write(folder / "file", "mine")
    return ["file"]


@case(
    "report",
    "run.json of another format",
    (
        "'run' is a run folder of format 7, this version of gopd_jax reads format 3: use "
        "the version that wrote it, or another folder"
    ),
)
def report_format(folder):
    run(folder, format=7)
    return ["run"]


@case(
    "report",
    "a good run and one that is not there",
    (
        "'gone' holds no run: expected a folder written by gopd_jax.train, but there is "
        "no such folder"
    ),
)
def report_second(folder):
    run(folder)
    return ["run", "gone"]


@case(
    "report",
    "an output below a file",
    (
        "--out='file/report.html': cannot write there, expected a folder above it, but "
        "'file' is a file"
    ),
)
def report_out_below(folder):
    run(folder)
    write(folder / "file", "mine")
    return ["run", "--out=file/report.html"]


@case(
    "report",
    "an output that is a folder",
    "--out='report.html': cannot write there, expected a file, but it is a folder",
)
def report_out_folder(folder):
    run(folder)
    (folder / "report.html").mkdir()
    return ["run"]


@case(
    "report",
    "an output in a folder that is not there",
    "--out='gone/report.html': expected a folder that exists, not 'gone'",
)
def report_out_nowhere(folder):
    run(folder)
    return ["run", "--out=gone/report.html"]


@case(
    "report",
    "an output that is a file of the run",
    "--out='run/run.json' is not an earlier report: expected another name",
)
def report_out_run(folder):
    run(folder)
    return ["run", "--out=run/run.json"]
