"""Split still images by patient into train.json and test.json, and evaluate the best constant box on them.

    python projects/basicdet/split_stills.py --annotations BUSBRA/coco_train.json --output datasets/stills

The constant box has the same relative position and size in every image. It is the box that overlaps the most lesions of the
training images with an IoU of at least 0.5; its AP50 on the test images is what a detector reaches that ignores the image.
"""

import argparse
import itertools
import json
import random
import sys
from pathlib import Path

import numpy as np

from ultravid.data import load_coco_stills
from ultravid.datasets.patients import PatientRule, describe_unknown_patients, patient_key
from ultravid.evaluation import DetectionPool, FrameResult, VideoResult, average_precision
from ultravid.evaluation.matching import pairwise_iou_np
from ultravid.utils.tool import run_tool


def split(annotations: Path, output: Path, share: float, seed: int) -> None:
    content = json.loads(annotations.read_text(encoding="utf-8"))
    rule = PatientRule()
    patient_of: list[tuple[str, bool]] = []  # for each image, and whether that is known; two spellings are one patient
    for image in content["images"]:
        stated = image.get("patient")
        found = rule.patient(image["file_name"], None if stated is None else str(stated))
        patient_of.append((image["file_name"], False) if found is None else (patient_key(found), True))
    patients = sorted(set(patient_of))
    print(
        describe_unknown_patients(
            sum(not known for _, known in patient_of), len(patient_of), "as 'patient' of each image"
        )
        or "All patients are known."
    )
    random.Random(seed).shuffle(patients)
    tested = set(patients[: round(len(patients) * share)])
    output.mkdir(parents=True, exist_ok=True)
    for name, is_test in (("train", False), ("test", True)):
        chosen = [(patient in tested) == is_test for patient in patient_of]
        images = [image for image, is_chosen in zip(content["images"], chosen, strict=True) if is_chosen]
        ids = {i["id"] for i in images}
        kept = [a for a in content["annotations"] if a["image_id"] in ids]
        part = {"images": images, "annotations": kept, "categories": content.get("categories", [])}
        (output / f"{name}.json").write_text(json.dumps(part), encoding="utf-8")
        print(f"{name}.json: {len(images)} images, {len(kept)} lesions")


def constant_box_ap50(output: Path, image_root: Path) -> tuple[list[float], float]:
    """The best constant box of the training images (XYXY, relative to the image size) and its AP50 in percent on the test images."""
    frames = {
        n: [v.frames[0] for v in load_coco_stills(json_file=output / f"{n}.json", image_root=image_root)]
        for n in ("train", "test")
    }
    sizes = {n: np.array([[f.width, f.height] * 2 for f in part], np.float32) for n, part in frames.items()}
    owner = np.concatenate([np.full(len(f.boxes), i) for i, f in enumerate(frames["train"])])
    lesions = np.concatenate([f.boxes for f in frames["train"]]) / sizes["train"][owner]
    grid = itertools.product(
        np.linspace(0.3, 0.7, 17), np.linspace(0.2, 0.7, 21), np.linspace(0.15, 0.7, 23), np.linspace(0.1, 0.6, 21)
    )
    candidates = np.array([[x - w / 2, y - h / 2, x + w / 2, y + h / 2] for x, y, w, h in grid], np.float32)
    hits = np.concatenate([(pairwise_iou_np(part, lesions) >= 0.5).sum(1) for part in np.array_split(candidates, 200)])
    best = candidates[hits.argmax()]
    one = np.ones(1, np.float32)
    results = [
        VideoResult(str(i), [FrameResult(0, f.image_id, f.boxes, (best * size)[None], one)])
        for i, (f, size) in enumerate(zip(frames["test"], sizes["test"], strict=True))
    ]
    return best.tolist(), 100 * average_precision(DetectionPool(results), 0.5)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, required=True, help="COCO JSON; an image may have a 'patient'")
    parser.add_argument("--image-root", type=Path, help="folder of the images (default: the folder of the annotations)")
    parser.add_argument("--output", type=Path, required=True, help="folder to write train.json and test.json to")
    parser.add_argument("--test-share", type=float, default=0.2, help="share of the patients assigned to test.json")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    split(args.annotations, args.output, args.test_share, args.seed)
    box, ap50 = constant_box_ap50(args.output, args.image_root or args.annotations.parent)
    print(f"best constant box {[round(v, 3) for v in box]} (relative to the image): AP50 {ap50:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
