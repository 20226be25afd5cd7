"""The training loop that the miniature's stages share: timed, resumable, with a moving average of the weights."""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from synth.ema import ema_step
from synth.seeds import derive_seed


@dataclass
class Run:
    """One stage's training: networks, their moving average, the optimiser, and where it stands."""

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
        if self.init is not None:
            for name, network in self.networks.items():
                kind: Any = type(network)
                if not (self.init / name).exists():
                    continue  # it serves the training alone, and is not shipped
                shipped = kind.from_pretrained(self.init / name)
                network.load_state_dict(shipped.state_dict())
        self.networks.to(self.device)
        if processes() > 1:
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
        """Step until the time is up. `loss_of(step)` draws its own batch from the step's number alone; `sample` is
        called at the end and every `sample_every` minutes, which do not count."""
        started, said, saved = time.time(), time.time(), time.time()
        sampled = self.minutes_done
        before = self.minutes_done
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
            self.minutes_done = agreed(before + (time.time() - started) / 60)
            if rank() > 0:
                continue
            self._average()
            if time.time() - said > 20:
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
                said, counted = time.time(), 0
                total.zero_()
            if time.time() - saved > 120:
                self.save()
                saved = time.time()
            if self.minutes_done - sampled > sample_every:
                sampled, paused = self.minutes_done, time.time()
                sample()
                started += time.time() - paused
        if rank() == 0:
            self.save()
            sample()

    def _share_gradients(self) -> None:
        """Average them over the processes, as one message."""
        if processes() == 1:
            return
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= processes()
        for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def _rate(self) -> float:
        """A short warm-up, then a cosine down to nothing."""
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
        """The networks with their moving average loaded, for sampling: training goes on from `restore`."""
        self._live = {key: value.detach().clone() for key, value in self.networks.state_dict().items()}
        self.networks.load_state_dict(self.average)
        return self.networks.eval()

    def restore(self) -> None:
        """Back to the weights in training."""
        self.networks.load_state_dict(self._live)
        self.networks.train()

    def save(self) -> None:
        """Write the checkpoint: whole, or the old one stays."""
        tensors = {f"network.{key}": value for key, value in self.networks.state_dict().items()}
        tensors |= {f"average.{key}": value for key, value in self.average.items()}
        for index, parameter in enumerate(self.parameters):
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{index}.{key}"] = torch.as_tensor(value)
        state = {"step": str(self.step), "minutes": str(self.minutes_done)}
        part = self.out / f"{self.name}.safetensors.part"
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, part, metadata=state)
        os.replace(part, self._path)

    @property
    def _path(self) -> Path:
        return self.out / f"{self.name}.safetensors"

    def _resume(self) -> None:
        if not self._path.exists():
            return
        tensors = load_file(self._path, device=str(self.device))
        with safe_open(self._path, "pt") as file:
            state = file.metadata()
        self.step, self.minutes_done = int(state["step"]), float(state["minutes"])
        self.networks.load_state_dict(below("network.", tensors))
        for key, value in self.average.items():
            value.copy_(tensors[f"average.{key}"])
        for index, parameter in enumerate(self.parameters):
            if found := below(f"optimizer.{index}.", tensors):
                # The fused optimiser walks raw memory: moments must lie as their parameter does.
                moments = {
                    key: torch.empty_like(parameter).copy_(value) for key, value in found.items() if key != "step"
                }
                step = found["step"] if self.device.type == "cuda" else found["step"].cpu()
                self.optimizer.state[parameter] = {"step": step, **moments}
        print(f"{self.name}: going on from step {self.step}, {self.minutes_done:.1f} minutes in", flush=True)


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number among them."""
    return dist.get_rank() if dist.is_initialized() else 0


def agreed(number: float) -> float:
    """The first process's number, in all of them: the learning rate and the end follow from it."""
    if processes() == 1:
        return number
    shared = torch.tensor(number, dtype=torch.float64)
    dist.broadcast(shared, src=0)
    return float(shared)


def below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def averaged_network(out: Path, stage: str, name: str, network: Any) -> Any:
    """Load one network's moving average from a stage's checkpoint."""
    tensors = load_file(out / f"{stage}.safetensors")
    network.load_state_dict(below(f"average.{name}.", tensors))
    return network.eval().requires_grad_(False)


def generator(device: torch.device, *parts: int | str) -> torch.Generator:
    """Draws that follow from `parts` and the process's number alone."""
    return torch.Generator(device).manual_seed(derive_seed(*parts, rank()))


def layout(device: torch.device) -> torch.memory_format:
    """Channels last is the fast one on a GPU, and six times slower than the plain one for bfloat16 on a CPU."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format
