"""Finding a teacher: what is refused, in one line, and on the Hub before any weights are fetched."""

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
import torch
from diffusers import EDMEulerScheduler

from synth.errors import TeacherError
from synth.settings import TeacherSettings
from synth.teacher.teacher import Teacher

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def load(name: Path | str, **settings: Any) -> Teacher:
    return Teacher.load(TeacherSettings(id=str(name), **{"device": "cpu", **settings}))


def refusal(name: Path | str, **settings: Any) -> str:
    with pytest.raises(TeacherError) as caught:
        load(name, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


class Hub(BaseHTTPRequestHandler):
    """The few answers of the Hub that a download asks for, from folders on this machine."""

    folders: dict[str, Path]
    gated: set[str]
    asked: list[str]

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        api, _, rest = path.partition("/api/models/")
        name = next((name for name in self.folders if f"/{name}/" in f"{path}/"), None)
        if name is None:
            return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        folder = self.folders[name]
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        if not api and rest:
            names = [str(file.relative_to(folder)) for file in files]
            listed: Any = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": each} for each in names]}
            if "/tree/" in rest:
                listed = [
                    {"type": "file", "path": each, "size": file.stat().st_size, "oid": f"{number:040x}"}
                    for number, (each, file) in enumerate(zip(names, files, strict=True))
                ]
            elif not rest.endswith(("/main", COMMIT, name)):
                return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return self.answer(200, json.dumps(listed).encode(), {"Content-Type": "application/json"})
        if name in self.gated:
            return self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
        file = folder / path.split(f"/resolve/{COMMIT}/")[1]
        self.asked.append(str(file.relative_to(folder)))
        etag = {"ETag": f'"{files.index(file):040x}"', "X-Repo-Commit": COMMIT}
        return self.answer(200, file.read_bytes(), etag)

    do_HEAD = do_GET

    def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A Hub on this machine's own loopback."""
    handler = type("Handler", (Hub,), {"folders": {}, "gated": set(), "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    for name, value in {
        "ENDPOINT": endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    yield handler
    server.shutdown()
    server.server_close()


def weights(asked: list[str]) -> list[str]:
    return sorted({name for name in asked if name.endswith(".safetensors")})


def test_only_the_components_in_use_are_downloaded(hub: type[Hub], tiny_sd_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_sd_folder, tmp_path / "there"))
    whole = folder / "unet" / "diffusion_pytorch_model.safetensors"
    for unused in (
        "diffusion_pytorch_model.fp16.safetensors",
        "diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
    ):
        shutil.copy(whole, whole.with_name(unused))
    shutil.copy(whole, folder / "v1-5-pruned.safetensors")
    hub.folders["someone/tiny"] = folder
    teacher = load("someone/tiny")
    assert teacher.fingerprint == load(tiny_sd_folder).fingerprint
    assert weights(hub.asked) == [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    hub.asked.clear()
    assert load("someone/tiny").fingerprint == teacher.fingerprint
    assert not weights(hub.asked)


def test_the_hub_s_refusals_come_before_any_weights(hub: type[Hub], tiny_3_folder: Path, tmp_path: Path) -> None:
    """What the Hub refuses is reported before any weights are fetched."""
    hub.folders["someone/three"] = tiny_3_folder
    hub.gated.add("someone/three")
    assert "someone/three is gated: accept its licence at" in refusal("someone/three")
    assert "there is no model 'nobody/nothing'" in refusal("nobody/nothing")
    assert "no such revision" in refusal("someone/three", revision="v9")

    pickled = Path(shutil.copytree(tiny_3_folder, tmp_path / "pickled"))
    (pickled / "text_encoder_2" / "model.safetensors").rename(pickled / "text_encoder_2" / "model.bin")
    hub.folders["someone/pickled"] = pickled
    assert "someone/pickled has no safetensors in text_encoder_2/" in refusal("someone/pickled")

    lora = tmp_path / "lora"
    lora.mkdir()
    (lora / "pytorch_lora_weights.safetensors").write_bytes(b"weights")
    hub.folders["someone/lora"] = lora
    assert "someone/lora has no model_index.json: it is a single network" in refusal("someone/lora")
    assert not weights(hub.asked)


def test_t5_is_fetched_only_where_it_is(hub: type[Hub], tiny_3_folder: Path, tmp_path: Path) -> None:
    """T5 is fetched where it is and not missed where it is not."""
    hub.folders["someone/three"] = tiny_3_folder
    assert load("someone/three").pipeline.text_encoder_3 is not None
    without = Path(shutil.copytree(tiny_3_folder, tmp_path / "without"))
    shutil.rmtree(without / "text_encoder_3")
    assert load(without).pipeline.text_encoder_3 is None


@pytest.mark.parametrize(
    "kind",
    [
        "StableDiffusionInpaintPipeline",
        "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionInstructPix2PixPipeline",
        "WanPipeline",
        "AudioLDM2Pipeline",
        "FluxPipeline",
        "SomethingPipeline",
        ["pipeline", "TheirOwnPipeline"],
    ],
)
def test_pipelines_of_another_kind(tiny_sd_folder: Path, tmp_path: Path, kind: Any) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    shutil.copy(tiny_sd_folder / "model_index.json", folder)  # and nothing else: no more is looked at
    change_json(folder / "model_index.json", _class_name=kind)
    told = refusal(folder)
    assert f"is a {kind}" in told or "of its own making" in told
    assert "text-to-image Stable Diffusion 1.x, 2.x, XL or 3" in told


def test_pipelines_that_lack_something(
    tiny_sd_folder: Path, tiny_xl_folder: Path, tiny_3_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_sd_folder, tmp_path / "sd"))
    change_json(folder / "model_index.json", _class_name="StableDiffusionXLPipeline")
    assert "has no text_encoder_2: it is not a whole pipeline" in refusal(folder)

    folder = Path(shutil.copytree(tiny_xl_folder, tmp_path / "xl"))
    index = json.loads((folder / "model_index.json").read_text())
    kept = (folder / "scheduler" / "scheduler_config.json").read_text()
    EDMEulerScheduler().save_pretrained(folder / "scheduler")
    change_json(folder / "model_index.json", scheduler=["diffusers", "EDMEulerScheduler"])
    assert "runs under EDMEulerScheduler, which has no alpha_bar" in refusal(folder)
    change_json(folder / "model_index.json", scheduler=index["scheduler"])
    (folder / "scheduler" / "scheduler_config.json").write_text(kept)
    only_half = folder / "unet" / "diffusion_pytorch_model.safetensors"
    only_half.rename(only_half.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert "has no safetensors in unet/" in refusal(folder)

    folder = Path(shutil.copytree(tiny_3_folder, tmp_path / "three"))
    change_json(folder / "model_index.json", scheduler=["diffusers", "DDIMScheduler"])
    assert "runs under DDIMScheduler, and Stable Diffusion 3 needs flow matching" in refusal(folder)
    change_json(folder / "transformer" / "config.json", in_channels=13)
    assert "takes 13 channels and its VAE makes 6" in refusal(folder)


def test_t5_is_left_out_where_it_is_not_wanted(hub: type[Hub], tiny_3_folder: Path) -> None:
    hub.folders["someone/three"] = tiny_3_folder
    light = load("someone/three", t5=False)
    assert light.pipeline.text_encoder_3 is None and light.pipeline.tokenizer_3 is None
    assert weights(hub.asked) and not any("text_encoder_3" in name for name in weights(hub.asked))
    whole = load("someone/three")
    assert light.fingerprint != whole.fingerprint
    with_t5, without = (each.encode_prompt(["a red sofa"]).prompt_embeds for each in (whole, light))
    num_clip = 77
    assert torch.equal(with_t5[:, :num_clip], without[:, :num_clip])
    assert not without[:, num_clip:].any() and with_t5[:, num_clip:].any()


@pytest.mark.parametrize(
    ("tiny", "name"), [("tiny_xl_folder", "sdxl-turbo"), ("tiny_3_folder", "stable-diffusion-3.5-large-turbo")]
)
def test_large_turbo_models_paint_but_do_not_teach(
    tiny: str, name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Turbo kinds of the larger families paint but do not teach."""
    teacher = load(shutil.copytree(request.getfixturevalue(tiny), tmp_path / name))
    assert (teacher.defaults.num_inference_steps, teacher.defaults.guidance_scale) == (4, 1.0)
    with pytest.raises(TeacherError, match="cannot serve as a scorer"):
        teacher.require_scorer()


def test_the_cache_s_large_files_are_known_by_name(tiny_sd_folder: Path, tmp_path: Path) -> None:
    """There a file is a link to a blob that is called after its content."""
    folder, blobs = tmp_path / "snapshot", tmp_path / "blobs"
    shutil.copytree(tiny_sd_folder, folder)
    blobs.mkdir()
    for file in folder.rglob("*.safetensors"):
        blob = blobs / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.move(file, blob)
        file.symlink_to(blob)
    assert load(folder).fingerprint == load(tiny_sd_folder).fingerprint
