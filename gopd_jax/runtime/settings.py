"""Settings of the machine: mesh, checkpoints, logs."""

from typing import Annotated, Literal

from pydantic import Field, Strict

from gopd_jax.runtime.schema import Count, PositiveCount, settings

TrackerName = Literal["tensorboard", "wandb", "trackio"]
AxisSize = Annotated[int, Strict(), Field(ge=-1)]


@settings
class MeshSettings:
    """Devices along each mesh axis. One size may be -1: it takes the devices that are left."""

    data: AxisSize = 1
    """Copies of the parameters; the rows of a batch are spread over them."""
    fsdp: AxisSize = -1
    """Shards of the parameters and the optimizer; the rows of a batch are spread over them too."""
    tensor: AxisSize = 1
    """Shards of every layer's heads and MLP width, and of the vocabulary."""
    expert: AxisSize = 1
    """Shards of the experts of a mixture, which stay split when they are used, also by the sampler:
    set it where all experts do not fit a chip. Everything else takes it for another fsdp axis."""
    context: AxisSize = 1
    """Parts of every packed row in training and scoring. Parameters and the optimizer are sharded
    over it as over fsdp, but it asks for no more rows: take it where there are more devices than
    rows, or where the activations of one row do not fit into a device."""


@settings
class CheckpointSettings:
    """Checkpoints of a run. The last step is always saved."""

    every: PositiveCount = 10
    """Steps between two checkpoints. Larger values lose more work when the run is killed."""
    keep: PositiveCount = 2
    """Checkpoints kept; older ones are deleted. With 1, the one before the last is kept as well
    until the last is known to be good."""


@settings
class LogSettings:
    """What a run writes down besides its metrics, and where its metrics are shown."""

    trackers: tuple[TrackerName, ...] = ("tensorboard",)
    """Where metrics and scores are shown: files for TensorBoard in the run's folder, a run of
    Weights & Biases, a run of Trackio. The last two need `pip install wandb` or `pip install
    trackio`. metrics.jsonl is written in any case."""
    samples: Count = 4
    """Responses written to samples.jsonl, with the log-probs and advantage of each token; 0 writes
    none."""
    samples_every: PositiveCount = 10
    """Steps between two steps whose responses are written."""
    inspected: Count = 0
    """Responses of each domain that are compared with teacher and reference over the whole
    vocabulary in the steps whose responses are written: overlap, entropies, implied reward, log Z.
    0 compares none. 16 cost about what scoring them costs."""
    rewards: Count = 0
    """Responses of a step that are verified; 0 verifies all. Rewards are only watched with gopd
    and sft, so that fewer save time; grpo verifies all of them."""

    def writes_samples(self, step: int) -> bool:
        """Whether the responses of a step are written."""
        return step == 1 or step % self.samples_every == 0
