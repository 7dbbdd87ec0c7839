"""Each box is on its own frame in a headless Chromium: step by step, after jumps, while the recording plays, and in the exported movie."""

import base64
import shutil
from fractions import Fraction

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEGBaseline8Bit

from tests.datasets.recordings import write_dicom
from tests.serving.movies import (
    Movie,
    constant_rate,
    grey_of,
    late_start,
    picture_of,
    square_of,
    trimmed,
    variable_rate,
    with_b_frames,
)
from tests.serving.page.page_server import make_page, serving

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome is installed"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of playwright's own pipes
]
NUM_FRAMES = 24

LOOK = """() => {
  const [stage, picture, boxes] = ["stage", "picture", "boxes"].map((id) => document.getElementById(id));
  const pixels = (canvas) => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  // First and last column and row in which at least `least` pixels are so.
  const edges = ({ data, width, height }, is, least) => {
    const [columns, rows] = [new Int32Array(width), new Int32Array(height)];
    for (let i = 0, y = 0; y < height; y++) for (let x = 0; x < width; x++, i += 4) {
      if (is(data[i], data[i + 1], data[i + 2], data[i + 3])) { columns[x]++; rows[y]++; }
    }
    const [xs, ys] = [columns, rows].map((counts) => [...counts.keys()].filter((at) => counts[at] >= least));
    return xs.length && ys.length ? [xs[0], ys[0], xs.at(-1) + 1, ys.at(-1) + 1] : null;
  };
  window.look = () => {
    if (stage.dataset.frame === undefined) return null;
    const [image, drawn] = [pixels(picture), pixels(boxes)];
    const scale = boxes.width / picture.width;
    const box = edges(drawn, (r, g, b, a) => a > 200 && r > 200 && r - b > 120, 14 * scale);
    return { frame: Number(stage.dataset.frame), pts_s: Number(stage.dataset.pts), grey: image.data[4 * (32 * image.width + 32)],
      square: edges(image, (r, g, b) => Math.min(r, g, b) > 200, 12), box: box && box.map((v) => v / scale) };
  };
  window.play = (seconds) => new Promise((resolve) => {
    const [seen, begin] = [[], performance.now()];
    const next = () => {
      seen.push({ ...look(), passed_s: (performance.now() - begin) / 1000 });
      seen.at(-1).passed_s < seconds ? requestAnimationFrame(next) : resolve(seen);
    };
    document.getElementById("play").click();
    requestAnimationFrame(next);
  });
}"""

