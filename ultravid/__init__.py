"""ultravid: train, evaluate and run detectors of lesions in ultrasound video."""

__version__ = "0.1.0"
