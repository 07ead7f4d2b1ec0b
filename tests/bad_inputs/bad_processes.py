"""Bad options of a run of several processes."""

from cases import case


@case("train", "a process without the number of processes", "--process=1 without --coordinator and")
def process_alone(folder):
    return ["--config=math", "--workdir=run", "--process=1"]


@case(
    "train",
    "a process outside the number of processes",
    "--process='2': expected the number of this process, 0 to 1",
)
def process_outside(folder):
    meet = ["--coordinator=10.0.0.1:5000", "--processes=2", "--process=2"]
    return ["--config=math", "--workdir=run", *meet]
