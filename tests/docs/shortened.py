"""What the default test suite replaces in the blocks of a tutorial, so that it takes seconds: by page, each text and its replacement.

The outputs that depend on it are marked in the page by ``<!-- tutorial: full length -->``.
"""

from __future__ import annotations

__all__ = ["SHORTENED"]

SHORTENED: dict[str, dict[str, str]] = {
    "1_first_detector": {
        "--videos 120": "--videos 8 --frames 12 --size 64",
        "train.max_iter = 400": "train.max_iter = 24\ntrain.log_period = 6\ndataloader.train.frame_sampler.num_frames = 3",
        "train.checkpointer.period = 100": "train.checkpointer.period = 12\ndataloader.train.num_workers = 0",
        "iter: 139": "iter: 5 ",
        "model_0000199": "model_0000011",
    },
    "2_own_data": {
        "make_scans.py scans": "make_scans.py scans --frames 4 --size 64",
        "num_workers = 1": "num_workers = 0",
        "train.max_iter = 120": "train.max_iter = 2",
        "--output-dir outputs/folds\n": "--output-dir outputs/folds --folds 0,1\n",
    },
    "3_own_model": {
        "--videos 120": "--videos 8 --frames 12 --size 64",
        "frame_sampler.num_frames = 8": "frame_sampler.num_frames = 3",
        "train.max_iter = 200": "train.max_iter = 4\ndataloader.train.num_workers = 0",
    },
    "4_experiment": {
        "--videos 60 --frames 32 --test-fraction 0.35": "--videos 8 --frames 8 --size 64 --test-fraction 0.4 --workers 1",
        "num_frames = 6": "num_frames = 2\ndataloader.train.num_workers = dataloader.test.num_workers = 0",
        "train.max_iter = 100": "train.max_iter = 2",
        "'optimizer.lr=3e-4,1e-3,3e-3' 'train.seed=range(2)'": "optimizer.lr=1e-3 train.seed=0",
        "'optimizer.lr=3e-4,1e-3,3e-3,1e-2' 'train.seed=range(2)'": "'optimizer.lr=1e-3,3e-3' train.seed=0",
        "finished after": "job 0: started",
        "--reference optimizer.lr=1e-3": "--reference optimizer.lr=1e-3 --no-reports",
        "python tools/cross_validate.py": "true python tools/cross_validate.py",  # tutorial 2 runs it
        "--trials 4": "--trials 4 --dry-run",
        "python tools/lazyconfig_train.py": "true python tools/lazyconfig_train.py",  # of the search that was not run
    },
    "5_own_scan": {
        "--videos 120": "--videos 4 --frames 8 --size 64 --workers 1",
        "train.max_iter=600": "train.max_iter=2 dataloader.train.frame_sampler.num_frames=2 dataloader.{train,test}.num_workers=0",
        "--frames 90": "--frames 12 --workers 1",
        'phantom_00001.mp4", 54)': 'phantom_00001.mp4", 5)',
        "--frames 60": "--frames 8 --workers 1",
        "--port 8000": "--port 0",
        "python tools/export.py": "true python tools/export.py",  # 20 s of CPU, which its own tests spend
        "python examples/run_onnx.py": "true python examples/run_onnx.py",
    },
    "6_from_detectron2": {
        "--videos 60 --frames 32": "--videos 6 --frames 8 --size 64 --workers 1",
        "num_frames = 4": "num_frames = 2\ndataloader.train.num_workers = dataloader.test.num_workers = 0",
        "train.max_iter = 200": "train.max_iter = 2",
        "NUM_FRAMES: 4": "NUM_FRAMES: 2",
        "MAX_ITER: 100, STEPS: [80]": "MAX_ITER: 2, STEPS: [1]",
        "NUM_WORKERS: 1": "NUM_WORKERS: 0",
        "train.max_iter=20": "train.max_iter=2",
    },
}
