"""Stands in for Trackio: the calls that gopd_jax makes, with the names of trackio 0.43."""

calls = []
held = {}  # last step of each run, by name


class Run:
    def __init__(self, name):
        self.name = name
        self._next_step = held.get(name, -1) + 1

    def log(self, metrics, step=None):
        held[self.name] = max(step, held.get(self.name, -1))
        calls.append(("log", step, metrics))


def init(
    project,
    name=None,
    group=None,
    space_id=None,
    config=None,
    resume="never",
    settings=None,
    private=None,
    embed=True,
):
    print("* Trackio project initialized")
    calls.append(("init", {"project": project, "name": name, "resume": resume}))
    calls.append(("config", config))
    return Run(name)


def finish():
    print("* Run finished.")
    calls.append(("finish",))
