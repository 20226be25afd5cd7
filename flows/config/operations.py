"""How runs are operated: timeouts, machines, storage, retention and promotion. No Prefect here."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from synth.settings import Settings


class OperationSettings(Settings):
    """How runs are operated. Nothing here changes an image, or a weight by more than rounding, so every key may
    change within a run."""

    timeout_hours: Annotated[float, Field(gt=0, le=100_000)] = 48.0
    """Stop a shard, a training, an export or an evaluation that takes longer; what is on disk stays."""
    runner: Literal["threads", "ray"] = "threads"
    """What paints the shards: `threads` is this process, one shard after another; `ray` is a Ray cluster's workers,
    as many shards at once as it has GPUs (or CPUs, if it has no GPU). The bytes are the same on the same kind of
    machine."""
    ray_address: str | None = None
    """The address of a running Ray cluster, `ray://host:10001`. Its workers read and write the dataset themselves, so
    all of them must reach it. None starts a cluster on this machine for the run."""
    processes: Annotated[int, Field(gt=0, le=4096)] = 1
    """How many processes paint the images and train the student on this machine, one per GPU. They share the shards,
    and under `accelerate launch` the pairs of an image and an edit of every step: `training.batch_size` is the
    total."""
    accelerate_config: str | None = None
    """A file written by `accelerate config`, instead of `processes`, to train on several machines. Each machine runs
    the recipe's `distill`, with its own rank in its own file of this name."""
    remote_dir: str | None = None
    """Storage that outlives the machine, `s3://bucket/runs`. Run folders are uploaded at each checkpoint and at the
    end, and another machine resumes from the copy. None keeps them on this machine only."""
    keep_runs: Annotated[int, Field(gt=0, le=1_000_000)] | None = None
    """How many finished runs of the recipe to keep, the newest ones; the run that `latest` names always stays. None
    deletes nothing."""
    tolerated_right: Annotated[float, Field(ge=0, le=1)] = 0.03
    """How far a new model's share of right edits may fall below that of the latest good model."""
    tolerated_psnr: Annotated[float, Field(ge=0, le=1000)] = 0.3
    """How far a new model's PSNR may fall below that of the latest good model, in dB, for edits and for no-ops."""

    @property
    def launches_training(self) -> bool:
        """Whether processes of their own train the student, instead of the one that runs the flow."""
        return self.processes > 1 or self.accelerate_config is not None

    @model_validator(mode="before")
    @classmethod
    def _refuse_old_names(cls, given: Any) -> Any:
        if isinstance(given, dict) and "keep_at" in given:
            raise ValueError("keep_at is called remote_dir now")
        return given
