"""The page in a headless Chromium: what a viewer sees and does, from the upload to the export."""

import json
import shutil
import threading
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from tests.serving.page.page_server import SIDE, SQUARE, make_page, serving, square_of, wait_for, write_squares

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow_models,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome is installed"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of playwright's own pipes
]
NUM_FRAMES = 16


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *camera])
        yield found
        found.close()


@pytest.fixture
def page(tmp_path):
    return make_page(tmp_path, max_absence_s=0.5)


@pytest.fixture
def movie(tmp_path):
    return write_squares(tmp_path / "scan of today.mp4", NUM_FRAMES, Fraction(30000, 1001))


def opened(context, address, errors):
    tab = context.new_page()
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.goto(address)
    tab.wait_for_selector("#model:not(:empty)")
    return tab


def analysed(tab):
    tab.wait_for_selector(f"#progress-line:has-text('Analysed: {NUM_FRAMES} frames')", timeout=60_000)


def seen(tab):
    """(edges of the white square, edges of the orange box), in pixels of the frame; None for what is not to be seen."""
    picture, stage = tab.locator("#picture").bounding_box(), tab.locator("#stage").bounding_box()
    image = cv2.imdecode(np.frombuffer(tab.locator("#stage").screenshot(), np.uint8), cv2.IMREAD_COLOR).astype(int)
    x, y = round(picture["x"] - stage["x"]), round(picture["y"] - stage["y"])
    image = image[y : y + round(picture["height"]), x : x + round(picture["width"])]
    blue, green, red = image[..., 0], image[..., 1], image[..., 2]
    masks = (image.min(axis=-1) > 200, (red - blue > 120) & (green > 90) & (red > 190))
    found = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.sum(axis=1) > 40), np.flatnonzero(mask.sum(axis=0) > 40)
        edges = None if not len(rows) else np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        found.append(None if edges is None else edges * SIDE / picture["width"])
    return found


def assert_box_is_on_its_frame(tab, index):
    x, y = square_of(index)
    square, box = seen(tab)
    assert square == pytest.approx([x, y, x + SQUARE, y + SQUARE], abs=1.5)
    assert box == pytest.approx([x, y, x + SQUARE, y + SQUARE], abs=1.5)


