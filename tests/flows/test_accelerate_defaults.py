"""What the user told accelerate for other work does not reach a training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.config.operations import OperationSettings
from flows.orchestration.environment import without_accelerate
from flows.training.launcher import launch_options

ROOT = Path(__file__).parents[2]
THEIRS = {
    **{"compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_GPU", "mixed_precision": "fp16"},
    **{"num_machines": 4, "num_processes": 64, "machine_rank": 3, "main_process_ip": "192.0.2.1", "debug": True},
    **{"gpu_ids": "6,7", "main_process_port": 1234, "rdzv_backend": "c10d", "same_network": False},
}
READ = """
import json, sys
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
args = launch_command_parser().parse_args([*json.loads(sys.argv[1]), "--module", "none"])
args = _validate_launch_command(args)[0]
names = ("mixed_precision", "num_machines", "num_processes", "machine_rank", "gpu_ids", "main_process_port", "debug")
print(json.dumps({name: getattr(args, name) for name in names}))
"""


def test_the_user_s_file_of_defaults_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate" / "default_config.yaml").write_text(json.dumps(THEIRS))
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}

    def read(options: list[str]) -> dict[str, object]:
        command = [sys.executable, "-c", READ, json.dumps(options)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=ROOT)
        found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
        return found

    assert read(["--multi_gpu"])["num_machines"] == 4, "the file is one that accelerate reads"
    options = launch_options(OperationSettings(processes=2), tmp_path)
    assert read(options) == {
        **{"mixed_precision": "no", "num_machines": 1, "num_processes": 2, "machine_rank": 0},
        **{"gpu_ids": "all", "main_process_port": 0, "debug": False},
    }
    own = launch_options(OperationSettings(accelerate_config="mine.yaml"), tmp_path)
    assert own == ["--config_file", "mine.yaml"], "a recipe's file is the user's own wish for this training"


@pytest.mark.parametrize(("world_size", "left"), [("", []), ("2", ["ACCELERATE_USE_CPU"])])
def test_the_user_s_variables_are_dropped(world_size: str, left: list[str]) -> None:
    """But for a process that `accelerate launch` has started with them."""
    program = """
import os
from flows.orchestration.environment import prepare_worker
prepare_worker()
print([name for name in os.environ if name.startswith("ACCELERATE_")])
"""
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    environment |= {"WORLD_SIZE": world_size} if world_size else {}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == str(left), done.stderr
    assert without_accelerate({"ACCELERATE_USE_FSDP": "1", "PATH": "/bin"}) == {"PATH": "/bin"}
