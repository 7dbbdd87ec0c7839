"""Pictures that are missing: one message for a wrong folder, counts by folder if only some are missing."""

import json
import re

import cv2
import numpy as np
import pytest

from tests.conftest import load_tool
from ultravid.datasets import DataError, load_cvat_video, load_hospital_csv, load_labelme
from ultravid.datasets.faults import FaultSink
from ultravid.datasets.formats import load_coco_stills, load_cva_bus
from ultravid.utils.tool import run_tool


@pytest.fixture
def stills(tmp_path):
    """Twelve stills in two folders of ``tmp_path/right/pictures``; their JSON lies elsewhere."""
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cyst"}]}
    for n in range(12):
        name = f"pictures/{'ab'[n % 2]}/{n}.png"
        (tmp_path / "right" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "right" / name), np.full((20, 30), 9 + n, np.uint8))
        content["images"].append({"id": n, "file_name": name, "height": 20, "width": 30})
        content["annotations"].append({"id": n, "image_id": n, "bbox": [2, 3, 10, 5], "category_id": 1})
    (tmp_path / "stills.json").write_text(json.dumps(content))
    return tmp_path / "stills.json"


def test_a_wrong_root_is_one_message_and_what_it_tells_to_set_works(stills, tmp_path, capsys, caplog):
    (tmp_path / "wrong").mkdir()
    with pytest.raises(DataError, match=r"stills\.json: 12 of 12 pictures are missing under .*wrong") as error:
        load_coco_stills(json_file=stills, image_root=tmp_path / "wrong")
    said = str(error.value).rpartition("It is found with ")[2].rstrip(".")
    assert said == f"image_root={tmp_path / 'right'}" and "set image_root (" in str(error.value)
    assert len(load_coco_stills(json_file=stills, image_root=said.partition("=")[2])) == 12

    page = tmp_path / "audit.html"
    command = ["--data", f"coco-stills:{stills}", "--output", str(page), "--option"]
    assert run_tool(load_tool("audit_dataset").main, [*command, f"image_root={tmp_path / 'wrong'}"]) == 2
    output = capsys.readouterr()
    wrong = "12 of 12 pictures are missing"  # once on the terminal, and on the page
    assert (output.out + output.err).count(wrong) == 1 and wrong in output.err and wrong in page.read_text()
    assert page.read_text().count("does not exist") == 1 and not caplog.records
    assert run_tool(load_tool("audit_dataset").main, [*command, said]) == 0


def test_names_with_backslashes_are_read_and_a_hint_fits_the_name(stills, tmp_path, caplog):
    content = json.loads(stills.read_text())
    (tmp_path / "wrong" / "other").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "wrong" / "other" / "0.png"), np.zeros((20, 30), np.uint8))
    for image in content["images"]:
        image["file_name"] = image["file_name"].replace("/", "\\")
    stills.write_text(json.dumps(content))
    assert len(load_coco_stills(json_file=stills, image_root=tmp_path / "right")) == 12
    assert "12 images are named with backslashes, which are read as slashes" in caplog.text
    for image in content["images"]:
        image["file_name"] = "frames/" + image["file_name"].replace("\\", "/")
    stills.write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"\. {tmp_path}/right/pictures/a/0\.png exists\."):
        load_coco_stills(json_file=stills, image_root=tmp_path / "wrong")


def test_some_missing_pictures_are_counted_by_folder(stills, tmp_path, capsys):
    for n in (0, 2, 5):
        (tmp_path / "right" / "pictures" / "ab"[n % 2] / f"{n}.png").unlink()
    folder = tmp_path / "right" / "pictures"
    with pytest.raises(DataError) as error:
        load_coco_stills(json_file=stills, image_root=tmp_path / "right")
    assert f"3 of 12 pictures are missing: 2 in {folder}/a, 1 in {folder}/b" in str(error.value)
    page = tmp_path / "audit.html"
    command = ["--data", f"coco-stills:{stills}", "--output", str(page), "--option", f"image_root={tmp_path / 'right'}"]
    assert run_tool(load_tool("audit_dataset").main, command) == 0
    assert "<td>frame is missing</td>" in page.read_text() and "<td>3</td>" in page.read_text()


def test_cva_bus_without_its_pictures_names_root(tmp_path):
    images = [
        {"id": n, "video_id": 1, "frame_id": n, "file_name": f"v/{n}.png", "height": 9, "width": 9} for n in (0, 1)
    ]
    content = {"videos": [{"id": 1, "name": "v"}], "images": images, "annotations": []}
    (tmp_path / "trainval.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"2 of 2 pictures are missing under .*rawframes: set root to the folder"):
        load_cva_bus(root=tmp_path)


def write_labelme(folder):
    for n in range(3):
        content = {"shapes": [], "imageHeight": 9, "imageWidth": 9, "imagePath": f"{n}.png"}
        (folder / f"{n}.json").write_text(json.dumps(content))
    return {"root": folder}


def write_cvat(folder):
    for n in range(3):
        (folder / f"{n}.xml").write_text(f"<annotations><meta><source>film{n}.mp4</source></meta></annotations>")
    return {"xml": folder}


def write_table(folder):
    columns = "pkl_file,jpg_folder,neg,video_path,hospital,anno_format,polyline_error,db_key,device"
    (folder / "breast").mkdir()
    rows = [f",v{n},True,,h,json,False,k,d" for n in range(3)]
    (folder / "breast" / "20230102-030405.csv").write_text("\n".join([columns, *rows]))
    return {"root": folder, "datasets": ["breast_ALL@20230102-030405"]}


@pytest.mark.parametrize(
    ("load", "write", "message"),
    [
        (load_labelme, write_labelme, r"3 of 3 pictures are missing under .*: put them beside their JSON files"),
        (
            load_cvat_video,
            write_cvat,
            r"3 of 3 films are missing under .*: put them beside the XML files, or name a table",
        ),
        (load_hospital_csv, write_table, r"3 of 3 videos' folders are missing under .*breast: set root to the folder"),
    ],
)
def test_other_formats_without_their_pictures_are_one_message_too(tmp_path, load, write, message):
    arguments = write(tmp_path)
    with pytest.raises(DataError, match=message):
        load(**arguments)
    sink = FaultSink()
    assert load(**arguments, faults=sink) == []
    (fault,) = sink.faults
    assert re.match(message, fault.message) and fault.number == 3


def test_a_video_with_a_missing_picture_is_left_out_whatever_its_name(tmp_path, capsys):
    names = ["c", "c frame d", "it's \"video 'c'\""]
    content = {"videos": [], "images": [], "annotations": [], "categories": []}
    for v, name in enumerate(names):
        content["videos"].append({"id": v, "name": name, "fps": 10})
        for t in range(2):
            image = {"id": 2 * v + t, "video_id": v, "frame_id": t, "file_name": f"{v}/{t}.png"}
            content["images"].append({**image, "height": 20, "width": 30})
            (tmp_path / str(v)).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / f"{v}/{t}.png"), np.zeros((20, 30), np.uint8))
    (tmp_path / "scans.json").write_text(json.dumps(content))
    (tmp_path / "1" / "1.png").unlink()
    command = ["--format", "coco-video", "--path", str(tmp_path / "scans.json"), "--output", str(tmp_path / "out")]
    assert run_tool(load_tool("convert_dataset").main, command) == 2
    assert "frame is missing: video 'c frame d' frame 1" in capsys.readouterr().err
    (written,) = (tmp_path / "out").glob("[!mj]*.json")
    assert [row["name"] for row in json.loads(written.read_text())["videos"]] == [names[0], names[2]]
