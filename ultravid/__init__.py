"""ultravid: train, evaluate and run detectors of lesions in ultrasound video."""

from ultravid.utils.threads import wait_passively

wait_passively()  # here, as it must come before torch, whichever module is imported first

__version__ = "0.1.0"
