"""Stands in for Trackio: the calls that gopd_jax makes, with the names of trackio 0.43."""

calls = []


class Run:
    def log(self, metrics, step=None):
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
    return Run()


def finish():
    print("* Run finished.")
    calls.append(("finish",))
