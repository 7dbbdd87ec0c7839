"""Write recordings as a hospital has them, from phantoms: to try on them how data of your own are read.

python make_scans.py FOLDER [--frames 48] [--size 128]

FOLDER/films holds the scans of 10 patients, left and right: movies (S01_left.mp4), of the last patient DICOM files with a name burnt in, and
for each the XML of an annotator who drew the boxes in CVAT. FOLDER/stills holds two images each of 20 patients and boxes.json, in COCO's
format. As in real data, something in boxes.json is wrong.
"""

import argparse
import json
from pathlib import Path

import av
import cv2
import numpy as np

from ultravid.datasets.phantom import make_phantom_video, write_phantom_dicom

SCANS = [f"S{patient:02}_{side}" for patient in range(1, 11) for side in ("left", "right")]
STILLS = [f"S{patient:02}_{number}" for patient in range(11, 31) for number in (1, 2)]
CVAT = """<annotations><version>1.1</version>
<meta><task><size>{frames}</size><original_size><width>{width}</width><height>{height}</height></original_size><source>{source}</source></task></meta>
<track id="0" label="lesion">
{boxes}
</track></annotations>
"""
BOX = '<box frame="{}" outside="{}" occluded="0" keyframe="1" xtl="{:.1f}" ytl="{:.1f}" xbr="{:.1f}" ybr="{:.1f}"/>'


def write_movie(path, frames):
    _, height, width = frames.shape
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, width=width, height=height, pix_fmt="yuv420p")
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(stream.encode())


def write_cvat(path, source, size, boxes):
    """One track; in frames without a box the lesion is "outside"."""
    lines = [
        BOX.format(frame, 0, *frame_boxes[0]) if len(frame_boxes) else BOX.format(frame, 1, 0, 0, 1, 1)
        for frame, frame_boxes in enumerate(boxes)
    ]
    height, width = size
    path.write_text(
        CVAT.format(frames=len(boxes), width=width, height=height, source=source, boxes="\n".join(lines)),
        encoding="utf-8",
    )


def write_films(folder, num_frames, size):
    folder.mkdir(parents=True)
    *movies, left, right = SCANS
    for number, name in enumerate(movies):
        video = make_phantom_video(num_frames, size, np.random.default_rng((1, number)))
        write_movie(folder / f"{name}.mp4", video.frames)
        write_cvat(folder / f"{name}.xml", f"{name}.mp4", (size, size), video.boxes)
    seed, top = 5, round(size / 8)  # px of the band above the scan
    list(write_phantom_dicom(folder, 2, num_frames, size, seed, num_workers=1))
    for number, name in enumerate((left, right)):
        (folder / f"phantom_{number:05d}.dcm").rename(folder / f"{name}.dcm")
        video = make_phantom_video(num_frames, size, np.random.default_rng((seed, number)))
        boxes = [frame_boxes + np.float32([0, top, 0, top]) for frame_boxes in video.boxes]
        write_cvat(folder / f"{name}.xml", f"{name}.dcm", (size + top, size), boxes)


def write_stills(folder, size):
    folder.mkdir(parents=True)
    images, annotations = [], []
    for number, name in enumerate(STILLS):
        video = make_phantom_video(1, size, np.random.default_rng((2, number)))
        cv2.imwrite(str(folder / f"{name}.png"), video.frames[0])
        images.append({"id": number + 1, "file_name": f"{name}.png", "width": size, "height": size})
        for x1, y1, x2, y2 in video.boxes[0].tolist():
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "category_id": 1, "image_id": number + 1}
            annotations.append({"id": len(annotations) + 1, **box})
    annotations[3]["image_id"] = 99  # the mistake
    coco = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "lesion"}]}
    (folder / "boxes.json").write_text(json.dumps(coco), encoding="utf-8")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--frames", type=int, default=48, help="of each film (48)")
    parser.add_argument("--size", type=int, default=128, help="width of a film and of a still, px (128)")
    args = parser.parse_args(argv)
    write_films(args.folder / "films", args.frames, args.size)
    write_stills(args.folder / "stills", args.size)
    print(f"Wrote {len(SCANS)} films and {len(STILLS)} stills to {args.folder}")


if __name__ == "__main__":
    main()
