"""What the tests of several verbs share."""

from pathlib import Path

import pytest
from tiny_model import properties, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx", properties(name="rooms"))
