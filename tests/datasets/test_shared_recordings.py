"""Real recordings; ULTRAVID_SHARED_DATA names the folder that holds ``busbra``, ``clips`` and ``dicom``."""

import numpy as np
import pytest

from tests.conftest import load_tool
from ultravid.datasets import load_recordings, open_source
from ultravid.datasets.readers import read_frame_image
from ultravid.utils.tool import run_tool

pytestmark = [pytest.mark.data, pytest.mark.slow]

FRAMES = {
    "Cov_convex_volpecelli_sonographic_v1.mov": (403, 39.0),
    "Reg_Image_181206_crop.mp4": (495, 19.038),
    "Reg_Image_181739_trimmed_crop.mp4": (104, 29.029),
    "Reg_pat1Image_132943.mpeg": (280, 25.0),
    "Reg_pat2Image_133824.mpeg": (273, 25.0),
    "Vir_prospective_file1.mp4": (151, 25.0),
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_clips_frames_are_the_same_in_order_and_at_random(shared_data, name):
    source = open_source(shared_data / "clips" / name)
    in_order = list(source)
    assert (len(in_order), len(source)) == (FRAMES[name][0],) * 2
    assert source.fps == pytest.approx(FRAMES[name][1], abs=1e-3)
    for index in np.random.default_rng(0).permutation(len(source))[:25].tolist():
        assert np.array_equal(source.read(index), in_order[index])


def test_scanners_files_are_read_and_cropped_to_the_scan(shared_data):
    videos = {v.video_id: v for v in load_recordings(path=shared_data / "dicom")}
    video = videos["color3d_jpeg_baseline.dcm"]
    assert (len(video), video.metadata["device"]) == (120, "Turbo") and video.fps == pytest.approx(30.0003)
    assert read_frame_image(video, 119).shape == (384, 512, 3)
    assert video.metadata["spacing_mm"] == pytest.approx(0.5105, abs=1e-4)
    assert videos["JPGLosslessP14SV1_1s_1f_8b.dcm"].frames[0].crop == (14, 38, 1011, 759)


def test_the_folds_of_busbra_share_nothing(shared_data, tmp_path):
    folder = shared_data / "busbra"
    arguments = ["--data", f"coco-stills:{folder / 'coco_train.json'}", "--split-table", folder / "5-fold-cv.csv"]
    columns = ["--id-column", "ID", "--split-column", "kFold", "--output", tmp_path / "audit.html"]
    assert run_tool(load_tool("audit_dataset").main, list(map(str, arguments + columns))) == 0
