"""tools/report.py as a user meets it: the page is read back, and looked at in a browser where there is one."""

import dataclasses
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from tests.conftest import ROOT, load_tool, small_arguments
from tests.evaluation.cases import FAR, A, random_videos, video, write_coco
from tests.quick_python import quick_python
from ultravid.evaluation import FrameResult, VideoResult, all_metrics, false_positive_sequences, match_video
from ultravid.evaluation.failures import false_sequences, missed_lesions
from ultravid.evaluation.frame_ap import DetectionPool
from ultravid.evaluation.prediction_store import write_manifest, write_video
from ultravid.evaluation.report.curves import froc_curve, operating_point, precision_recall_curve, score_histogram
from ultravid.evaluation.report.strips import chosen_frames
from ultravid.utils.tool import run_tool

SECTIONS = ["runs", "metrics", "curves", "scores", "strata", "false-positives", "missed", "timelines", "all-metrics"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MARKUP = "<b>x</b>"


def run(*arguments):
    command = [quick_python(), str(ROOT / "tools/report.py"), *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


class Page(HTMLParser):
    """A page read back: balanced elements, and what stands in them."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.urls, self.texts, self.elements = [], [], [], [], []
        self.tables, self._cell = {}, None
        self.feed(text)
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.elements.append((tag, attrs))
        self.urls += [value for key, value in attrs.items() if key in ("href", "src", "xlink:href", "action")]
        if tag in ("meta", "img", "br"):
            return
        self.open.append(tag)
        if "id" in attrs:
            self.ids.append(attrs["id"])
        if tag == "table":
            self.rows = self.tables.setdefault(attrs.get("id"), [])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append(attrs.get("data-value"))
            self._cell = tag

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        self.texts.append(data)
        if self.open and self.open[-1] in ("td", "th") and self.rows[-1][-1] is None:
            self.rows[-1][-1] = data

    @property
    def text(self):
        return " ".join(self.texts)

    def values(self, table, column=1):
        """First cell to the number in a column, of the rows that have one."""
        return {row[0]: float(row[column]) if row[column] else None for row in self.tables[table][1:]}


def write_run(folder, videos):
    predictions = folder / "inference/predictions"
    predictions.mkdir(parents=True)
    write_manifest(predictions, {v.video_id: write_video(predictions, v) for v in videos})
    return folder


def made_up(seed=0):
    """Videos of two devices, one of a name that is markup, and no picture of any on disk."""
    videos = random_videos(np.random.default_rng(seed), num_videos=12, step=None)
    devices = [{"device": MARKUP if i % 2 else "curved & linear"} for i in range(len(videos))]
    named = [MARKUP if i == 3 else v.video_id for i, v in enumerate(videos)]
    pairs = zip(videos, devices, named, strict=True)
    return [
        dataclasses.replace(v, video_id=name, metadata=device, patient=f"p{i // 2}")
        for i, (v, device, name) in enumerate(pairs)
    ]


def worse(videos):
    return [
        dataclasses.replace(v, frames=[dataclasses.replace(f, boxes=f.boxes + 4) for f in v.frames]) for v in videos
    ]


@pytest.fixture(scope="module")
def trained(phantom, tmp_path_factory):
    """A run of the launcher, and its page."""
    folder = tmp_path_factory.mktemp("trained")
    assert run_tool(load_tool("lazyconfig_train").main, small_arguments(phantom, folder / "run")) == 0
    done = run(folder / "run", "--output", folder / "report.html", "--bootstrap", 50)
    assert done.returncode == 0, done.stderr
    return folder / "run", folder / "report.html"


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Two made-up runs, and their page."""
    folder = tmp_path_factory.mktemp("compared")
    runs = [write_run(folder / name, videos) for name, videos in (("a", made_up()), ("b", worse(made_up())))]
    arguments = ["--bootstrap", 200, "--strips", 2, "--timelines", 5, "--output", folder / "report.html"]
    done = run(*runs, *arguments)
    assert done.returncode == 0, done.stderr
    return runs, folder / "report.html"


@pytest.mark.parametrize("which", ["trained", "compared"])
def test_a_page_is_whole_and_loads_nothing(request, which):
    _, path = request.getfixturevalue(which)
    text = path.read_text()
    page = Page(text)
    assert set(SECTIONS) <= set(page.ids) and len(page.ids) == len(set(page.ids))
    assert ("differences" in page.ids) == (which == "compared")
    assert all(url.startswith(("#", "data:image/jpeg;base64,")) for url in page.urls)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r'href="data:[^"]*"', "", text))
    assert {url[1:] for url in page.urls if url[0] == "#"} <= set(page.ids)


def test_figures_are_those_of_the_runs_metrics_and_what_was_run_is_told(trained):
    folder, path = trained
    page = Page(path.read_text())
    metrics = json.loads((folder / "inference/metrics.json").read_text())
    assert page.values("all-metrics-table") == metrics
    assert page.values("main-metrics").items() <= metrics.items()
    record = json.loads((folder / "attempts/1/record.json").read_text())
    for said in (
        record["datasets"]["train"]["sha256"],
        record["git"]["commit"],
        record["command"],
        "config.yaml, SHA-256",
    ):
        assert said in page.text
    assert f"python tools/evaluate.py --predictions {folder}" in page.text
    assert "Undefined in run:" in page.text


