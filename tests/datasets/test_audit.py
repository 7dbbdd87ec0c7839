import itertools
import json
import re

import cv2
import numpy as np
import pytest

from tests.conftest import load_tool
from tests.datasets.recordings import HEIGHT, WIDTH, write_dicom, write_movie
from ultravid.datasets.audit import FrameTable, find_near_duplicates
from ultravid.utils.tool import run_tool


def audit(tmp_path, *arguments):
    output = tmp_path / "page" / "audit.html"
    code = run_tool(load_tool("audit_dataset").main, [*map(str, arguments), "--output", str(output)])
    return code, output.read_text() if output.exists() else ""


def write_set(folder, name, videos, patients=None, annotate=lambda annotations: None):
    """COCO-VID of videos given as lists of images; each frame has a box that moves."""
    content = {"videos": [], "images": [], "annotations": [], "categories": [{"id": 1, "name": "cyst"}]}
    for v, (video, images) in enumerate(videos.items()):
        content["videos"].append(
            {"id": v, "name": video, "patient": (patients or {}).get(video, video), "device": f"d{v}"}
        )  # a patient that is None is not known
        for t, image in enumerate(images):
            file = folder / name / video / f"{t}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), image)
            row = {"id": len(content["images"]), "video_id": v, "frame_id": t, "file_name": f"{name}/{video}/{t}.png"}
            content["images"].append({**row, "height": image.shape[0], "width": image.shape[1]})
            content["annotations"].append(
                {"id": row["id"], "image_id": row["id"], "bbox": [t, 20, 30, 20], "category_id": 1}
            )
    annotate(content["annotations"])
    (folder / f"{name}.json").write_text(json.dumps(content))
    return f"{name}=coco-video:{folder / name}.json"


def scene(number, seed):
    """An image of its own for each seed, moved by its number."""
    texture = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(HEIGHT, WIDTH)), (0, 0), 6)
    grey = np.clip(128 + 60 * texture / texture.std(), 0, 255).astype(np.uint8)
    return np.repeat(np.roll(grey, number, axis=1)[..., None], 3, axis=2)


def clip(seed, count=6):
    return [scene(t, seed) for t in range(count)]


def test_splits_that_share_nothing_pass(tmp_path, capsys):
    train = write_set(tmp_path, "train", {"a": clip(1), "b": clip(2)})
    test = write_set(tmp_path, "test", {"c": clip(3)})
    code, page = audit(tmp_path, "--data", train, "--data", test)
    assert code == 0 and "No patient and no frame was found in two splits" in page
    printed = capsys.readouterr().out
    assert re.search(r"videos +│ 2 +│ 1 ", printed) and re.search(r"boxes +│ 12 +│ 6 ", printed)
    assert re.search(r"d1 +│ 1 / 6 / 6 +│ 0 / 0 / 0", printed)
    assert page.count("data:image/jpeg;base64,") == 3
    assert not re.search(r"(src|href)=[\"'](?!data:)|url\(|<script|@import", page)  # nothing from outside


def same(image):
    return image


