"""Videos through a model: every frame edited at its own time, and all else as it was."""

import importlib.util
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import command
from tiny_model import properties, write_model

from inference.runtime import Translator

pytest.importorskip("av", reason="the extra `video` is not installed")

from small_videos import NUM_FRAMES, SIZE, Seen, picture, see, write_video

EDIT, NAMES = "red leather", ("red-leather", "blue-fabric")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx", properties(name="rooms"))


@pytest.fixture(scope="module")
def translator(model: Path) -> Translator:
    return Translator.load(model, num_threads=1)


def edited(model: Path, clip: Path, *options: str | Path, name: str | None = None) -> Path:
    """Edit a clip by the command; the result's path."""
    out = clip.parent / "edited"
    result = command("translate", model, clip, "--edit", EDIT, "--out", out, *options)
    assert result.exit_code == 0, result.output
    return out / (name or f"{clip.stem}_red-leather{clip.suffix}")


def check_all_but_pixels(before: Seen, after: Seen) -> None:
    assert after.times == pytest.approx(before.times, abs=1e-6)
    assert after.rate == before.rate
    assert after.sound == before.sound and before.sound
    assert after.sound_times == pytest.approx(before.sound_times, abs=1e-6)
    assert after.title == before.title == "quarters"


def check_pixels(translator: Translator, before: list[np.ndarray], after: list[np.ndarray], levels: float) -> None:
    """The mean difference of each frame from what a translator makes of the decoded one, of 255."""
    assert len(after) == len(before)
    for one, other in zip(before, after, strict=True):
        wanted = translator(one, EDIT)
        assert other.shape == wanted.shape
        assert np.abs(wanted.astype(int) - other).mean() < levels
        # The edit is to be seen: without it the left half would be off by this much.
        assert np.abs(one.astype(int) - other)[:, : one.shape[1] // 2].mean() > 20


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("clip.mp4", {}),
        ("clip.m4v", {}),
        ("clip.mov", {"sound": "pcm_s16le"}),
        ("clip.mkv", {"sound": "flac"}),
        ("clip.webm", {"codec": "libvpx-vp9", "sound": "libopus"}),
    ],
)
def test_a_container_and_its_sound_stay(
    name: str, options: dict[str, str], model: Path, translator: Translator, tmp_path: Path
) -> None:
    clip = write_video(tmp_path / name, **options)
    before, after = see(clip), see(edited(model, clip))
    check_all_but_pixels(before, after)
    assert len(after.frames) == NUM_FRAMES and after.duration == pytest.approx(before.duration, abs=0.025)
    check_pixels(translator, before.frames, after.frames, 5)
    assert after.codec == ("vp9" if name == "clip.webm" else "h264")
    assert after.bytes_of_index_first == (name.split(".")[1] in ("mp4", "m4v", "mov"))


@pytest.mark.parametrize(
    ("name", "options", "made"),
    [
        ("old.avi", {"codec": "mpeg4", "sound": "mp3"}, "old_red-leather.mp4"),
        ("wave.avi", {"codec": "mpeg4", "sound": "pcm_u8"}, "wave_red-leather.mkv"),
    ],
)
def test_other_containers_become_mp4_or_mkv(
    name: str, options: dict[str, str], made: str, model: Path, tmp_path: Path
) -> None:
    clip = write_video(tmp_path / name, **options)
    before, after = see(clip), see(edited(model, clip, name=made))
    assert after.sound == before.sound and before.sound
    assert after.times == pytest.approx(before.times, abs=0.001)


def test_a_transport_stream_starts_at_zero(model: Path, tmp_path: Path) -> None:
    """By its content: `.ts` is the ending of programs, too."""
    clip = write_video(tmp_path / "clip.ts", options={"muxdelay": "1.4"})
    before, after = see(clip), see(edited(model, clip, name="clip_red-leather.mp4"))
    assert len(after.frames) == NUM_FRAMES and len(after.sound) == len(before.sound)
    assert min(after.times[0], after.sound_times[0]) == pytest.approx(0, abs=0.03)
    assert np.diff(after.times) == pytest.approx(np.diff(before.times), abs=0.001)
    assert after.sound_times[0] - after.times[0] == pytest.approx(before.sound_times[0] - before.times[0], abs=0.001)