def test_strips_show_the_frames_themselves(trained):
    folder, path = trained
    pictures = [u for u in Page(path.read_text()).urls if u.startswith("data:image/jpeg")]
    assert pictures and "image not found" not in path.read_text()
    moved = path.with_name("moved.html")
    for file in (folder / "inference/predictions").glob("*.npz"):
        assert "rawframes" in str(np.load(file)["header"])
    done = run(folder, "--output", moved, "--bootstrap", 0, "--strips", 1)
    assert done.returncode == 0 and 0 < moved.read_text().count("data:image/jpeg") < len(pictures)
    assert "95% interval" not in moved.read_text()


def test_pictures_that_were_moved_are_found_and_those_that_are_gone_are_said_to_be(tmp_path):
    gray = np.full((64, 64, 3), 128, np.uint8)
    (tmp_path / "now/x").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "now/x/0.png"), gray)
    frames = [
        FrameResult(i, i, *(np.array([b], np.float32) for b in (A, FAR)), np.array([0.9], np.float32)) for i in (0, 1)
    ]
    frames = [dataclasses.replace(f, file_name=f"/before/x/{f.frame_index}.png") for f in frames]
    folder = write_run(tmp_path / "run", [VideoResult("v", frames)])
    arguments = ["--output", tmp_path / "r.html", "--score-threshold", 0.5, "--bootstrap", 0]
    assert run(folder, *arguments).returncode == 0
    assert (tmp_path / "r.html").read_text().count("image not found") == 4  # of two frames, in both sections
    assert "2 images are not where the predictions say" in (tmp_path / "r.html").read_text()
    assert run(folder, *arguments, "--images", tmp_path / "now").returncode == 0
    page = (tmp_path / "r.html").read_text()
    assert page.count("image not found") == page.count("data:image/jpeg") == 2


def test_coco_results_of_any_detector_get_a_page(tmp_path):
    annotations, detections = write_coco(tmp_path, made_up())
    done = run(detections, "--annotations", annotations, "--bootstrap", 0, "--output", tmp_path / "r.html")
    assert done.returncode == 0, done.stderr
    page = Page((tmp_path / "r.html").read_text())
    assert "COCO results do not record it" in page.text and f"--annotations {annotations}" in page.text


def test_what_comes_from_data_is_escaped(compared):
    page = Page(compared[1].read_text())
    assert "<b>x</b>" not in compared[1].read_text() and "&lt;b&gt;x&lt;/b&gt;" in compared[1].read_text()
    assert f"device={MARKUP}" in page.text and "device=curved & linear" in page.text


def test_runs_stand_side_by_side_with_the_differences_of_compare(compared):
    (a, b), path = compared
    page = Page(path.read_text())
    assert page.text.count("There are only 6 patients: with fewer than 10, intervals are too narrow") == 2
    figures = [all_metrics(made_up()), all_metrics(worse(made_up()))]
    main = {row[0]: row for row in page.tables["main-metrics"][1:]}
    assert [float(main["AP50"][i]) for i in (1, 3)] == pytest.approx([f["AP50"] for f in figures])
    output = path.with_name("compare.json")
    command = [quick_python(), str(ROOT / "tools/compare.py"), a, b, "--bootstrap", "200", "--output", output]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    expected = json.loads(output.read_text())
    rows = {row[0]: row for row in page.tables[None] if len(row) == 6}
    for name in ("AP50", "mAP", "R@16"):
        assert float(rows[name][3]) == pytest.approx(expected[f"{name}/difference"])
        assert rows[name][4] == f"{expected[f'{name}/low']:.2f} to {expected[f'{name}/high']:.2f}"
        assert float(rows[name][5]) == pytest.approx(expected[f"{name}/p"])
    assert "are left out (--strips)" in page.text and "5 of 12 videos are shown, 7 are left out" in page.text