def brighter_half_size_and_compressed(image):
    small = cv2.resize(image, (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_AREA)
    bright = np.clip(small.astype(float) * 1.1 + 5, 0, 255).astype(np.uint8)
    return cv2.imdecode(cv2.imencode(".jpg", bright, [cv2.IMWRITE_JPEG_QUALITY, 70])[1], cv2.IMREAD_COLOR)


@pytest.mark.parametrize(
    ("change", "title"),
    [
        (same, "Identical frames in two splits"),
        (brighter_half_size_and_compressed, "Near-duplicate frames in two splits"),
    ],
)
def test_a_frame_in_two_splits_is_a_leak(tmp_path, capsys, change, title):
    train = write_set(tmp_path, "train", {"a": clip(1), "b": clip(2)})
    test = write_set(tmp_path, "test", {"c": [change(scene(4, 2))]})
    code, page = audit(tmp_path, "--data", train, "--data", test)
    assert code == 1 and title in page and "Splits share patients or frames" in page
    assert "b frame 4" in page and "c frame 0" in page
    assert "Patients in two splits" not in page
    assert title in capsys.readouterr().out


def test_a_patient_in_two_splits_is_a_leak(tmp_path, capsys):
    train = write_set(tmp_path, "train", {"a": clip(1), "b": clip(2)}, patients={"a": "anna"})
    test = write_set(tmp_path, "test", {"c": clip(3)}, patients={"c": "anna"})
    code, page = audit(tmp_path, "--data", train, "--data", test)
    assert code == 1 and "<td>anna</td><td>train: a</td><td>test: c</td>" in page


def test_a_patient_written_in_two_ways_is_one_in_splits_folds_and_a_table_of_splits(tmp_path, capsys):
    """Unknown patients are counted in the verdict, and an unknown video is not the patient who is called like it."""
    train = write_set(tmp_path, "train", {"a": clip(1), "b": clip(2)}, patients={"a": "Anna  B", "b": None})
    test = write_set(tmp_path, "test", {"c": clip(3), "d": clip(4)}, patients={"c": " anna b", "d": "b"})
    code, page = audit(tmp_path, "--data", train, "--data", test)
    assert code == 1 and "Patients written in several ways" in page
    assert "<td>Anna  B</td><td>train: a</td><td>test: c</td>" in page and "<td>b</td><td>train" not in page
    assert "Splits share patients or frames. The patient of 1 video (of 4) is not known" in page
    together = ["--data", f"all{train[5:]}", "--data", f"all{test[4:]}"]
    code, page = audit(tmp_path, *together, "--num-folds", "7")
    assert code == 0 and "of 7 hold no video and can&#x27;t be held out" in page
    table = tmp_path / "splits.csv"
    table.write_text("video,split\na,1\nb,1\nc,2\nd,2\n")
    assert audit(tmp_path, *together, "--split-table", table)[0] == 1
    table.write_text("video,split\na,Train\nb,train \nc,2\nd,2\n")
    assert audit(tmp_path, *together, "--split-table", table)[0] == 2
    assert "splits.csv:3: 'train ' and 'Train' differ in case or blanks only" in capsys.readouterr().err
    table.write_text("video,split\na,1\nb,1,2\nc,2\nd,2\n")
    assert audit(tmp_path, *together, "--split-table", table)[0] == 2
    assert "splits.csv:3: has more cells than the table has columns" in capsys.readouterr().err


def test_every_rule_for_patients_can_be_an_option_of_the_audit_and_the_conversion(tmp_path, capsys):
    for seed, name in enumerate(("P001_1", "P001_10", "P002_1")):
        (tmp_path / "in" / "site" / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "in" / "site" / name / "0.png"), scene(0, seed))
    (tmp_path / "patients.json").write_text(json.dumps({"site/P001_1": "a", "site/P001_10": "a"}))
    for rule, known, unknown in (
        (None, 0, 3),
        ("regex:(?P<patient>P[0-9]{3})_", 2, 0),
        ("regex:(P001)_,?", 1, 1),
        ("folder", 1, 0),
        ("stem", 3, 0),
        ("stem_without_side", 3, 0),
        (tmp_path / "patients.json", 1, 1),
    ):
        option = [] if rule is None else ["--option", f"patients={rule}"]
        code, page = audit(tmp_path, "--data", f"recordings:{tmp_path / 'in'}", *option)
        assert code == 0 and f"<td>patients</td><td>{known}</td>" in page
        assert (f"<td>videos of unknown patients</td><td>{unknown}</td>" in page) == bool(unknown)
        assert ("counts as a separate patient" in page) == bool(unknown)
        output = tmp_path / f"out{known}{unknown}{len(str(rule))}"
        convert = load_tool("convert_dataset").main
        given = ["--format", "recordings", "--path", tmp_path / "in", "--output", output, *option]
        assert run_tool(convert, list(map(str, given))) == 0
        rows = json.loads((output / "trainval.json").read_text())["videos"]
        assert len({row["patient"] for row in rows if "patient" in row}) == known
        assert ("not known" in capsys.readouterr().out.split("already there")[1]) == bool(unknown)


def test_dicom_files_of_one_patient_in_two_splits_are_a_leak_and_the_id_is_not_shown(tmp_path, capsys):
    for split, seed in (("train", 1), ("test", 2)):
        (tmp_path / split).mkdir()
        patient = "MRN  4711" if split == "train" else "mrn 4711"  # two spellings of one
        write_dicom(tmp_path / split / f"{split}.dcm", np.stack([scene(0, seed)[..., 0]]), PatientID=patient)
    arguments = [f"--data={s}=recordings:{tmp_path / s}" for s in ("train", "test")]
    code, page = audit(tmp_path, *arguments)
    assert code == 1 and "DICOM files of one patient in two splits" in page
    (tmp_path / "table.json").write_text('{"test.dcm": "a", "train.dcm": "b"}')
    for rule in (
        "dicom:mrn 4711 ,other",
        f"{tmp_path / 'table.json'} else dicom:mrn 4711",
    ):  # the id is said to be nobody's
        assert audit(tmp_path, *arguments, "--option", f"patients={rule}")[0] == 0
    assert not any(secret in page + capsys.readouterr().out for secret in ("4711", "Doe^Jane", "19700101"))