def test_uneven_times_stay(model: Path, tmp_path: Path) -> None:
    times = (0, 1, 2, 5, 6, 14, 15, 16, 17, 30, 31, 33)
    clip = write_video(tmp_path / "clip.mp4", times=times)
    before, after = see(clip), see(edited(model, clip))
    check_all_but_pixels(before, after)
    assert after.times == pytest.approx([time / 24 for time in times], abs=1e-4)
    assert after.duration == pytest.approx(before.duration, abs=0.001)


@pytest.mark.parametrize(
    ("turn", "upright"),
    [
        ((90, False, False), lambda stored: np.rot90(stored)),
        ((-90, False, False), lambda stored: np.rot90(stored, -1)),
        ((180, False, False), lambda stored: np.rot90(stored, 2)),
        ((0, True, False), lambda stored: stored[:, ::-1]),
        ((0, False, True), lambda stored: stored[::-1]),
    ],
)
def test_what_a_phone_turned_is_edited_upright(
    turn: tuple[float, bool, bool], upright, model: Path, translator: Translator, tmp_path: Path
) -> None:
    """The model adds its color to the left half of what is seen, and no player has anything left to turn."""
    clip = write_video(tmp_path / "clip.mp4", turn=turn, sample_aspect_ratio=Fraction(4, 3))
    before, after = see(clip), see(edited(model, clip))
    assert before.turned and not after.turned
    check_pixels(translator, [upright(frame) for frame in before.frames], after.frames, 5)
    is_across = abs(turn[0]) == 90
    assert after.pixel_aspect == (1 / before.pixel_aspect if is_across else before.pixel_aspect)
    assert before.pixel_aspect == Fraction(4, 3)


@pytest.mark.parametrize("colors", [(1, 1, 1, 1), (1, 2, 1, 1), (6, 1, 6, 6), (2, 0, 2, 2)])
def test_what_a_video_says_of_its_colors_stays(
    colors: tuple[int, int, int, int], model: Path, translator: Translator, tmp_path: Path
) -> None:
    space, range_, transfer, primaries = colors
    tags = {"colorspace": space, "color_range": range_, "color_trc": transfer, "color_primaries": primaries}
    clip = write_video(tmp_path / "clip.mp4", **tags)
    before, after = see(clip), see(edited(model, clip))
    # H.264 says nothing of the narrow range where it says nothing else.
    assert after.colors == before.colors
    assert np.abs(before.frames[0].astype(int) - picture(0)).mean() < 5
    check_pixels(translator, before.frames, after.frames, 5)


def test_odd_sides_work(model: Path, translator: Translator, tmp_path: Path) -> None:
    """VP9 has them; for H.264 there is a line of pixels twice."""
    webm = write_video(tmp_path / "a.webm", (63, 47), codec="libvpx-vp9", sound="libopus")
    check_pixels(translator, see(webm).frames, see(edited(model, webm)).frames, 6)
    clip = write_video(tmp_path / "b.mkv", (63, 47), codec="ffv1")
    result = command("translate", model, clip, "--edit", EDIT, "--out", tmp_path / "out")
    assert f"note: {clip}: its odd sides become even" in result.stderr
    after = see(tmp_path / "out" / "b_red-leather.mkv").frames
    assert after[0].shape == (48, 64, 3)
    check_pixels(translator, see(clip).frames, [frame[:47, :63] for frame in after], 8)
    one = write_video(tmp_path / "c.mkv", (1, 1), times=(0,), codec="ffv1", sound=None)
    assert see(edited(model, one)).frames[0].shape == (2, 2, 3)