PLAY_MOVIE = """async (content) => {
  const video = document.createElement("video");
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [64, 64];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const seen = [];
  const look = (_, { mediaTime }) => {
    context.drawImage(video, 0, 0);
    seen.push({ mediaTime, pixels: [...context.getImageData(0, 0, 64, 64).data] });
    video.requestVideoFrameCallback(look);
  };
  video.muted = true;
  video.src = `data:video/mp4;base64,${content}`;
  video.playbackRate = 0.25;
  video.requestVideoFrameCallback(look);
  await video.play();
  await new Promise((resolve) => { video.onended = resolve; });
  return seen;
}"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    """The page, opened and small, so that its pixels are read quickly."""
    playwright = pytest.importorskip("playwright.sync_api")
    page = make_page(tmp_path_factory.mktemp("page"), max_recordings=32)
    with serving(page) as address, playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        found = browser.new_page(viewport={"width": 640, "height": 420})
        found.errors = []
        found.on("pageerror", lambda error: found.errors.append(str(error)))
        found.on("console", lambda said: found.errors.append(said.text) if said.type == "error" else None)
        found.goto(address)
        found.wait_for_selector("#model:not(:empty)")
        found.evaluate(LOOK)
        yield found
        browser.close()
    assert found.errors == []


def upload(tab, movie):
    """Send a recording, and wait for its analysis; it plays from then on."""
    tab.set_input_files("#file", str(movie.path))
    text = f"Analysed: {len(movie.numbers)} frames"
    tab.wait_for_function(
        "([name, text]) => (document.querySelector('[aria-current]')?.textContent ?? name) === name"
        " && document.querySelector('#progress-line').textContent.startsWith(text)",
        arg=[movie.path.name, text],
        timeout=60_000,
    )
    score = (
        "const score = document.querySelector('#score'); score.value = 0.05; score.dispatchEvent(new Event('input'))"
    )
    tab.evaluate(f"() => {{ {score}; document.activeElement.blur(); }}")


def assert_is_whole(movie, seen, first_number=0):
    """What was seen is one frame: picture, box and time stamp."""
    number = first_number + seen["frame"]
    assert seen["pts_s"] == pytest.approx(movie.times_s[seen["frame"]], abs=movie.tick_s / 2 + 1e-6)
    assert abs(seen["grey"] - grey_of(number)) < 4, seen
    assert seen["square"] == list(square_of(number)), seen
    assert seen["box"] == pytest.approx(square_of(number), abs=0.5), seen


def at_frame(tab, index):
    tab.wait_for_selector(f"#stage[data-frame='{index}']")
    return tab.evaluate("look()")


def check_steps(tab, movie, first_number=0):
    last = len(movie.numbers) - 1
    tab.keyboard.press("Home")
    for index in range(last + 1):
        assert_is_whole(movie, at_frame(tab, index), first_number)
        frame, seconds = tab.inner_text("#position").split(" · ")
        assert frame == f"Frame {index} / {last}"
        assert float(seconds.removesuffix(" s")) == pytest.approx(movie.times_s[index], abs=1.5e-3)
        tab.keyboard.press("ArrowRight")
    for index in range(last - 1, -1, -1):
        tab.keyboard.press("ArrowLeft")
        assert_is_whole(movie, at_frame(tab, index), first_number)


def check_jumps(tab, movie, first_number=0):
    last, width = len(movie.numbers) - 1, tab.locator("#timeline").bounding_box()["width"]
    for index in np.random.default_rng(0).permutation(last + 1)[:8]:
        tab.locator("#timeline").click(position={"x": 10 + (width - 20) * index / last, "y": 50})
        assert_is_whole(movie, at_frame(tab, index), first_number)


def check_playing(tab, movie, seconds, speed, first_number=0):
    """Whatever is on the screen while it plays is one frame, and none is shown before its time; how many were seen."""
    tab.keyboard.press("Home")
    at_frame(tab, 0)
    tab.select_option("#speed", speed)
    seen = tab.evaluate(f"play({seconds})")
    for one in seen:
        assert_is_whole(movie, one, first_number)
        assert one["pts_s"] <= movie.times_s[0] + one["passed_s"] * float(speed) + 1e-3
    numbers = [one["frame"] for one in seen]
    assert numbers == sorted(numbers)
    tab.evaluate("document.activeElement.blur()")
    return len(set(numbers))


def check_movie(tab, movie, tmp_path, first_number=0):
    with tab.expect_download(timeout=60_000) as download:
        tab.click("#export-movie")
    download.value.save_as(tmp_path / "drawn.mp4")
    player = tab.context.browser.new_page()
    seen = player.evaluate(PLAY_MOVIE, base64.b64encode((tmp_path / "drawn.mp4").read_bytes()).decode())
    player.close()
    shown = set()
    for one in seen:
        index = int(np.argmin(np.abs(np.array(movie.times_s) - one["mediaTime"])))
        image = np.array(one["pixels"], np.uint8).reshape(64, 64, 4)[..., :3].astype(int)
        assert one["mediaTime"] == pytest.approx(movie.times_s[index], abs=2e-3)
        number = first_number + index
        assert abs(image[32, 32].mean() - grey_of(number)) < 5
        x1, _, x2, y2 = square_of(number)
        edge = image[y2 - 1, x1 + 3 : x2 - 3]
        assert np.median(edge[:, 0] - edge[:, 2]) > 60
        shown.add(index)
    assert len(shown) > len(movie.numbers) / 2


@pytest.mark.slow_models
def test_each_box_is_on_its_frame_at_a_variable_rate(tab, tmp_path):
    movie = variable_rate(tmp_path / "variable.mp4", 12, b_frames=2)
    upload(tab, movie)
    check_steps(tab, movie)
    check_jumps(tab, movie)
    assert check_playing(tab, movie, 0.6, "0.5") > 1


def dicom(path, **tags):
    pixels = np.stack([picture_of(number)[..., 0] for number in range(NUM_FRAMES)])
    steps_s = [
        0,
        *(tags["FrameTimeVector"][1:] if "FrameTimeVector" in tags else [tags["FrameTime"]] * (NUM_FRAMES - 1)),
    ]
    write_dicom(path, pixels, **tags)
    return Movie(path, list(range(NUM_FRAMES)), list(np.cumsum(steps_s) / 1000), 1e-6)


def damaged_dicom(path, lost=5, num_frames=8):
    """A DICOM file of JPEG images, one of which can't be decoded."""
    codes = [
        cv2.imencode(".jpg", picture_of(number)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
        for number in range(num_frames)
    ]
    codes[lost] = codes[lost][:40] + bytes(80)
    write_dicom(path, np.zeros((num_frames, 64, 64, 3), np.uint8), photometric="RGB", FrameTime=40, Modality="US")
    file = pydicom.dcmread(path)
    file.PhotometricInterpretation = "YBR_FULL_422"
    file.PixelData = pydicom.encaps.encapsulate(codes)
    file.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    file.save_as(path)
    numbers = [number for number in range(num_frames) if number != lost]
    return Movie(path, numbers, [0.04 * number for number in range(num_frames)], 1e-6)


@pytest.mark.slow_models
def test_a_frame_that_can_not_be_read_is_left_out_and_the_others_keep_their_numbers(tab, tmp_path):
    movie = damaged_dicom(tmp_path / "one lost.dcm")
    upload(tab, movie)
    note = tab.locator("#notes li", has_text="1 of 8 frames").inner_text()
    assert note.startswith("one lost.dcm: ") and str(tmp_path) not in note
    tab.keyboard.press("Home")
    for number in movie.numbers:
        assert_is_whole(movie, at_frame(tab, number))
        assert tab.inner_text("#position") == f"Frame {number} / 7 · {movie.times_s[number]:.3f} s"
        tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowLeft")
    assert_is_whole(movie, at_frame(tab, 6))
    assert tab.locator("#timeline").get_attribute("aria-valuetext").startswith("frame 6, 0.24 seconds")
    check_movie(tab, movie, tmp_path)
    tab.locator("#score").evaluate("(e) => { e.value = 0.5; e.dispatchEvent(new Event('input')); }")
    tab.wait_for_selector("#tracks tbody td:has-text('6 · 0.24 s')")  # the first with such a score


MOVIES = {
    "23.976": lambda folder: constant_rate(folder / "23.mp4", Fraction(24000, 1001), NUM_FRAMES),
    "29.97": lambda folder: constant_rate(folder / "29.mp4", Fraction(30000, 1001), NUM_FRAMES),
    "59.94": lambda folder: constant_rate(folder / "59.mp4", Fraction(60000, 1001), NUM_FRAMES),
    "matroska": lambda folder: constant_rate(folder / "29.mkv", Fraction(30000, 1001), NUM_FRAMES),
    "variable": lambda folder: variable_rate(folder / "variable.mp4", NUM_FRAMES),
    "B-frames": lambda folder: with_b_frames(folder / "b.mp4", NUM_FRAMES),
    "late start": lambda folder: late_start(folder / "late.mp4", num_frames=NUM_FRAMES),
    "edit list": lambda folder: trimmed(folder / "edited.mp4", NUM_FRAMES, cut=3),
    "DICOM": lambda folder: dicom(folder / "even.dcm", FrameTime=33.3),
    "DICOM, variable": lambda folder: dicom(folder / "uneven.dcm", FrameTimeVector=[0, *[20, 45, 70] * 8][:NUM_FRAMES]),
}


@pytest.mark.slow_models
@pytest.mark.parametrize("kind", MOVIES)
def test_each_box_is_on_its_frame_of_every_kind_of_recording(tab, tmp_path, kind):
    movie = MOVIES[kind](tmp_path)
    first_number = movie.numbers[0]
    upload(tab, movie)
    check_steps(tab, movie, first_number)
    check_jumps(tab, movie, first_number)
    for seconds, speed in ((2.0, "0.25"), (1.0, "1"), (1.0, "2")):
        num_seen = check_playing(tab, movie, seconds, speed, first_number)
        assert num_seen > 3 or speed != "0.25"
    check_movie(tab, movie, tmp_path, first_number)
