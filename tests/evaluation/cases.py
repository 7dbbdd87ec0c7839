"""Small videos for the tests of metrics, and files of them."""

import json
from pathlib import Path

import numpy as np

from ultravid.evaluation import FrameResult, VideoResult

DATA = Path(__file__).parent / "data"

NONE = np.zeros((0, 4), np.float32)
A, B = [0, 0, 10, 10], [20, 20, 30, 30]
NEAR_A = [0, 0, 10, 9]  # IoU 0.9 with A
HALF_A = [0, 0, 10, 5]  # IoU 0.5 with A
FAR = [50, 50, 60, 60]


def frame(index, gt, boxes, scores, tracks=None):
    boxes, gt = (np.asarray(b, np.float32).reshape(-1, 4) for b in (boxes, gt))
    tracks = None if tracks is None else np.asarray(tracks, np.int64)
    return FrameResult(index, index, gt, boxes, np.asarray(scores, np.float32), tracks)


def video(*frames, fps=None, name="v", patient=None, metadata=None):
    return VideoResult(name, [frame(i, *f) for i, f in enumerate(frames)], fps, patient, metadata or {})


def random_videos(rng, num_videos=3, max_frames=25, step=0.05):
    """Videos with up to two lesions a frame; scores are multiples of ``step``, or all different if it is None."""
    videos = []
    for v in range(num_videos):
        frames = []
        for _ in range(rng.integers(5, max_frames)):
            gt = [random_box(rng) for _ in range(rng.integers(0, 3))]
            found = [jitter(rng, g) for g in gt if rng.random() < 0.8]
            boxes = found + [random_box(rng) for _ in range(rng.integers(0, 3))]
            scores = rng.random(len(boxes)) if step is None else rng.integers(1, 1 / step, len(boxes)) * step
            frames.append((gt, boxes, scores, list(range(len(gt)))))
        videos.append(video(*frames, name=f"v{v}", fps=25.0))
    return videos


def random_box(rng):
    x, y = rng.uniform(0, 60, 2)
    w, h = rng.uniform(8, 40, 2)
    return [x, y, x + w, y + h]


def jitter(rng, box):
    box = np.asarray(box) + rng.normal(0, 2, 4)
    return [*np.minimum(box[:2], box[2:]), *np.maximum(box[:2], box[2:])]


def reference_set(number):
    """Videos of a set that UltraDet's evaluator was run on, and its results. Frames without a prediction are left out."""
    with np.load(DATA / f"set{number}.npz") as file:
        content = dict(file)  # the file reads and decompresses an array at each access
    left_out = set(zip(content["none_video"].tolist(), content["none_frame"].tolist(), strict=True))
    videos = []
    for v, num_frames in enumerate(content["video_frames"]):
        frames = []
        for f in set(range(num_frames)) - {frame for video, frame in left_out if video == v}:
            gt, found = ((content[f"{k}_video"] == v) & (content[f"{k}_frame"] == f) for k in ("gt", "pred"))
            boxes, scores = content["pred_boxes"][found], content["pred_scores"][found]
            frames.append(FrameResult(f, 1000 * v + f, content["gt_boxes"][gt], boxes, scores))
        videos.append(VideoResult(f"video {v}", sorted(frames, key=lambda fr: fr.frame_index)))
    return videos, json.loads((DATA / f"set{number}.json").read_text())


def coco_content(videos, size=1000):
    """The videos as COCO-VID annotations and COCO results."""
    annotations = {"videos": [], "images": [], "annotations": [], "categories": [{"id": 1, "name": "lesion"}]}
    results = []
    for v, vid in enumerate(videos):
        row = {
            "id": v + 1,
            "name": vid.video_id,
            "fps": vid.fps,
            "patient": vid.patient,
            "metadata": dict(vid.metadata),
        }
        annotations["videos"].append({k: value for k, value in row.items() if value is not None})
        for f, fr in enumerate(vid.frames):
            image_id = 10_000 * (v + 1) + f
            image = {"id": image_id, "video_id": v + 1, "frame_id": f, "file_name": "", "height": size, "width": size}
            annotations["images"].append(image)
            for g, box in enumerate(fr.gt_boxes.tolist()):
                track = 0 if fr.gt_track_ids is None else int(fr.gt_track_ids[g]) + 1
                row = {"image_id": image_id, "video_id": v + 1, "bbox": xywh(box), "instance_id": track}
                annotations["annotations"].append({"id": len(annotations["annotations"]) + 1, "category_id": 1, **row})
            for box, score in zip(fr.boxes.tolist(), fr.scores.tolist(), strict=True):
                results.append({"image_id": image_id, "category_id": 1, "bbox": xywh(box), "score": score})
    return annotations, results


def xywh(box):
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def write_coco(folder, videos):
    """Paths of the annotations and the results."""
    paths = folder / "annotations.json", folder / "detections.json"
    for path, content in zip(paths, coco_content(videos), strict=True):
        path.write_text(json.dumps(content))
    return paths