def test_runs_over_other_videos_are_shown_without_differences(tmp_path):
    a, b = write_run(tmp_path / "a", made_up()), write_run(tmp_path / "b", made_up()[:5])
    done = run(a, b, "--bootstrap", 20, "--output", tmp_path / "r.html")
    assert done.returncode == 0, done.stderr
    text = Page((tmp_path / "r.html").read_text()).text
    assert "The runs are not compared." in text and "compare the same videos" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone"], "gone does not exist"),
        ([], "has no predictions"),
        (["--images", "gone"], "--images gone is not a folder"),
        (["--output", "gone/r.html"], "the folder gone does not exist"),
    ],
)
def test_a_mistake_is_one_message(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    given = arguments if arguments == ["gone"] else [str(tmp_path), *arguments]
    assert run_tool(load_tool("report").main, given) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not list(tmp_path.glob("*.html"))


def test_false_sequences_are_those_that_the_figures_count_and_missed_lesions_those_never_hit():
    videos = [match_video(v) for v in made_up(seed=5)]
    for threshold in (0.0, 0.3, 0.6, 0.9):
        cases = false_sequences(videos, threshold)
        counts = np.bincount([case.video for case in cases], minlength=len(videos)).tolist()
        assert counts == [false_positive_sequences(v, threshold) for v in videos]
        assert [c.score for c in cases] == sorted((c.score for c in cases), reverse=True)
        for case in cases:
            owned = sum(len(case.own_detections(videos[case.video], int(f))) for f in case.frames)
            assert owned == len(case.detections)
    hand = [match_video(video(([A], [A], [0.9], [1]), ([A], [FAR], [0.8], [2]), ([A], [A], [0.2], [3])))]
    missed = missed_lesions(hand, 0.5)
    assert [(case.track, case.frames.tolist()) for case in missed] == [(2, [1]), (3, [2])]
    assert missed[0].score == -np.inf and missed[1].score == pytest.approx(0.2)


def test_a_strip_shows_a_long_case_evenly_and_a_short_one_with_its_surroundings():
    assert chosen_frames(np.arange(10, 31), 5, 40).tolist() == [10, 15, 20, 25, 30]
    assert chosen_frames(np.array([7]), 5, 40).tolist() == [5, 6, 7, 8, 9]
    assert chosen_frames(np.array([0, 1]), 4, 40).tolist() == [0, 1, 2, 3]
    assert chosen_frames(np.array([39]), 3, 40).tolist() == [37, 38, 39]
    assert chosen_frames(np.array([1]), 6, 3).tolist() == [0, 1, 2]
    assert {3, 30} <= set(chosen_frames(np.array([3, 30]), 4, 40).tolist())


def test_curves_agree_with_the_figures():
    videos = [match_video(v) for v in made_up(seed=2)]
    pool, figures = DetectionPool(videos), all_metrics(videos)
    points = np.array(precision_recall_curve(pool))
    envelope = np.maximum.accumulate(points[::-1, 1])[::-1]
    assert 100 * np.sum(np.diff(points[:, 0], prepend=0) * envelope) == pytest.approx(figures["AP50"])
    curve = froc_curve(videos)
    for rate in (0.5, 8.0):
        found = max((sensitivity for at, sensitivity in curve if at <= rate), default=0.0)
        assert 100 * found == pytest.approx(figures[f"lesion/FROC@{rate:g}"])
    histogram = score_histogram(pool)
    assert histogram.true_positives.sum() + histogram.false_positives.sum() == len(pool.scores)
    assert histogram.true_positives.sum() / pool.num_gt == pytest.approx(points[-1, 0])
    point = operating_point(pool)
    assert ("at recall 0.8" in point.why) == (points[-1, 0] >= 0.8)


PROBE = """
<script>
window.addEventListener("load", () => {
  const size = (e) => { const r = e.getBoundingClientRect(); return [Math.round(r.width), Math.round(r.height)]; };
  const head = document.querySelector("#main-metrics thead th:nth-child(2)");
  head.click();
  const shown = {
    sections: [...document.querySelectorAll("section")].map((e) => [e.id, ...size(e)]),
    charts: [...document.querySelectorAll("#curves svg, #scores svg, #timelines svg, .frame svg")].map(size),
    tables: [...document.querySelectorAll("table")].map(size),
    sorted: [...document.querySelectorAll("#main-metrics tbody td:nth-child(2)")].map((e) => e.dataset.value),
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  };
  const pre = document.createElement("pre");
  pre.id = "probe";
  pre.textContent = JSON.stringify(shown);
  document.body.append(pre);
});
</script></body>"""


@pytest.mark.slow
@pytest.mark.parametrize("which", ["trained", "compared"])
def test_a_browser_shows_every_part_without_an_error(request, which, tmp_path):
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    _, path = request.getfixturevalue(which)
    probed, picture = tmp_path / "probed.html", tmp_path / "page.png"
    probed.write_text(path.read_text().replace("</body>", PROBE))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,2400", "--enable-logging=stderr"]
    options.append(f"--user-data-dir={tmp_path / 'profile'}")
    done = subprocess.run(
        [browser, *options, "--dump-dom", probed.as_uri()], check=False, capture_output=True, text=True, timeout=120
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    shown = json.loads(re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)[1])
    assert {row[0] for row in shown["sections"]} >= set(SECTIONS)
    assert all(width > 300 and height > 40 for _, width, height in shown["sections"])
    assert all(width > 100 and height > 50 for width, height in [*shown["charts"], *shown["tables"]])
    values = [float(value) for value in shown["sorted"] if value]
    assert values == sorted(values) and len(shown["charts"]) >= 3 and shown["overflow"] == 0
    subprocess.run(
        [browser, *options, f"--screenshot={picture}", path.as_uri()], check=False, capture_output=True, timeout=120
    )
    seen = cv2.imread(str(picture))
    assert seen is not None and seen.shape[:2] == (2400, 1280)
    assert (seen.min(axis=2) < 100).mean() > 0.005 and (seen > 250).mean() > 0.5
