"""What the Hub's viewer and webdataset make of a set: its card, its features, and tars of its very bytes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard
from small_datasets import painted, picked
from small_photos import captions, imported, write_photos

from flows.publish import publish
from flows.viewable import check_viewable
from synth.errors import DatasetError

__all__ = ["painted", "picked"]  # fixtures
EXAMPLE = Path(__file__).parents[2] / "examples" / "webdataset_tars.py"


def test_painted_and_imported_sets_are_viewable(painted: Path, picked: Path, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", "a.png", "b/c.png")
    imported(tmp_path / "photos", tmp_path / "set")
    for folder in (painted, picked, tmp_path / "set"):
        check_viewable(folder)
        data = DatasetCard.load(folder / "README.md").data
        configs = MetadataConfigs.from_dataset_card_data(data)
        assert set(configs) == {"default", "rejects"}
        assert configs["default"]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    told = DatasetCard.load(painted / "README.md").data
    assert told.size_categories == ["n<1K"] and told.tags == ["synthetic"]


def test_features_are_those_that_datasets_reads(painted: Path, tmp_path: Path) -> None:
    features = datasets.load_dataset(str(painted), split="train", cache_dir=str(tmp_path)).features
    schema = pq.read_schema(painted / "data" / "train-00000.parquet")
    assert datasets.Features.from_arrow_schema(schema) == features
    assert isinstance(features["image"], datasets.Image) and features["prompt"] == datasets.Value("string")
    assert features.arrow_schema.equals(schema)


@pytest.fixture
def copied(painted: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copied"
    subprocess.run(["cp", "-r", painted, folder], check=True)
    return folder


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "path: data/train-*.parquet",
            "path: elsewhere/*.parquet",
            r"names no configuration for data/train-00000\.parquet",
        ),
        ("split: train", "split: a-b", "cannot be read"),
        ("n<1K", "a few", "no size category 'a few'"),
        ("configs:", "configs: [", "cannot be read"),
    ],
)
def test_a_card_that_the_viewer_cannot_use_is_refused(copied: Path, old: str, new: str, message: str) -> None:
    card = copied / "README.md"
    assert old in card.read_text()
    card.write_text(card.read_text().replace(old, new))
    with pytest.raises(DatasetError, match=message) as error:
        publish(copied, "hf://datasets/me/x")
    assert str(card) in str(error.value) and "\n" not in str(error.value)


def test_a_card_may_name_its_files_in_other_forms(copied: Path) -> None:
    card = copied / "README.md"
    body = card.read_text().split("---\n", 2)[2]
    for files in ("data/*.parquet", '["data/*.parquet"]', "[{split: train, path: [data/a.parquet, data/t*]}]"):
        card.write_text(f"---\nconfigs:\n- config_name: default\n  data_files: {files}\n---\n{body}")
        check_viewable(copied)
    card.write_text(body)
    with pytest.raises(DatasetError, match="names no configuration for"):
        check_viewable(copied)
    card.unlink()
    with pytest.raises(DatasetError, match=r"README\.md cannot be read"):
        check_viewable(copied)


def test_shards_that_do_not_belong_together_are_refused(copied: Path) -> None:
    shard = copied / "data" / "train-00001.parquet"
    table = pq.read_table(shard)
    features = json.loads(table.schema.metadata[b"huggingface"])
    features["info"]["features"]["seed"] = {"dtype": "string", "_type": "Value"}
    metadata = {**table.schema.metadata, b"huggingface": json.dumps(features).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), shard)
    with pytest.raises(DatasetError, match="its features are not those of its columns"):
        check_viewable(copied)
    pq.write_table(table.replace_schema_metadata(None), shard)
    with pytest.raises(DatasetError, match="it lacks the features of `datasets`"):
        check_viewable(copied)
    del features["info"]["features"]["seed"]
    metadata[b"huggingface"] = json.dumps(features).encode()
    pq.write_table(table.drop_columns(["seed"]).replace_schema_metadata(metadata), shard)
    with pytest.raises(DatasetError, match=r"train-00001\.parquet has other columns than the shards before it"):
        check_viewable(copied)


def test_a_set_becomes_webdatasets_tars(painted: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    tars = tmp_path / "tars"
    tars.mkdir()
    ran = subprocess.run(
        [sys.executable, EXAMPLE, painted, tars, "4"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert ran.returncode == 0, ran.stderr
    assert sorted(path.name for path in tars.iterdir()) == ["00000.tar", "00001.tar"]  # 4 and 3 images
    rows: list[dict[str, Any]] = []
    for shard in sorted((painted / "data").glob("*.parquet")):
        rows += pq.read_table(shard).to_pylist()
    urls = [str(path) for path in sorted(tars.iterdir())]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert len(samples) == len(rows) == 7
    for sample, row in zip(samples, rows, strict=True):
        assert sample["png"] == row["image"]["bytes"] and sample["txt"].decode() == row["prompt"]
        assert json.loads(sample["json"])["seed"] == row["seed"]
    imported(tars, tmp_path / "back")  # and back: this project imports such tars
    assert sorted(captions(tmp_path / "back").values()) == sorted(row["prompt"] for row in rows)