def test_dicom_files_of_equal_names_and_other_ids_are_of_two_patients(tmp_path):
    for split, seed in (("train", 1), ("test", 2)):
        (tmp_path / split).mkdir()
        write_dicom(tmp_path / split / "a.dcm", np.stack([scene(0, seed)[..., 0]]), PatientID=f"MRN-{seed}")
    arguments = [f"--data={s}=recordings:{tmp_path / s}" for s in ("train", "test")]
    code, page = audit(tmp_path, *arguments)
    assert code == 0 and "No patient and no frame was found in two splits" in page


def test_all_faults_are_listed_and_none_ends_the_audit(tmp_path, capsys):
    def spoil(annotations):
        annotations[0]["bbox"] = [5, 5, 0, 9]
        annotations[1]["bbox"] = [40, 5, -9, 9]
        annotations[2]["bbox"] = [900, 5, 9, 9]
        annotations[3]["bbox"] = [100, 5, 90, 9]
        annotations[4]["bbox"] = ["1", 2, 3, 4]
        for n in range(12, 24):
            annotations[n]["bbox"] = [7, 7, 20, 20]

    still = [scene(3, 5)] * 4 + clip(6, 8)
    train = write_set(
        tmp_path, "train", {"a": clip(1, 12), "b": still, "c": [np.full((64, 64, 3), 9, np.uint8)] * 2}, annotate=spoil
    )
    picture = tmp_path / "train" / "a" / "7.png"
    picture.write_bytes(picture.read_bytes()[:-30])
    (tmp_path / "train" / "a" / "8.png").unlink()
    whole = tmp_path / "train" / "a" / "9.png"
    data = bytearray(whole.read_bytes())
    data[40:60] = bytes(20)  # header and end are sound, what lies between is not
    whole.write_bytes(data)
    code, page = audit(tmp_path, "--data", train, "--option", "class_agnostic=false")
    assert code == 0
    rows = {
        "box is empty": "frame 0 annotation 0",
        "box outside the frame": "frame 2 annotation 2",
        "box is not four numbers": "frame 4 annotation 4",
        "frame is truncated": "a/7.png is a truncated PNG",
        "frame is missing": "a/8.png does not exist",
        "boxes had a negative width or height and were corrected": "frame 1 annotation 1",
        "boxes went past the frame&#x27;s edge and were clipped to it": "frame 3 annotation 3",
    }
    for kind, where in rows.items():
        assert re.search(f"<td>{re.escape(kind)}</td><td>[^<]*{re.escape(where)}", page), kind
    assert re.search(r"Video &#x27;a&#x27; frame \d+: [^<]*9\.png", page)
    assert "<td>train: b</td><td>0</td><td>0 to 11</td><td>12</td>" in page  # the box that stays
    assert "<td>train: b</td><td>3</td><td>0 to 3</td>" in page  # the image that stays
    assert "<td>train: c</td><td>2</td>" in page  # blank
    assert "<td>cyst</td>" in page


def test_a_table_or_folds_say_the_splits(tmp_path, capsys):
    data = write_set(tmp_path, "all", {"x/a-l": clip(1), "x/b-l": clip(2), "x/c": clip(2)}, patients={"x/b-l": "b"})
    table = tmp_path / "folds.csv"
    table.write_text("ID,kFold\na-l,1\nb-l,1\nc,2\n")
    by_table = ["--data", data, "--split-table", table, "--id-column", "ID", "--split-column", "kFold"]
    assert audit(tmp_path, *by_table)[0] == 1  # b and c are one recording
    table.write_text("ID,kFold\na-l,1\nb-l,2\nc,2\n")
    code, page = audit(tmp_path, *by_table)
    assert code == 0 and "Identical frames in two videos of a split" in page
    assert audit(tmp_path, "--data", data, "--num-folds", "2")[0] in (0, 1)
    assert "fold 1" in capsys.readouterr().out


