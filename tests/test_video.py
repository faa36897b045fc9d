"""Reading videos: time stamps, rotation, damage, interlacing, odd formats, working size."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from moving_pictures import write_video

from endorecon.config import VideoConfig
from endorecon.errors import InputRefused, NotEnoughInformation
from endorecon.io import decode, video
from endorecon.scene import Camera


def pictures(count: int = 20, width: int = 160, height: int = 120, step: float = 3.0) -> np.ndarray:
    """Reddish noise that moves sideways, so that nothing is a duplicate."""
    rng = np.random.default_rng(0)
    base = cv2.GaussianBlur(rng.random((height, width + 400)).astype(np.float32), (0, 0), 2.0)
    base = (base - base.mean()) / base.std()
    out = []
    for k in range(count):
        move = np.array([[1, 0, -step * k], [0, 1, 0]], np.float32)
        grey = 110 + 30 * cv2.warpAffine(base, move, (width, height))
        out.append(np.clip(grey[..., None] * [1.3, 0.8, 0.7], 0, 255).astype(np.uint8))
    return np.stack(out)


def all_of(path: Path, **options: object) -> tuple[list[decode.Decoded], decode.Tally]:
    tally = decode.Tally()
    return list(decode.decode(path, tally, **options)), tally  # type: ignore[arg-type]


def test_every_frame_comes_with_its_own_index_and_time(tmp_path: Path) -> None:
    made = pictures()
    frames = video.read_frames(write_video(tmp_path / "v.mp4", made), VideoConfig())
    assert np.array_equal(frames.frame_index, np.arange(20))
    assert np.allclose(frames.time_s, np.arange(20) / 30, atol=1e-3)
    assert np.abs(frames.images.astype(int) - made).mean() < 5  # RGB, not BGR
    assert frames.summary[0].startswith("20 of 20 frames are used")


def test_a_variable_frame_rate_keeps_its_time_stamps(tmp_path: Path) -> None:
    times = np.cumsum(np.where(np.arange(20) % 3 == 0, 0.1, 0.02)).tolist()
    path = write_video(tmp_path / "v.mkv", pictures(), times=times)
    frames = video.read_frames(path, VideoConfig())
    assert np.allclose(np.diff(frames.time_s), np.diff(times), atol=2e-3)


def test_start_and_end_choose_by_time_and_keep_the_source_index(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", pictures())
    frames = video.read_frames(path, VideoConfig(), start=0.2, end=0.5)
    assert frames.frame_index.tolist() == list(range(6, 16))


@pytest.mark.parametrize(
    ("codec", "pixel_format", "size"),
    [
        ("libx264", "yuv420p10le", (160, 120)),
        ("libx264", "yuv444p", (161, 121)),
        ("libx264", "yuvj420p", (160, 120)),
        ("mjpeg", "yuvj422p", (161, 121)),
        ("ffv1", "yuv420p", (161, 121)),
    ],
)
def test_odd_sizes_ten_bits_and_full_range_keep_their_brightness(
    codec: str, pixel_format: str, size: tuple[int, int], tmp_path: Path
) -> None:
    made = pictures(10, *size)
    path = write_video(
        tmp_path / "v.mkv", made, codec=codec, pixel_format=pixel_format, options={"crf": "8"}
    )
    got, tally = all_of(path)
    assert len(got) == tally.decoded == 10 and not tally.partial
    assert got[0].image.shape == made[0].shape
    for k in (0, 9):
        assert np.abs(got[k].image.mean((0, 1)) - made[k].mean((0, 1))).max() < 2.5


def turned(path: Path, degrees: int) -> Path:
    """Write a rotation into the track header of an mp4 (the display matrix of a phone)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: the matrix follows 40 bytes of header
    c, s = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    one = 1 << 16
    data[at : at + 36] = struct.pack(
        ">9i", c * one, s * one, 0, -s * one, c * one, 0, 0, 0, 1 << 30
    )
    path.write_bytes(bytes(data))
    return path


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_the_display_matrix_is_honoured_as_opencv_does_it(degrees: int, tmp_path: Path) -> None:
    path = turned(write_video(tmp_path / "v.mp4", pictures()), degrees)
    independent = cv2.VideoCapture(str(path))
    _, theirs = independent.read()
    got, _ = all_of(path)
    assert got[0].image.shape == theirs.shape
    assert np.abs(got[0].image[..., ::-1].astype(int) - theirs).mean() < 4
    frames = video.read_frames(path, VideoConfig())
    assert (frames.source_width, frames.source_height) == theirs.shape[1::-1]


def test_a_picture_that_changes_size_in_the_middle_is_refused(tmp_path: Path) -> None:
    for k, size in enumerate([(160, 120)] * 5 + [(120, 160)] * 5):
        cv2.imwrite(str(tmp_path / f"{k}.png"), pictures(1, *size)[0])
    with pytest.raises(InputRefused, match="differ in size"):
        video.read_frames(tmp_path, VideoConfig())


def test_what_is_no_video_is_refused_with_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("hello, I am a film")
    (tmp_path / "folder").mkdir()
    for name in ("empty.mp4", "text.mp4", "folder", "missing.mp4"):
        with pytest.raises(InputRefused) as caught:
            video.read_frames(tmp_path / name, VideoConfig())
        assert caught.value.exit_code == 3
        assert str(caught.value).endswith(name) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["mp4-cut", "mp4-hole", "mkv-cut", "avi-cut"])
