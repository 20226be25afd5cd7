"""Shards painted on Ray have the same bytes as those of one process.

To run it: pip install -c constraints.txt -e ".[ray]" and python -m pytest tests/flows/test_ray_cluster.py
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from small_datasets import contents
from small_runs import SMALL, command, small_recipe

from flows.stages.synthesize import synthesize_flow
from synth.errors import DatasetError, RunError

SHARDS = ("scenes.count=12", "scenes.shard_size=2")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Two machines with a CPU each, as far as Ray is concerned."""
    pytest.importorskip("prefect_ray", reason='needs the extra: pip install -c constraints.txt -e ".[ray]"')
    from ray.cluster_utils import Cluster

    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    machines.add_node(num_cpus=1)
    machines.wait_for_nodes()
    yield machines.address
    machines.shutdown()


def test_a_cluster_of_two_gives_the_same_bytes_as_one_process(
    cluster: str, prefect_server: None, tiny_sd_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = small_recipe(tiny_sd_folder, *SHARDS)
    assert synthesize_flow(recipe, str(tmp_path / "threads")) == 12
    on_ray = small_recipe(tiny_sd_folder, *SHARDS, 'operations.runner="ray"', f'operations.ray_address="{cluster}"')
    assert synthesize_flow(on_ray, str(tmp_path / "ray")) == 12
    by_ray, by_threads = contents(tmp_path / "ray"), contents(tmp_path / "threads")
    assert len([name for name in by_threads if name.startswith("data")]) == 6
    assert by_ray == by_threads

    (tmp_path / "ray" / "data" / "train-00003.parquet").unlink()
    assert synthesize_flow(on_ray, str(tmp_path / "ray")) == 2, "one shard is missing"
    assert contents(tmp_path / "ray") == by_threads


def test_an_error_in_a_shard_fails_the_run(
    cluster: str, prefect_server: None, tiny_sd_folder: Path, tmp_path: Path
) -> None:
    more = ('operations.runner="ray"', f'operations.ray_address="{cluster}"', "scenes.filters.min_contrast=120")
    with pytest.raises(DatasetError, match=r"was rejected|were kept"):
        synthesize_flow(small_recipe(tiny_sd_folder, *SHARDS, *more), str(tmp_path / "dataset"))


def test_a_cluster_that_does_not_answer_is_an_error(
    prefect_server: None, tiny_sd_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("prefect_ray", reason='needs the extra: pip install -c constraints.txt -e ".[ray]"')
    more = ('operations.runner="ray"', 'operations.ray_address="127.0.0.1:9"')
    with pytest.raises(RunError, match=r"no Ray cluster answers at 127\.0\.0\.1:9"):
        synthesize_flow(small_recipe(tiny_sd_folder, *SHARDS, *more), str(tmp_path / "dataset"))


def test_without_the_extra_the_error_names_it(
    tiny_sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect_server: None
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "prefect_ray", None)
    overrides = [argument for override in SMALL for argument in ("--set", override)]
    shared = ["sofas", "--teacher", tiny_sd_folder, *overrides, "--out", tmp_path / "dataset"]
    refused = command("synthesize", *shared, "--runner", "ray")
    assert refused.exit_code == 2
    assert 'pip install "dds-distillery[ray]"' in refused.stderr
