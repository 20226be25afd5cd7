"""What networks run on: torch's build and devices, ONNX Runtime's providers."""

from collections.abc import Iterator
from typing import Any

from flows.doctor.findings import Finding, Level, gigabytes, short
from flows.doctor.packages import import_failure, installed_version, try_import
from inference.idle_gpu import idle_gpu
from synth.cpu import has_nvidia_driver
from synth.errors import first_line

_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-silicon")


def torch() -> Iterator[Finding]:
    """Torch's build, and each device that it finds, tried."""
    if installed_version("torch") is None:
        yield Finding("torch", "not installed: model files run without it")
        return
    yield from import_failure("torch")
    if (module := try_import("torch").module) is None:
        return
    version, installed = str(module.__version__), installed_version("torch") or ""
    if version.partition("+")[0] != installed.partition("+")[0]:
        yield Finding("torch", f"imports as {version}, is installed as {installed}: install it again", Level.BROKEN)
    yield Finding("torch", f"{version}, {_build(module)}, {module.get_num_threads()} threads")
    yield from _cuda(module)
    if module.backends.mps.is_available():
        yield _tried(module, "mps", "Apple's GPU")


def _build(module: Any) -> str:
    for name, version in (("CUDA", module.version.cuda), ("ROCm", module.version.hip)):
        if version:
            return f"built for {name} {version}"
    return "built for Apple's GPUs" if module.backends.mps.is_built() else "built for the CPU alone"


def _cuda(module: Any) -> Iterator[Finding]:
    """NVIDIA's and AMD's GPUs: torch calls both cuda."""
    there = has_nvidia_driver()
    if not (module.version.cuda or module.version.hip):
        if there:
            yield Finding("GPU", "this machine has NVIDIA's driver, and this torch is built without CUDA", Level.NOTE)
        return
    if not module.cuda.is_available():
        try:
            module.cuda.init()
            reason = "there is none"
        except Exception as error:  # RuntimeError, AssertionError, ... by what is wrong with the driver
            reason = first_line(error)
        yield Finding("GPU", f"torch cannot use one: {reason}", Level.BROKEN if there else Level.OK)
        return
    for index in range(module.cuda.device_count()):
        properties = module.cuda.get_device_properties(index)
        description = f"{properties.name}, {gigabytes(properties.total_memory)}"
        if module.version.cuda:
            description += f", compute capability {properties.major}.{properties.minor}"
        yield _tried(module, f"cuda:{index}", description)


def _tried(module: Any, device: str, description: str) -> Finding:
    """One small computation: a device that is listed may still refuse to run this build's kernels."""
    try:
        right = bool((module.ones(2, device=device) * 2).sum().item() == 4)
    except Exception as error:  # torch has no class for it
        return Finding(device, f"{description}: does not compute: {first_line(error)}", Level.BROKEN)
    return Finding(device, description) if right else Finding(device, f"{description}: 2 x 2 is not 4", Level.BROKEN)


def onnx_runtime() -> Iterator[Finding]:
    """The installed builds of ONNX Runtime, and its providers."""
    installed = [f"{name} {version}" for name in _RUNTIMES if (version := installed_version(name))]
    if len(installed) > 1:
        advice = "share their files: uninstall all of them, then install one"
        yield Finding("ONNX Runtime", f"{' and '.join(installed)} {advice}", Level.BROKEN)
    if not installed:
        advice = 'pip install "dds-distillery[cpu]", or "dds-distillery[gpu]" on a machine with CUDA'
        yield Finding("ONNX Runtime", f"not installed, and model files need it: {advice}", Level.NOTE)
        return
    yield from import_failure("onnxruntime")
    if (module := try_import("onnxruntime").module) is not None:
        names = [name.removesuffix("ExecutionProvider") for name in module.get_available_providers()]
        yield Finding("ONNX Runtime", f"{module.__version__}, providers {', '.join(names)}")
        if "CUDA" not in names and (line := idle_gpu()) is not None:
            yield Finding("ONNX Runtime", line, Level.NOTE)


def models(paths: tuple[str, ...]) -> Iterator[Finding]:
    """Open model files, or those that pointers name, as `translate` would."""
    for path in paths:
        try:
            from inference.pointer import resolved
            from inference.runtime import Translator

            translator = Translator.load(resolved(path))
        except Exception as error:  # the runtime's own errors, or a package that it cannot import
            yield Finding("model file", first_line(error), Level.BROKEN)  # it names the file
        else:
            provider = translator.providers[0].removesuffix("ExecutionProvider")
            edits = f"{len(translator.edits)} edits ({', '.join(translator.edits)})"
            yield Finding("model file", f"{short(path)}: {edits}, on {provider}")
