"""`distillery translate` among a person's own files: nothing of theirs is overwritten, and nothing is made twice."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from small_runs import command
from tiny_model import EDITS, noise, properties, write_model

from inference.results import LIST
from inference.runtime import Translator

SUFFIX = "_red-leather.png"


def put(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(16, 24, seed)).save(path, "PNG")
    return path


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def run(model: Path, *given: str | Path, out: Path, strength: float = 1, edit: str = "red leather") -> Result:
    return command("translate", model, *given, "--edit", edit, "--strength", str(strength), "--out", out)


def names(folder: Path) -> list[str]:
    """All but the list and the sheet."""
    found = (
        path for path in folder.rglob("*") if path.is_file() and not path.name.startswith((".", "contact_sheet"))
    )
    return sorted(path.relative_to(folder).as_posix() for path in found)


def state(path: Path) -> tuple[bytes, int]:
    return path.read_bytes(), path.stat().st_mtime_ns


def test_results_lie_beside_the_originals(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "photos" / "2024" / "a.png")
    put(tmp_path / "photos" / "b.png")
    monkeypatch.chdir(tmp_path / "photos")
    assert run(model, ".", out=Path()).exit_code == 0
    after_one = names(tmp_path / "photos")
    assert after_one == ["2024/a.png", f"2024/a{SUFFIX}", "b.png", f"b{SUFFIX}"]
    for given in (["."], ["*.png", "2024"], [*Path().glob("*.png"), "2024"]):  # the last is what a shell makes of *
        again = run(model, *given, out=Path())
        assert again.exit_code == 0 and "skipped: " in again.stderr
        assert names(tmp_path / "photos") == after_one


def test_an_out_folder_above_the_images(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "photos" / "2024" / "a.png")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run(model, "photos/2024", out=Path("photos")).exit_code == 0
        assert names(tmp_path) == ["photos/2024/a.png", f"photos/a{SUFFIX}"]
    assert run(model, "photos", out=Path("photos")).exit_code == 0
    assert names(tmp_path) == ["photos/2024/a.png", f"photos/a{SUFFIX}"]


def test_a_file_of_the_same_name_is_not_overwritten(model: Path, tmp_path: Path) -> None:
    source, own = put(tmp_path / "a.png"), put(tmp_path / f"a{SUFFIX}", 1)
    sheet, link = put(tmp_path / "contact_sheet.png", 2), tmp_path / "b.png"
    link.symlink_to(put(tmp_path / "elsewhere" / "x.png", 3))
    (tmp_path / f"b{SUFFIX}").symlink_to(own)
    before = {path: state(path) for path in (source, own, sheet, tmp_path / "elsewhere" / "x.png")}
    for _ in range(2):
        result = run(model, source, link, out=tmp_path)
        assert result.exit_code == 0, result.output
        assert {path: state(path) for path in before} == before
        assert (tmp_path / f"b{SUFFIX}").is_symlink()
        made = [tmp_path / f"a-png{SUFFIX}", tmp_path / f"b-png{SUFFIX}", tmp_path / "contact_sheet-2.png"]
        assert result.stdout.split() == [str(path) for path in made]
    translator = Translator.load(model)
    assert np.array_equal(pixels(made[0]), translator(source, "red leather"))
    assert np.array_equal(pixels(made[1]), translator(link, "red leather"))


def test_a_result_that_somebody_changed_is_theirs(model: Path, tmp_path: Path) -> None:
    source, out = put(tmp_path / "a.png"), tmp_path / "out"
    run(model, source, out=out)
    result, times = out / f"a{SUFFIX}", os.stat(out / f"a{SUFFIX}")
    retouched = bytearray(result.read_bytes())
    retouched[-5] ^= 1  # of the same size, and its old time put back
    result.write_bytes(retouched)
    os.utime(result, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert run(model, source, out=out, strength=0.5).exit_code == 0
    assert result.read_bytes() == retouched
    assert np.array_equal(pixels(out / f"a-png{SUFFIX}"), Translator.load(model)(source, "red leather", 0.5))


def test_what_has_changed_is_made_again(model: Path, tmp_path: Path) -> None:
    source, out = put(tmp_path / "a.png"), tmp_path / "out"
    other = write_model(tmp_path / "other.onnx", properties(edits=dict(reversed(EDITS.items()))))

    def made(*arguments: object, **options: object) -> bool:
        before = state(out / f"a{SUFFIX}")
        result = run(*arguments, out=out, **options)  # type: ignore[arg-type]
        assert result.exit_code == 0 and names(out) == [f"a{SUFFIX}"]
        skipped = "skipped: 1 results, made already" in result.stderr
        assert skipped == (state(out / f"a{SUFFIX}") == before)
        return not skipped

    run(model, source, out=out)
    assert not made(model, source)
    assert made(model, source, strength=0.5) and made(model, source) and not made(model, source)
    assert made(other, source) and made(model, source)
    shutil.copy(model, tmp_path / "copy.onnx")
    assert not made(tmp_path / "copy.onnx", source), "the same model under another name"
    os.utime(source)
    assert not made(model, source), "touched, and the same image"
    times = source.stat()
    put(tmp_path / "a.png", 1)  # noise of the same size
    os.truncate(source, max(times.st_size, source.stat().st_size))
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert made(model, source), "another image, with the time of the first"
    assert np.array_equal(pixels(out / f"a{SUFFIX}"), Translator.load(model)(source, "red leather"))


def test_a_stopped_batch_goes_on(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    for number in range(5):
        put(photos / f"{number}.png", number)
    call, calls = Translator.__call__, []

    def stop_at_three(self: Translator, images: object, *more: object) -> object:
        calls.append(images)
        if len(calls) == 4:  # the first is the check without images
            raise KeyboardInterrupt
        return call(self, images, *more)  # type: ignore[call-overload]

    monkeypatch.setattr(Translator, "__call__", stop_at_three)
    assert run(model, photos, out=out).exit_code == 1
    assert names(out) == [f"{number}{SUFFIX}" for number in range(2)]
    with (out / LIST).open("a") as listed:
        listed.write('{"file": "half a li')  # as a killed process leaves it
    calls[:] = [None] * 10
    result = run(model, photos, out=out)
    assert result.exit_code == 0 and "skipped: 2 results, made already" in result.stderr
    assert len(calls) == 10 + 1 + 3
    assert names(out) == [f"{number}{SUFFIX}" for number in range(5)]
    assert len(result.stdout.split()) == 6
    result = run(model, photos, out=out)
    assert "skipped: 5 results, made already" in result.stderr, "nor does half a line hide the one after it"


def test_folders_and_results_may_be_moved(model: Path, tmp_path: Path) -> None:
    put(tmp_path / "old" / "photos" / "a.png")
    run(model, tmp_path / "old" / "photos", out=tmp_path / "old" / "out")
    (tmp_path / "old").rename(tmp_path / "new")
    result = run(model, tmp_path / "new" / "photos", out=tmp_path / "new" / "out")
    assert "skipped: 1 results" in result.stderr
    (tmp_path / "new" / "photos").rename(tmp_path / "elsewhere")
    result = run(model, tmp_path / "elsewhere", out=tmp_path / "new" / "out")
    assert "skipped: 1 results" in result.stderr and names(tmp_path / "new" / "out") == [f"a{SUFFIX}"]
    # A renamed result beside its original is a result still.
    run(model, tmp_path / "elsewhere", out=tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / f"a{SUFFIX}").rename(tmp_path / "elsewhere" / "best.png")
    run(model, tmp_path / "elsewhere", out=tmp_path / "third")
    assert names(tmp_path / "third") == [f"a{SUFFIX}"]


def test_two_images_of_one_content_get_a_result_each(model: Path, tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    shutil.copy2(tmp_path / "a.png", tmp_path / "b.png")
    for strength in (1, 0):
        run(model, tmp_path / "a.png", tmp_path / "b.png", out=tmp_path / "out", strength=strength)
        assert names(tmp_path / "out") == [f"a{SUFFIX}", f"b{SUFFIX}"]


def test_copies_at_strength_0_do_not_hide_the_original(model: Path, tmp_path: Path) -> None:
    source = put(tmp_path / "a.png")
    for _ in range(2):
        assert run(model, tmp_path, out=tmp_path, strength=0).exit_code == 0
        assert names(tmp_path) == ["a.png", f"a{SUFFIX}"]
        assert (tmp_path / f"a{SUFFIX}").read_bytes() == source.read_bytes()


def test_one_edit_may_follow_another(model: Path, tmp_path: Path) -> None:
    put(tmp_path / "photos" / "a.png")
    run(model, tmp_path / "photos", out=tmp_path / "once")
    result = run(model, tmp_path / "once", out=tmp_path / "twice", edit="blue fabric")
    assert result.exit_code == 0 and names(tmp_path / "twice") == ["a_red-leather_blue-fabric.png"]
    assert "left out, as made by an earlier call: 1" in result.stderr  # the contact sheet
    nothing = run(model, tmp_path / "once", out=tmp_path / "once")
    assert nothing.exit_code == 2 and "all images are results of earlier calls" in nothing.stderr


def test_equal_stems_get_names_of_their_own(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(["100/IMG_1.JPG", "101/IMG_1.JPG", "101/img_1.png", "101/b.gif", "x/b.png"]):
        put(tmp_path / "DCIM" / name, number)
    monkeypatch.chdir(tmp_path)
    expected = [
        *("100/IMG_1_red-leather.png", "101/IMG_1_red-leather.png", "101/b_red-leather.png"),
        *("101/img_1-png_red-leather.png", "x/b_red-leather.png"),
    ]
    for out, given in (("a", ["DCIM"]), ("b", ["DCIM/*/*"]), ("c", sorted(Path("DCIM").glob("*/*")))):
        for _ in range(2):
            assert run(model, *given, out=Path(out)).exit_code == 0
            assert names(Path(out)) == expected
    for name in expected:
        image = Path("DCIM", name.replace("_red-leather.png", ".png").replace("-png", ""))
        source = next(path for path in image.parent.iterdir() if path.stem == image.stem)
        assert np.array_equal(pixels(Path("c", name)), Translator.load(model)(source, "red leather"))


def test_edits_of_equal_file_names_and_cases(tmp_path: Path) -> None:
    edits = {"a b": "1", "a-b": "2"}
    model = write_model(tmp_path / "model.onnx", properties(edits=edits))
    put(tmp_path / "photos" / "A.png", 0)
    put(tmp_path / "photos" / "a.PNG", 1)
    out = tmp_path / "out"
    result = run(model, tmp_path / "photos", out=out, edit="all")
    assert result.exit_code == 0
    made = names(out)
    assert len({name.casefold() for name in made}) == len(made) == 4, "some file systems take A.png and a.png for one"
    translator = Translator.load(model)
    wanted = [translator(path, edit) for path in sorted((tmp_path / "photos").iterdir()) for edit in edits]
    found = [pixels(Path(line)) for line in result.stdout.splitlines()[:4]]
    assert all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_long_and_odd_names_stop_no_other(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.onnx", properties(edits={"冬" * 100: "1", "b/../c": "2"}))
    photos, out = tmp_path / "photos", tmp_path / "out"
    put(photos / f"{'x' * 240}1.png")
    put(photos / f"{'x' * 240}2.png")
    put(Path(os.fsdecode(os.fsencode(photos) + b"/caf\xe9.png")))
    result = run(model, photos, out=out, edit="all")
    assert result.exit_code == 0, result.output
    assert len(names(out)) == 6 and not (tmp_path / "c.png").exists()
    again = run(model, photos, out=out, edit="all")
    assert "skipped: 6 results" in again.stderr


def test_bad_files_cost_a_line_each(model: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    put(photos / "a.png")
    (photos / "b.png").write_bytes(b"no image")
    (photos / "c.png").symlink_to("nowhere.png")
    (photos / "loop").symlink_to(photos)
    put(photos / "old" / "d.png")
    out.mkdir()
    (out / "old").write_text("mine")  # a file where a folder should go
    for folder in ("@eaDir", ".hidden"):
        put(photos / folder / "e.png")
    put(photos / "._a.png")
    result = run(model, photos, photos / "a.png", out=out)
    assert result.exit_code == 2 and names(out) == [f"a{SUFFIX}", "old"]
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3 and (out / "old").read_text() == "mine"
    for name in ("b.png", "c.png is a link to nothing", "old cannot be made: "):
        assert any(name in line for line in errors), name


def test_a_list_from_elsewhere_is_data(model: Path, tmp_path: Path) -> None:
    """A list that claims a person's file cannot make it a result, unless it knows the very bytes."""
    source, own = put(tmp_path / "a.png"), put(tmp_path / f"a{SUFFIX}", 1)
    claim = dict.fromkeys(("file_state", "sha256", "source_state", "source_sha256", "key"), "0")
    lines = [claim | {"file": own.name, "source": "a.png", "label": "translate red leather"}, [], 3, {"file": 1}]
    (tmp_path / LIST).write_text("\n".join(json.dumps(line) for line in lines))
    before = state(own)
    assert run(model, source, out=tmp_path).exit_code == 0
    assert state(own) == before and f"a-png{SUFFIX}" in names(tmp_path)
