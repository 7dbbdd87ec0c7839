"""Run an exported detector on a movie with numpy, onnxruntime and PyAV alone; model.json explains it under "notes".

python run_onnx.py EXPORT MOVIE DETECTIONS.json [THREADS]    # EXPORT: the folder that `ultravid export` wrote
"""

import json
import sys
from pathlib import Path

import av
import numpy as np
import onnxruntime


def resize(image, size, axis):
    """Resize one axis, bilinear with antialiasing, to whole numbers: exactly as Pillow and torchvision do."""
    old = image.shape[axis]
    center, reach = (np.arange(size)[:, None] + 0.5) * (old / size), max(old / size, 1.0)
    weight = np.maximum(1.0 - np.abs((np.arange(old) - center + 0.5) * (1.0 / reach)), 0.0)
    weight /= weight.sum(axis=1, keepdims=True)
    bits = max(p for p in range(23) if int(0.5 + weight.max() * 2**p) < 2**15)
    total = np.moveaxis(image, axis, -1) @ np.floor(0.5 + weight * 2**bits).T
    return np.moveaxis(np.floor(total / 2**bits + 0.5), -1, axis)


def detect(about, folder, movie, threads):
    """Yield the detections of each frame, in the frame's own pixels."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that wait use no processor
    steps = [onnxruntime.InferenceSession(folder / name, options).run for name in about["phases"]["files"]]
    names, cycle = [output["name"] for output in about["outputs"]], about["phases"]["cycle"]
    state = {i["name"]: np.full(i["shape"], i["initial"], i["dtype"]) for i in about["inputs"] if "initial" in i}
    (H, W), made, (h, w) = about["image_size"], about["preprocessing"], (movie.height, movie.width)
    scale = ((made["area"] or h * w) / (h * w)) ** 0.5
    if (size := (round(h * scale), round(w * scale))) != (H, W):
        print(f"warning: ultravid gives the model {size[1]}x{size[0]} px, not {W}x{H}, and so detects something else")
    for index, frame in enumerate(movie.container.decode(movie)):
        image = frame.to_ndarray(format="rgb24").transpose(2, 0, 1)
        image = image if (h, w) == (H, W) else resize(resize(image, W, 2), H, 1)
        image = np.ascontiguousarray(image[:: 1 if made["channel_order"] == "RGB" else -1], np.float32)
        out = dict(zip(names, steps[cycle[index % len(cycle)]](names, {"image": image, **state}), strict=True))
        state = {name: out[f"next_{name}"] for name in state}
        boxes = np.clip(out["boxes"] * np.array([w / W, h / H] * 2, np.float32), 0, [w, h] * 2)
        kept = out["valid"] & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        rows = zip(*(a[kept].tolist() for a in (boxes, out["scores"], out["classes"])), strict=True)
        found = [{"box": b, "score": s, "class": about["classes"][c], "class_id": c} for b, s, c in rows]
        yield {"index": index, "pts_s": frame.time, "detections": found}


def main(folder, path, output, threads="1"):
    with open(Path(folder, "model.json"), encoding="utf-8") as file, av.open(path) as container:
        movie, about = container.streams.video[0], json.load(file)
        frames = list(detect(about, Path(folder), movie, int(threads)))
        found = {"source": Path(path).name, "width": movie.width, "height": movie.height, "frames": frames}
    Path(output).write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(f"{len(frames)} frames, {sum(len(frame['detections']) for frame in frames)} detections: {output}")


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) in (4, 5) else sys.exit(__doc__)
