"""Stands in for Weights & Biases: the calls that gopd_jax makes, with the names of wandb 0.31.

What is called is kept in `calls`; a step below that of the run is dropped, as there.
"""

calls = []
fail_at = None  # step at which `log` raises


class Run:
    def __init__(self, step):
        self.step = step

    def log(self, data, step=None, commit=None):
        if step == fail_at:
            raise ConnectionError("the service\nis gone")
        if step >= self.step:
            self.step = step
            calls.append(("log", step, data))

    def finish(self, exit_code=None):
        calls.append(("finish", exit_code))


resumed_step = 0  # of a run that the server knows


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
    return Run(resumed_step)
