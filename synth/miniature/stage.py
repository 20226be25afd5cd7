"""The training loop that the miniature's stages share: timed, resumable, with a moving average of the weights."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from synth.ema import ema_step
from synth.errors import TrainingError
from synth.files import whole_file
from synth.seeds import derive_seed
from synth.state import read_network, read_tensors, reading


@dataclass
class TrainingStage:
    """One stage's training: its networks, their moving average, the optimiser and the progress so far."""

    name: str
    out: Path
    networks: nn.ModuleDict
    minutes: float
    stop_after: float
    learning_rate: float
    device: torch.device
    ema_decay: float = 0.999
    init: Path | None = None
    step: int = 0
    minutes_done: float = 0.0

    def __post_init__(self) -> None:
        """Raises TrainingError for weights in `init`, or a checkpoint in `out`, that are damaged."""
        if self.init is not None:
            for name, network in self.networks.items():
                kind: Any = type(network)
                if not (self.init / name).exists():
                    continue  # only the training needs it: it is not shipped
                with reading(self.init / name, TrainingError, "name the folder of a whole miniature"):
                    network.load_state_dict(_shipped(kind, self.init / name).state_dict())
        self.networks.to(self.device)
        if world_size() > 1:
            for value in self.networks.state_dict().values():
                dist.broadcast(value, src=0)
        for network in self.networks.values():
            network.to(memory_format=layout(self.device))  # type: ignore[call-overload]
        self.average = {key: value.detach().clone() for key, value in self.networks.state_dict().items()}
        self.parameters = [parameter for parameter in self.networks.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=self.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=0.01,
            fused=self.device.type == "cuda",
        )
        self._resume()

    def train(
        self, loss_of: Callable[[int], Tensor], sample: Callable[[], None], sample_every: float = math.inf
    ) -> None:
        """Step until the time is up.

        Args:
            loss_of: the loss at a step; it draws its batch from the step's number alone.
            sample: called at the end and in between; its time does not count.
            sample_every: minutes between two calls of `sample`.

        Raises:
            FloatingPointError: if the loss is not finite.
        """
        started = time.time()
        logged = started
        saved = started
        before = self.minutes_done
        sampled = before
        total = torch.zeros((), device=self.device)
        counted = 0
        while self.minutes_done < self.minutes and self.minutes_done - before < self.stop_after:
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate * self._rate()
            loss = loss_of(self.step)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self._share_gradients()
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.step += 1
            total += loss.detach()
            counted += 1
            self.minutes_done = from_first_process(before + (time.time() - started) / 60)
            # Only the first process averages, logs, saves and samples.
            if rank() > 0:
                continue
            self._average()
            if time.time() - logged > 20:
                value = float(total) / counted
                line = {
                    "stage": self.name,
                    "step": self.step,
                    "minutes": round(self.minutes_done, 2),
                    "loss": value,
                }
                print(json.dumps(line), flush=True)
                with (self.out / "log.jsonl").open("a") as log:
                    log.write(json.dumps(line) + "\n")
                if not math.isfinite(value):
                    raise FloatingPointError(f"the loss of stage {self.name} is {value} at step {self.step}")
                logged = time.time()
                counted = 0
                total.zero_()
            if time.time() - saved > 120:
                self.save()
                saved = time.time()
            if self.minutes_done - sampled > sample_every:
                sampled = self.minutes_done
                paused = time.time()
                sample()
                started += time.time() - paused
        if rank() == 0:
            self.save()
            sample()

    def _share_gradients(self) -> None:
        """Average the gradients over the processes, in one message."""
        if world_size() == 1:
            return
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= world_size()
        for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def _rate(self) -> float:
        """The learning rate's factor: a warm-up of 200 steps, then a cosine to 0."""
        return (
            min(1.0, (self.step + 1) / 200)
            * 0.5
            * (1 + math.cos(math.pi * min(1.0, self.minutes_done / self.minutes)))
        )

    def _average(self) -> None:
        state = self.networks.state_dict()
        floats = [key for key in state if state[key].is_floating_point()]
        ema_step([self.average[key] for key in floats], [state[key] for key in floats], self.ema_decay, self.step)

    def averaged(self) -> nn.ModuleDict:
        """Load the moving average into the networks, for sampling; `restore` undoes it."""
        self._live = {key: value.detach().clone() for key, value in self.networks.state_dict().items()}
        self.networks.load_state_dict(self.average)
        return self.networks.eval()

    def restore(self) -> None:
        """Load the weights in training again."""
        self.networks.load_state_dict(self._live)
        self.networks.train()

    def save(self) -> None:
        """Write the checkpoint atomically."""
        tensors = {f"network.{key}": value for key, value in self.networks.state_dict().items()}
        tensors |= {f"average.{key}": value for key, value in self.average.items()}
        for index, parameter in enumerate(self.parameters):
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{index}.{key}"] = torch.as_tensor(value)
        state = {"step": str(self.step), "minutes": str(self.minutes_done)}
        with whole_file(self._path) as temporary:
            save_file(
                {key: value.detach().cpu().contiguous() for key, value in tensors.items()}, temporary, metadata=state
            )

    @property
    def _path(self) -> Path:
        return self.out / f"{self.name}.safetensors"

    def _resume(self) -> None:
        if not self._path.exists():
            return
        remedy = f"delete it, and the stage {self.name} starts anew"
        tensors, state = read_tensors(self._path, TrainingError, remedy, str(self.device))
        with reading(self._path, TrainingError, remedy):
            self.step = int(state["step"])
            self.minutes_done = float(state["minutes"])
            if self.step < 0 or not 0 <= self.minutes_done < math.inf:
                raise ValueError(f"it says step {self.step} after {self.minutes_done} minutes")
            self.networks.load_state_dict(below("network.", tensors))
            for key, value in self.average.items():
                value.copy_(tensors[f"average.{key}"])
            for index, parameter in enumerate(self.parameters):
                if found := below(f"optimizer.{index}.", tensors):
                    # The fused optimiser reads raw memory: moments need their parameter's memory layout.
                    moments = {
                        key: torch.empty_like(parameter).copy_(found[key]) for key in ("exp_avg", "exp_avg_sq")
                    }
                    step = found["step"] if self.device.type == "cuda" else found["step"].cpu()
                    self.optimizer.state[parameter] = {"step": step, **moments}
        print(f"{self.name}: resuming from step {self.step}, after {self.minutes_done:.1f} minutes", flush=True)