def test_upload_boxes_slider_timeline_keys_and_exports(browser, page, movie, tmp_path):
    errors = []
    with serving(page) as address:
        context = browser.new_context(viewport={"width": 1300, "height": 850}, accept_downloads=True)
        tab = opened(context, address, errors)
        tab.set_input_files("#file", str(movie))
        tab.wait_for_selector("#stage[data-frame]", timeout=60_000)
        analysed(tab)
        tab.evaluate("document.activeElement.blur()")
        tab.keyboard.press("Home")
        tab.evaluate(
            "document.querySelector('#score').value = 0.05, document.querySelector('#score').dispatchEvent(new Event('input'))"
        )
        for index in range(NUM_FRAMES):
            tab.wait_for_selector(f"#stage[data-frame='{index}'][data-boxes='1']")
            assert float(tab.get_attribute("#stage", "data-pts")) == pytest.approx(index * 1001 / 30000, abs=1e-4)
            assert_box_is_on_its_frame(tab, index)
            tab.keyboard.press("ArrowRight")
        for _ in range(3):
            tab.keyboard.press("ArrowLeft")
        tab.wait_for_selector(f"#stage[data-frame='{NUM_FRAMES - 4}']")

        # scores rise by 0.05 a frame from 0.2 on
        tab.evaluate(
            "document.querySelector('#score').value = 0.5, document.querySelector('#score').dispatchEvent(new Event('input'))"
        )
        tab.keyboard.press("Home")
        tab.wait_for_selector("#stage[data-frame='0'][data-boxes='0']")
        assert seen(tab)[1] is None and seen(tab)[0] is not None
        row = tab.locator("#tracks tbody tr")
        assert [cell.split(" ")[0] for cell in row.locator("td").all_inner_texts()] == ["#0", "6", "10", "0.95"]
        row.click()
        tab.wait_for_selector("#stage[data-frame='6'][data-boxes='1']")

        timeline = tab.locator("#timeline")
        for key, index in (("ArrowUp", 7), ("ArrowDown", 6)):
            timeline.press(key)
            tab.wait_for_selector(f"#stage[data-frame='{index}']")
        size = timeline.bounding_box()
        timeline.click(position={"x": 10 + (size["width"] - 20) * 12 / (NUM_FRAMES - 1), "y": size["height"] - 15})
        tab.wait_for_selector("#stage[data-frame='12']")
        assert timeline.get_attribute("aria-valuenow") == "12" and "track 0" in timeline.get_attribute("aria-valuetext")
        assert_box_is_on_its_frame(tab, 12)

        saved = {}
        for kind in ("json", "csv", "movie"):
            with tab.expect_download(timeout=60_000) as download:
                tab.click(f"#export-{kind}")
            saved[kind] = tmp_path / download.value.suggested_filename
            download.value.save_as(saved[kind])
        assert {path.name for path in saved.values()} == {f"scan of today.{kind}" for kind in ("json", "csv", "mp4")}
        found = json.loads(saved["json"].read_text())
        assert (found["source"], found["width"], len(found["frames"])) == ("scan of today.mp4", SIDE, NUM_FRAMES)
        assert [len(frame["detections"]) for frame in found["frames"]] == [0] * 6 + [1] * (NUM_FRAMES - 6)
        assert len(saved["csv"].read_text().splitlines()) == 1 + NUM_FRAMES - 6
        assert_movie_has_boxes(saved["movie"])

        # movies are saved when they are written, whichever recording is shown then
        tab.set_input_files("#file", str(shutil.copy(movie, tmp_path / "second.mp4")))
        tab.wait_for_selector("#recordings li:last-child [aria-current]")
        analysed(tab)
        is_free = threading.Event()
        page.queue._writing.submit(is_free.wait, 20)
        downloads = []
        tab.on("download", lambda download: downloads.append(download.suggested_filename))
        for place in ("last", "first"):
            tab.click(f"#recordings li:{place}-child .choose")
            tab.wait_for_selector(f"#recordings li:{place}-child [aria-current]")
            tab.click("#export-movie")
            tab.wait_for_selector("#export-line:has-text('Writing the movie: 0 of')")
        is_free.set()
        wait_for(lambda: tab.wait_for_timeout(20) or len(downloads) == 2)
        assert sorted(downloads) == ["scan of today.mp4", "second.mp4"]
        context.close()
        wait_for(lambda: [path.name for path in page.folder.path.iterdir()] == ["lock"])
    assert errors == []


def assert_movie_has_boxes(path):
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert [float(frame.time) for frame in frames] == pytest.approx(
        [i * 1001 / 30000 for i in range(NUM_FRAMES)], abs=1e-4
    )
    for index, frame in enumerate(frames):
        image = frame.to_ndarray(format="rgb24").astype(int)
        x, y = square_of(index)
        edge = image[y, x + 6 : x + SQUARE - 6]  # the upper line of the box
        assert (np.median(edge[:, 0] - edge[:, 2]) > 60) == (index >= 6)


def test_boxes_move_with_their_frames_while_the_video_plays(browser, page, movie):
    errors = []
    with serving(page) as address:
        tab = opened(browser.new_context(), address, errors)
        tab.set_input_files("#file", str(movie))
        analysed(tab)
        tab.evaluate(
            "document.querySelector('#score').value = 0.05, document.querySelector('#score').dispatchEvent(new Event('input'))"
        )
        tab.check("#repeat")
        tab.select_option("#speed", "0.25")
        tab.evaluate("document.activeElement.blur()")
        if tab.get_attribute("#play", "aria-label") == "Play":
            tab.keyboard.press(" ")
        places = set()
        for _ in range(12):
            square, box = seen(tab)
            assert box == pytest.approx(square, abs=1.5)
            places.add(tuple(np.round(square).astype(int)))
        assert len(places) > 2  # it played
        tab.context.close()
    assert errors == []