def test_what_cannot_be_read_at_all_gives_2(tmp_path, capsys):
    data = write_set(tmp_path, "all", {"a": clip(1)})
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "folds.csv").write_text("video,split\nz,1\n")
    for arguments, message in [
        (["--data", f"coco-video:{tmp_path / 'bad.json'}"], "is not JSON"),
        (["--data", f"coco-vdeo:{tmp_path / 'all.json'}"], "Did you mean 'coco-video'"),
        (["--data", "all.json"], "write FORMAT:PATH"),
        (["--data", data, "--option", "tset.patients=x"], "no --data has the split 'tset'"),
        (["--data", data, "--option", "patient=x"], "Did you mean 'patients'"),
        (["--data", data, "--split-table", tmp_path / "folds.csv"], "has no row for video 'a' (1 video without)"),
        (
            ["--data", data, "--split-table", tmp_path / "folds.csv", "--id-column", "ID"],
            "has no column 'ID'; there are video, split",
        ),
        (["--data", data, "--num-folds", "1"], "at least two folds are needed"),
    ]:
        assert audit(tmp_path, *arguments)[0] == 2
        assert message in capsys.readouterr().err


def test_faults_outlive_folds_and_tables_and_are_counted_in_the_last_words(tmp_path, capsys):
    gone = write_set(tmp_path, "gone", {"g": clip(3, 2)})
    (tmp_path / "gone" / "g" / "0.png").rename(tmp_path / "elsewhere.png")
    (tmp_path / "gone" / "g" / "1.png").unlink()
    table = tmp_path / "folds.csv"
    table.write_text("video,split\na,one\nb,two\n")
    for data in (
        ["--data", gone],
        ["--data", gone, "--data", write_set(tmp_path, "good", {"a": clip(1), "b": clip(2)})],
    ):
        for regrouped in ([], ["--num-folds", "2"], ["--split-table", table]):
            assert audit(tmp_path, *data, *regrouped)[0] == 2, regrouped
            printed = " ".join(capsys.readouterr().out.split())
            assert "Not all of the data could be used: files are missing under the root (2)." in printed
    (tmp_path / "gone" / "g").rename(tmp_path / "films")
    for n in (1, 2):
        (tmp_path / "films" / f"{n}.mp4").write_bytes(b"no movie")
    (tmp_path / "films" / "7.png").write_bytes((tmp_path / "elsewhere.png").read_bytes())
    assert audit(tmp_path, "--data", f"recordings:{tmp_path / 'films'}")[0] == 0
    printed = capsys.readouterr().out
    assert "could be used: recording can't be read (2)." in " ".join(printed.split())
    assert f"\n{tmp_path / 'films'}\n" in printed  # whole, so that it can be copied


def test_near_duplicates_are_those_of_a_comparison_of_all_with_all(monkeypatch):
    monkeypatch.setattr("ultravid.datasets.audit.similarity._BLOCK", 7)
    monkeypatch.setattr("ultravid.datasets.audit.similarity._PART", 5)
    rng = np.random.default_rng(0)
    images = [scene(int(rng.integers(3)), int(rng.integers(4))) for _ in range(40)]
    groups = rng.integers(0, 9, 40)
    split_of, patient_of = rng.integers(0, 2, 9), rng.integers(0, 5, 9)
    table = FrameTable()
    for image in images:
        table.add(image)
    expected = {}
    for i, j in itertools.permutations(range(40), 2):
        a, b = int(groups[i]), int(groups[j])
        bits = sum(int(x ^ y).bit_count() for x, y in zip(table.bits[i], table.bits[j], strict=True))
        correlation = float(table.thumbnails[i] @ table.thumbnails[j])
        if (
            a < b
            and (split_of[a] != split_of[b] or patient_of[a] != patient_of[b])
            and bits <= 56
            and correlation >= 0.95
        ):
            best, number = expected.get((a, b), (0.0, 0))
            expected[a, b] = (max(best, correlation), number + 1)
    found = find_near_duplicates(table, groups, split_of[groups], patient_of[groups])
    assert {d.groups: d.num_pairs for d in found} == {pair: number for pair, (_, number) in expected.items()}
    assert len(found) > 5
    for d in found:
        assert d.correlation == pytest.approx(expected[d.groups][0], abs=1e-5)
        assert groups[d.frames[0]] == d.groups[0] and groups[d.frames[1]] == d.groups[1]


def test_a_movie_and_its_copy_in_another_format_are_near_duplicates(tmp_path):
    for split, name, how in (("train", "a.mp4", {}), ("test", "b.avi", {"codec": "mpeg4", "b_frames": 0})):
        (tmp_path / split).mkdir()
        write_movie(tmp_path / split / name, range(8), **how)
    arguments = [f"--data={s}=recordings:{tmp_path / s}" for s in ("train", "test")]
    code, page = audit(tmp_path, *arguments)
    assert code == 1 and "Near-duplicate frames in two splits" in page
