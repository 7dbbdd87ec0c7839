"""Split stills by patient into train.json and test.json, and judge the best constant box on them.

    python projects/basicdet/split_stills.py --annotations BUSBRA/coco_train.json --output datasets/stills

The constant box is a share of the picture, the same for every picture, chosen on the training part by how many lesions it
overlaps with an IoU of at least 0.5; its AP50 on the test part is what a detector that looks at nothing reaches.
"""

import argparse
import itertools
import json
import random
import sys
from pathlib import Path

import numpy as np

from ultravid.data import load_coco_stills
from ultravid.evaluation import DetectionPool, FrameResult, VideoResult, average_precision
from ultravid.evaluation.results import pairwise_iou_np
from ultravid.utils.tool import run_tool


def split(annotations: Path, output: Path, share: float, seed: int) -> None:
    content = json.loads(annotations.read_text(encoding="utf-8"))
    patients = sorted({str(image.get("patient", image["file_name"])) for image in content["images"]})
    random.Random(seed).shuffle(patients)
    tested = set(patients[: round(len(patients) * share)])
    output.mkdir(parents=True, exist_ok=True)
    for name, is_test in (("train", False), ("test", True)):
        images = [i for i in content["images"] if (str(i.get("patient", i["file_name"])) in tested) == is_test]
        ids = {i["id"] for i in images}
        kept = [a for a in content["annotations"] if a["image_id"] in ids]
        part = {"images": images, "annotations": kept, "categories": content.get("categories", [])}
        (output / f"{name}.json").write_text(json.dumps(part), encoding="utf-8")
        print(f"{name}.json: {len(images)} images, {len(kept)} lesions")


def constant_box_ap50(output: Path, image_root: Path) -> tuple[list[float], float]:
    """The best constant box of the training part (XYXY, shares of the picture) and its AP50 on the test part, percent."""
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
    parser.add_argument("--annotations", type=Path, required=True, help="COCO's JSON; images may carry 'patient'")
    parser.add_argument("--image-root", type=Path, help="folder of the pictures; the annotations' own where not given")
    parser.add_argument("--output", type=Path, required=True, help="gets train.json and test.json")
    parser.add_argument("--test-share", type=float, default=0.2, help="share of the patients that go to test.json")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    split(args.annotations, args.output, args.test_share, args.seed)
    box, figure = constant_box_ap50(args.output, args.image_root or args.annotations.parent)
    print(f"best constant box {[round(v, 3) for v in box]} (shares of the picture): AP50 {figure:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
