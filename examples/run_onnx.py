"""Run an exported detector over a movie with numpy, onnxruntime and PyAV alone.

python run_onnx.py EXPORT MOVIE DETECTIONS.json [THREADS]

EXPORT is a folder that `ultravid export --format onnx` wrote; its model.json explains itself under "notes".
"""

import json
import math
import os
import sys

import av
import numpy as np
import onnxruntime


def resize(image, size, axis):
    """Whole numbers along one axis, bilinear with antialiasing: what Pillow and torchvision give, to the last digit."""
    old = image.shape[axis]
    if size == old:
        return image
    center, reach = (np.arange(size)[:, None] + 0.5) * (old / size), max(old / size, 1.0)
    weight = np.maximum(1.0 - np.abs((np.arange(old) - center + 0.5) * (1.0 / reach)), 0.0)
    weight /= weight.sum(axis=1, keepdims=True)
    bits = max(p for p in range(23) if int(0.5 + weight.max() * 2**p) < 2**15)
    total = np.moveaxis(image, axis, -1) @ np.floor(0.5 + weight * 2**bits).T
    return np.moveaxis(np.floor(total / 2**bits + 0.5), -1, axis)


def detect(about, folder, movie, threads):
    """For each frame its time in seconds, and its detections in its own pixels."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # waiting threads leave the processor to others
    files = [os.path.join(folder, name) for name in about["phases"]["files"]]
    sessions = [onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"]) for file in files]
    names, cycle = [output["name"] for output in about["outputs"]], about["phases"]["cycle"]
    state = {i["name"]: np.full(i["shape"], i["initial"], i["dtype"]) for i in about["inputs"] if "initial" in i}
    (H, W), made = about["image_size"], about["preprocessing"]
    for number, frame in enumerate(movie.decode(video=0)):
        image = frame.to_ndarray(format="rgb24").transpose(2, 0, 1)
        h, w = image.shape[1:]
        scale = math.sqrt((made["area"] or h * w) / (h * w))
        if number == 0 and (round(h * scale), round(w * scale)) != (H, W):
            print(
                f"Detections are not ultravid's: it resizes {w}x{h} px to {w * scale:.0f}x{h * scale:.0f}, not {W}x{H}."
            )
        image = resize(resize(image, W, 2), H, 1)[:: 1 if made["channel_order"] == "RGB" else -1]
        inputs = {"image": np.ascontiguousarray(image, np.float32), **state}
        out = dict(zip(names, sessions[cycle[number % len(cycle)]].run(names, inputs), strict=True))
        state = {name: out[f"next_{name}"] for name in state}
        boxes = np.clip(out["boxes"] * np.array([w / W, h / H] * 2, np.float32), 0, [w, h] * 2)
        kept = out["valid"] & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        rows = zip(*(a[kept].tolist() for a in (boxes, out["scores"], out["classes"])), strict=True)
        yield frame.time, [{"box": b, "score": s, "class": about["classes"][c], "class_id": c} for b, s, c in rows]


def main(folder, path, output, threads="1"):
    with open(os.path.join(folder, "model.json"), encoding="utf-8") as file:
        about = json.load(file)
    with av.open(path) as movie:
        size = {"width": movie.streams.video[0].width, "height": movie.streams.video[0].height}
        found = enumerate(detect(about, folder, movie, int(threads)))
        frames = [{"index": i, "pts_s": pts_s, "detections": detections} for i, (pts_s, detections) in found]
    with open(output, "w", encoding="utf-8") as file:
        json.dump({"source": os.path.basename(path), **size, "frames": frames}, file, indent=1)


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) in (4, 5) else sys.exit(__doc__)
