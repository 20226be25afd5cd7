"""How runs are looked after: how long, how good, how many and where. No Prefect here."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from synth.settings import Settings


class OperationSettings(Settings):
    """How runs are looked after. Nothing here changes a pixel, or a weight but by rounding, so all of it may change
    within a run."""

    timeout_hours: Annotated[float, Field(gt=0, le=100_000)] = 48.0
    """A shard, a training, an export or a measurement that takes longer is given up; what is on disk stays."""
    runner: Literal["threads", "ray"] = "threads"
    """Who paints the shards: this process, one after the other with torch's threads, or the workers of a Ray cluster,
    as many at once as it has GPUs (CPUs, where it has none). The bytes are the same on the same kind of machine."""
    ray_address: str | None = None
    """Of a Ray cluster that is there, `ray://host:10001`; it reads and writes the set itself, so the set must lie
    where all of it reaches. None starts a cluster on this machine, for the run."""
    processes: Annotated[int, Field(gt=0, le=4096)] = 1
    """That train one student together on this machine, one a GPU, by `accelerate launch`; they share every batch, so
    `training.batch_size` is that of all."""
    accelerate_config: str | None = None
    """A file that `accelerate config` wrote, in the place of `processes`: for a training on several machines. Each of
    them runs the recipe's `distill`, with the file under this name and its own rank in it."""
    remote_dir: str | None = None
    """Storage that outlives the machine, `s3://bucket/runs`: run folders are copied there at each checkpoint and at
    their end, and a run on another machine goes on from the copy. None keeps them on the machine alone."""
    keep_runs: Annotated[int, Field(gt=0, le=1_000_000)] | None = None
    """After a run, so many finished runs of the recipe are kept beside each other, the newest; the one that `latest`
    names is kept besides. None deletes nothing."""
    tolerated_right: Annotated[float, Field(ge=0, le=1)] = 0.03
    """How much smaller than the last good model's a new model's share of right edits may be."""
    tolerated_psnr: Annotated[float, Field(ge=0, le=1000)] = 0.3
    """How much lower than the last good model's a new model's PSNR may be, in dB, for edits and no-ops alike."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_old_names(cls, given: Any) -> Any:
        if isinstance(given, dict) and "keep_at" in given:
            raise ValueError("keep_at is called remote_dir now")
        return given