def test_four_viewers_at_once_and_a_camera(browser, page, movie):
    errors = []
    with serving(page) as address:
        tabs = [opened(browser.new_context(permissions=["camera"]), address, errors) for _ in range(4)]
        for tab in tabs[:3]:
            tab.set_input_files("#file", str(movie))
        tabs[3].click("#camera")
        for tab in tabs[:3]:
            analysed(tab)
            tab.wait_for_selector("#stage[data-frame]")
        # not with wait_for_function, whose second look is an eval, which the page's content security policy forbids
        wait_for(lambda: tabs[3].wait_for_timeout(20) or int(tabs[3].get_attribute("#stage", "data-frame") or 0) >= 5)
        assert float(tabs[3].get_attribute("#stage", "data-delay-ms")) > 0
        tabs[3].click("#camera")
        tabs[3].wait_for_selector("#progress-line:has-text('Analysed')")
        for tab in tabs:
            tab.context.close()
        wait_for(lambda: [path.name for path in page.folder.path.iterdir()] == ["lock"])
    assert errors == []


def test_what_goes_wrong_is_said_on_the_page(browser, page, movie, tmp_path):
    errors = []
    (tmp_path / "half.mp4").write_bytes(movie.read_bytes()[:700])
    (tmp_path / "text.mp4").write_text("no movie " * 100)
    with serving(page) as address:
        tab = opened(browser.new_context(), address, errors)
        for name, what in (("half.mp4", "truncated"), ("text.mp4", "can't be")):
            tab.set_input_files("#file", str(tmp_path / name))
            tab.wait_for_selector(f"#veil-text:has-text('{name}'):has-text(\"{what}\")", timeout=60_000)
        tab.set_input_files("#file", str(movie))
        analysed(tab)
        tab.context.close()
    assert errors == []


def test_a_server_that_was_started_again_is_said_and_the_list_keeps_the_focus(browser, page, movie, tmp_path):
    with serving(page) as address:
        tab = opened(browser.new_context(viewport={"width": 400, "height": 800}), address, [])
        faults = []
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.set_input_files("#file", [str(movie)] * 4)
        wait_for(lambda: tab.locator("#recordings .choose").count() == 4)
        analysed(tab)
        tab.locator("#recordings .choose").first.focus()
        tab.keyboard.press("Enter")
        tab.wait_for_selector("#recordings li:first-child [aria-current]")
        assert tab.locator("#recordings li:first-child .choose:focus").count() == 1
        tab.locator("#recordings .choose").last.press("Enter")
        current = tab.wait_for_selector("#recordings li:last-child [aria-current]")
        assert current.bounding_box()["x"] < 300  # not beyond the edge
        for number in (3, 2, 1, 0):
            tab.locator("#recordings .remove").first.press("Enter")
            wait_for(lambda number=number: tab.locator("#recordings li").count() == number)
            assert tab.evaluate("document.activeElement.className") == ("remove" if number else "hidden-input")
        tab.set_input_files("#file", str(movie))
        analysed(tab)
        tab.check("#repeat")
        tab.click("#play") if tab.get_attribute("#play", "aria-label") == "Play" else None
    tab.wait_for_selector("#progress-line:has-text('The server does not answer')")
    assert not tab.is_visible("#alert")
    again = make_page(tmp_path)
    with serving(again, port=int(address.rpartition(":")[2])):
        tab.wait_for_selector("#alert:has-text('The server was started again')")
        tab.set_input_files("#file", str(movie))
        analysed(tab)
        assert "The server was started again" in tab.inner_text("#alert") or not tab.is_visible("#alert")
        tab.context.close()
    assert faults == []


def test_the_token_of_the_address_opens_the_page_and_leaves_the_address(browser, tmp_path):
    errors = []
    with serving(make_page(tmp_path, token="a-token-of-test")) as address:
        tab = opened(browser.new_context(), f"{address}/#token=a-token-of-test", errors)
        assert "token" not in tab.url
        other = browser.new_context().new_page()
        other.goto(address)
        other.wait_for_selector("#token-dialog[open]")
        other.fill("#token", "wrong")
        other.keyboard.press("Enter")
        other.wait_for_selector("#token-fault:has-text('wrong')")
        other.fill("#token", "a-token-of-test")
        other.click("#token-send")
        other.wait_for_selector("#model:not(:empty)")
        for one in (tab, other):
            one.context.close()
    assert errors == []