def test_a_damaged_video_is_refused_with_count_or_read_on_request(
    kind: str, tmp_path: Path
) -> None:
    container, fault = kind.split("-")
    path = write_video(
        tmp_path / f"v.{container}",
        pictures(60),
        codec="mjpeg" if container == "avi" else "libx264",
        pixel_format="yuvj420p" if container == "avi" else "yuv420p",
    )
    data = path.read_bytes()
    if fault == "cut":
        path.write_bytes(data[: int(0.6 * len(data))])
    else:
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes(3000) + data[middle + 3000 :])
    with pytest.raises(InputRefused) as caught:
        video.read_frames(path, VideoConfig())
    if kind == "mp4-cut":  # the index is lost: nothing can be read
        assert "not a video I can read" in str(caught.value)
        return
    assert "damaged" in str(caught.value) and "--video.accept-partial" in str(caught.value)
    assert " of 60 frames could be read (" in str(caught.value) or fault == "hole"
    frames = video.read_frames(path, VideoConfig(accept_partial=True))
    assert 8 <= len(frames) < 60
    assert any("damaged" in w for w in frames.warnings)


def test_too_few_usable_frames_are_refused_with_the_reasons(tmp_path: Path) -> None:
    made = pictures(12)
    made[4:10] = 0
    path = write_video(tmp_path / "v.mp4", made)
    with pytest.raises(
        NotEnoughInformation, match=r"at least 8 .* found 6 of 12 .*black 6"
    ) as caught:
        video.read_frames(path, VideoConfig())
    assert caught.value.exit_code == 4
    with pytest.raises(NotEnoughInformation, match="found 1 of 1"):
        video.read_frames(write_video(tmp_path / "one.mp4", made[:1]), VideoConfig())


def test_a_standing_camera_is_refused_as_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    still = [np.clip(pictures(1)[0] + rng.normal(0, 2, (120, 160, 3)), 0, 255) for _ in range(20)]
    path = write_video(tmp_path / "v.mp4", np.array(still).astype(np.uint8))
    with pytest.raises(NotEnoughInformation, match="does not move"):
        video.read_frames(path, VideoConfig())


def test_interlaced_pictures_are_found_and_deinterlaced(tmp_path: Path) -> None:
    fields = pictures(40, step=4.0)
    woven = fields[::2].copy()
    woven[:, 1::2] = fields[1::2, 1::2]
    path = write_video(tmp_path / "v.mkv", woven, codec="ffv1")
    frames = video.read_frames(path, VideoConfig())
    assert any("interlaced" in w for w in frames.warnings)
    assert len(frames) == 20
    first_field = fields[::2][frames.frame_index]
    got, raw = frames.images[5].astype(int), woven[frames.frame_index[5]].astype(int)
    assert np.abs(got - first_field[5]).mean() < 0.4 * np.abs(raw - first_field[5]).mean()


def test_progressive_pictures_are_not_called_interlaced(tmp_path: Path) -> None:
    frames = video.read_frames(write_video(tmp_path / "v.mp4", pictures()), VideoConfig())
    assert not any("interlaced" in w for w in frames.warnings)


def test_a_folder_of_images_is_read_in_natural_order_whatever_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "Bilder für Ärzte"
    folder.mkdir()
    made = pictures(12)
    for k, image in enumerate(made):
        cv2.imencode(".png", image[..., ::-1])[1].tofile(folder / f"bild {k}.png")
    frames = video.read_frames(folder, VideoConfig())
    assert np.array_equal(frames.images, made)


def test_the_content_area_is_cut_out_reduced_and_the_calibration_follows(tmp_path: Path) -> None:
    inner = pictures(16, 300, 200)
    whole = np.zeros((16, 260, 500, 3), np.uint8)
    whole[:, 30:230, 120:420] = inner
    camera = Camera(1000, 520, 700.0, 700.0, 540.0, 250.0)  # twice the size, same aspect
    frames = video.read_frames(
        write_video(tmp_path / "v.mp4", whole), VideoConfig(max_width=150), camera
    )
    assert frames.images.shape[2] == 150
    assert any("rescaled by 0.5" in w for w in frames.warnings)
    # a pixel of the working picture and the same pixel of the source have one ray
    assert frames.camera is not None
    working = np.array([40.0, 60.0, 1.0])
    source = frames.source_from_working @ working
    ray = np.linalg.solve(frames.camera.K, working)
    assert np.allclose(ray, np.linalg.solve(camera.scaled(0.5).K, source), atol=1e-9)
    left, top = frames.source_from_working[:2, 2]
    assert abs(left - 120) <= 3 and abs(top - 30) <= 3
    assert frames.masks.any() and not frames.masks[:, 0].any()  # the border is not trusted


def test_a_calibration_of_another_aspect_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", pictures())
    with pytest.raises(InputRefused, match="aspect differs"):
        video.read_frames(path, VideoConfig(), Camera(1920, 1080, 700.0, 700.0, 960.0, 540.0))


@pytest.mark.data
def test_the_real_nasal_video_is_kept_whole_and_its_border_is_masked(data_dir: Path) -> None:
    path = data_dir / "nasal-endoscopy-short" / "video.mp4"
    frames = video.read_frames(path, VideoConfig(max_width=480))
    assert len(frames) >= 30 and frames.warnings == ()
    assert 0.55 < frames.masks.mean() < 0.8  # a circle cut at top and bottom, highlights out