def world_size() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def from_first_process(number: float) -> float:
    """Broadcast the first process's number: the learning rate and the end follow from it in all of them."""
    if world_size() == 1:
        return number
    shared = torch.tensor(number, dtype=torch.float64)
    dist.broadcast(shared, src=0)
    return float(shared)


def below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def averaged_network(out: Path, stage: str, name: str, network: Any) -> Any:
    """Load one network's moving average from a stage's checkpoint.

    Raises:
        TrainingError: if the checkpoint is missing or damaged.
    """
    path, remedy = out / f"{stage}.safetensors", f"run the stage {stage} again"
    tensors, _ = read_tensors(path, TrainingError, remedy)
    with reading(path, TrainingError, remedy):
        network.load_state_dict(below(f"average.{name}.", tensors))
    return network.eval().requires_grad_(False)


def _shipped(kind: Any, folder: Path) -> Any:
    """Load a network of a miniature's folder: the text encoder is transformers', the others diffusers'."""
    if issubclass(kind, PreTrainedModel):
        return kind.from_pretrained(folder, use_safetensors=True)
    return read_network(kind, folder, TrainingError, "name the folder of a whole miniature")


def generator(device: torch.device, *key: int | str) -> torch.Generator:
    """A generator seeded by `key` and the process's number alone."""
    return torch.Generator(device).manual_seed(derive_seed(*key, rank()))


def layout(device: torch.device) -> torch.memory_format:
    """Channels last on a GPU; on a CPU it is six times slower than the plain layout for bfloat16."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format
