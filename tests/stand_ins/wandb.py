"""Stands in for Weights & Biases: the calls that gopd_jax makes, with the names of wandb 0.31.

What is called is kept in `calls`; a step below that of the run is dropped, as there.
"""

calls = []
fail_at = None  # step at which `log` raises
server = {}  # next step of each run, by id
offline = False  # each `init` begins at step 0


class Run:
    def __init__(self, id):
        self.id = id
        self.step = 0 if offline else server.get(id, 0)

    def log(self, data, step=None, commit=None):
        if step == fail_at:
            raise ConnectionError("the service\nis gone")
        if step >= self.step:
            self.step = step
            server[self.id] = step + 1
            calls.append(("log", step, data))

    def finish(self, exit_code=None):
        calls.append(("finish", exit_code))


def init(
    entity=None,
    project=None,
    dir=None,
    id=None,
    name=None,
    config=None,
    allow_val_change=None,
    mode=None,
    resume=None,
):
    calls.append(("init", {"project": project, "id": id, "name": name, "resume": resume}))
    calls.append(("config", config))
    return Run(id)