def test_ten_bits_become_eight_and_hdr_is_refused(model: Path, translator: Translator, tmp_path: Path) -> None:
    deep = write_video(tmp_path / "deep.mkv", codec="ffv1", pixels="yuv420p10le")
    hdr = write_video(tmp_path / "hdr.mkv", codec="ffv1", pixels="yuv420p10le", color_trc=18, colorspace=9)
    result = command("translate", model, deep, hdr, "--edit", EDIT, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert f"note: {deep}: its 10 bits a color become 8" in result.stderr
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert str(hdr) in error and "HDR" in error and "SDR" in error
    check_pixels(translator, see(deep).frames, see(tmp_path / "out" / "deep_red-leather.mkv").frames, 5)


def test_a_file_joined_from_two_goes_on_where_it_starts_anew(model: Path, tmp_path: Path) -> None:
    """As `cat a.mpg b.mpg` makes it: all times of the second part are those of the first again."""
    part = write_video(tmp_path / "part.mpg", codec="mpeg2video", sound="mp2")
    alone, clip = see(part), tmp_path / "joined.mpg"
    clip.write_bytes(2 * part.read_bytes())
    after = see(edited(model, clip, name="joined_red-leather.mp4"))
    assert len(after.frames) == 2 * len(alone.frames)
    steps = np.diff(after.times)
    assert steps.min() > 0.03 and steps.max() < 0.2, "the second part is neither crammed nor held"
    assert len(after.sound) == pytest.approx(2 * len(alone.sound), rel=0.01)


def test_what_a_container_refuses_ends_in_one_line(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And does not stop the others."""
    import av
    from PIL import Image

    from inference.media import video_target

    def refuse(self: object, packet: object) -> None:
        raise av.ArgumentError(22, "Invalid argument")

    clip = write_video(tmp_path / "clip.mp4")
    Image.new("RGB", (64, 64)).save(tmp_path / "still.png")
    monkeypatch.setattr(video_target.VideoWriter, "copy", refuse)
    result = command("translate", model, clip, tmp_path / "still.png", "--edit", EDIT, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert f"error: {clip} cannot be written again: Invalid argument" in result.stderr
    assert sorted(path.name for path in (tmp_path / "out").glob("*_red-leather*")) == ["still_red-leather.png"]


def test_each_edit_has_a_file_and_none_is_made_twice(model: Path, tmp_path: Path) -> None:
    """A folder with an image and a video in it, twice, and then with another strength."""
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "clip.mp4")
    Image.fromarray(picture()).save(tmp_path / "in" / "still.png")
    out = tmp_path / "in" / "out"
    arguments = ("translate", model, tmp_path / "in", "--edit", "all", "--out", out)
    first, second = command(*arguments), command(*arguments)
    names = {f"{stem}_{edit}{suffix}" for stem, suffix in (("clip", ".mp4"), ("still", ".png")) for edit in NAMES}
    assert {path.name for path in out.iterdir()} == {*names, "contact_sheet.png", ".distillery-results.jsonl"}
    assert "1 images, 1 videos, 2 edits" in first.stderr and "starts again from its beginning" in first.stderr
    assert second.exit_code == 0 and "skipped: 4 results, made already" in second.stderr
    sheet = np.asarray(Image.open(out / "contact_sheet.png")).astype(int)
    cell = sheet[48 : 48 + 144, 208 : 208 + 96]  # the clip's first edit, its left half: (0.4, -0.2, -0.2) of 2 more
    wanted = picture()[0, 0] + np.array((51, -25.5, -25.5))
    assert np.abs(cell[10:60, 10:80].mean((0, 1)) - wanted).max() < 8
    other_format = command(*arguments, "--format", "webp")
    assert "skipped: 2 results, made already" in other_format.stderr, "a format of images says nothing of videos"
    third = command(
        "translate", model, str(tmp_path / "in" / "*.mp4"), "--edit", EDIT, "--strength", "0.5", "--out", out
    )
    assert third.exit_code == 0 and "skipped" not in third.stderr


def test_strength_zero_copies_the_file(model: Path, tmp_path: Path) -> None:
    for name, options in (("clip.mp4", {}), ("old.avi", {"codec": "mpeg4", "sound": "mp3"})):
        clip = write_video(tmp_path / name, **options)
        assert edited(model, clip, "--strength", "0").read_bytes() == clip.read_bytes()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("moov.mp4", {}, "cannot be read as a video"),
        ("fast.mp4", {"options": {"movflags": "faststart"}}, "is cut short: its index names more than the file has"),
        ("clip.mkv", {}, "is cut short: it says that it lasts 0.5 s"),
        ("clip.webm", {"codec": "libvpx-vp9", "sound": "libopus"}, "is cut short: it says that it lasts 0.5 s"),
    ],
)
def test_a_cut_video_ends_in_one_line(
    name: str, options: dict[str, str], message: str, model: Path, tmp_path: Path
) -> None:
    clip = write_video(tmp_path / name, **options)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 6 // 10])
    check_refused(model, clip, message)


def check_refused(model: Path, clip: Path, message: str) -> None:
    """One line, exit code 2, and nothing written."""
    out = clip.parent / "out"
    result = command("translate", model, clip, "--edit", EDIT, "--out", out)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.exit_code == 2 and len(errors) == 1, result.output
    assert errors[0].startswith(f"error: {clip} {message}")
    assert not [path for path in out.rglob("*") if path.is_file()]


def test_what_is_no_video_ends_in_one_line(model: Path, tmp_path: Path) -> None:
    for number, content in enumerate((b"", b"no video", os.urandom(5000), b"\0\0\0\x18ftypisom" + bytes(500))):
        clip = tmp_path / f"{number}.mp4"
        clip.write_bytes(content)
        check_refused(model, clip, "cannot be read as a video: ")
    heard = tmp_path / "heard.mkv"
    write_video(tmp_path / "both.mkv")
    import av

    with av.open(str(tmp_path / "both.mkv")) as source, av.open(str(heard), "w") as output:
        copied = output.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = copied
                output.mux(packet)
    check_refused(model, heard, "cannot be read as a video: it has no pictures, only sound")


def test_a_playlist_opens_no_other_file(model: Path, tmp_path: Path) -> None:
    """FFmpeg takes it for a video, and would read what it names."""
    write_video(tmp_path / "secret.mp4")
    for name, text in (
        ("list.mp4", f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path / 'secret.mp4'}\n#EXT-X-ENDLIST\n"),
        ("concat.mp4", f"ffconcat version 1.0\nfile '{tmp_path / 'secret.mp4'}'\n"),
    ):
        (tmp_path / name).write_text(text)
        check_refused(model, tmp_path / name, "cannot be read as a video: ")


def test_a_stop_leaves_nothing_and_says_so(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from inference.media.video_target import VideoWriter

    clip, written = write_video(tmp_path / "clip.mp4"), []
    whole = VideoWriter.write

    def write(self: VideoWriter, *frame: object) -> None:
        written.append(frame)
        if len(written) == 5:
            raise KeyboardInterrupt
        whole(self, *frame)

    monkeypatch.setattr(VideoWriter, "write", write)
    result = command("translate", model, clip, "--edit", EDIT, "--out", tmp_path / "out")
    assert result.exit_code == 1 and len(written) == 5
    assert "stopped: what is written is whole, and what was in work starts again from its beginning" in result.stderr
    assert not list((tmp_path / "out").iterdir())
    monkeypatch.undo()
    assert len(see(edited(model, clip)).frames) == NUM_FRAMES


def test_a_full_disk_ends_in_one_line(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is always full, in place of the unfinished file."""
    from synth import files

    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    clips = [write_video(tmp_path / f"{name}.mkv") for name in "ab"]
    beside = files._beside

    def full(path: Path) -> Path:
        part = beside(path)
        part.symlink_to("/dev/full")
        return part

    monkeypatch.setattr(files, "_beside", full)
    monkeypatch.setattr(files.os, "open", lambda *_: os.dup(0))
    result = command("translate", model, *clips, "--edit", EDIT, "--out", tmp_path / "out")
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.exit_code == 2 and len(errors) == 2, result.output
    assert "No space left on device" in errors[0]
    assert errors[1] == "error: stopped before 1 more images: repeat the command"


def test_without_pyav_the_extra_is_named(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = write_video(tmp_path / "clip.mp4")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "av" else find(name, *more))
    check_refused(model, clip, 'is a video, which needs one more package: pip install "dds-distillery[video]"')
    Image.fromarray(picture()).save(tmp_path / "a.png")
    result = command("translate", model, tmp_path, "--edit", EDIT, "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert f'note: left out, videos: {clip}; they need one more package: pip install "dds-distillery[video]"' in (
        result.stderr
    )


def test_a_video_is_told_by_its_bytes(model: Path, translator: Translator, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4").rename(tmp_path / "holiday.jpg")
    after = see(edited(model, clip, name="holiday_red-leather.mp4"))
    check_pixels(translator, see(clip).frames, after.frames, 5)
    Image.fromarray(picture()).save(tmp_path / "still.mp4", "PNG")
    made = edited(model, tmp_path / "still.mp4", name="still_red-leather.png")
    assert Image.open(made).size == SIZE


def test_frames_are_counted(model: Path, tmp_path: Path) -> None:
    from inference.contact_sheet import ContactSheet
    from inference.inputs import Input
    from inference.media.translate import Edits, Outcome, translate_all
    from inference.results import Results

    counted: list[object] = []

    def progress(frames, path: Path, total: int | None):
        counted.append((path, total))
        for frame in frames:
            counted.append(frame.size)
            yield frame

    clip = write_video(tmp_path / "clip.mp4")
    edits = Edits(Translator.load(model), [EDIT], all_frames=True, progress=progress)
    outcome = Outcome()
    list(translate_all(edits, [Input(clip, Path("clip"))], Results(tmp_path / "o"), ContactSheet([EDIT]), outcome))
    assert not outcome.problems and counted == [(clip, NUM_FRAMES), *[SIZE] * NUM_FRAMES]
