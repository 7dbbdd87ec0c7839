"""A detector prepared for inference: norms folded, channels-last, large convolutions by Winograd, optionally as one graph.

Legend: ``H, W`` height and width of a frame in pixels.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch._inductor.exc import CppCompileError, InductorError
from torch.utils._pytree import tree_map

from ultravid.layers.conv import fold_norms
from ultravid.layers.matrix_conv import use_matrix_products
from ultravid.layers.winograd import use_winograd
from ultravid.modeling.detector import VideoDetector
from ultravid.modeling.types import Detections, State
from ultravid.structures import Clip
from ultravid.utils.memory import keep_freed_memory
from ultravid.utils.threads import threads_for

__all__ = ["CompileError", "InferenceDetector", "Precision", "prepare_for_inference"]

Precision = Literal["float32", "bfloat16"]
Step = Callable[[Tensor, State, int], tuple[Detections, State]]
COMPILER_ERRORS = (TorchDynamoException, InductorError, CppCompileError)
"""Of tracing, of TorchInductor, of the C++ compiler; what the model itself raises, such as a lack of memory, is none of them."""


class CompileError(RuntimeError):
    """A model that does not compile to one graph; the message names it and says why."""


def prepare_for_inference(
    model: VideoDetector,
    image_size: tuple[int, int] | None,
    *,
    precision: Precision = "float32",
    compile: bool = False,
    cuda_graphs: bool | None = None,
    threads: int | Literal["auto"] | None = None,
    winograd: bool | None = None,
) -> InferenceDetector:
    """A copy of a model that detects the same, but for rounding, and takes less time for it. The model stays as it is.

    On a CPU the process keeps the memory of a frame for the next one (`ultravid.utils.memory.keep_freed_memory`).

    Args:
        model: on its device.
        image_size: (H, W) of the frames; None for any size, which can't be compiled.
        precision: "bfloat16" computes convolutions and products of matrices in it; the state stays float32. It is faster on GPUs, and on
            CPUs with avx512_bf16 or AMX.
        compile: compile `VideoDetector.step` to one graph for each phase, by TorchInductor; it takes minutes, and happens here.
        cuda_graphs: replay the kernels as CUDA graphs, around the suppression of boxes; None does so on CUDA with ``compile``.
        threads: the number of threads per operation on the CPU, set for the whole process; "auto" chooses it by the size of the model; None leaves it.
        winograd: compute large 3x3 convolutions by `ultravid.layers.winograd`, whose weights take five times the memory. It needs a size and
            float32; None does so on a CPU if there are both.

    Raises:
        ValueError: ``compile`` without a size, CUDA graphs without ``compile`` or without CUDA, or ``winograd`` without a size or float32.
        CompileError: the model does not compile to one graph.
    """
    if compile and image_size is None:
        raise ValueError(
            "A model is compiled for one size of frames: prepare_for_inference needs image_size=(height, width)."
        )
    if cuda_graphs and not (compile and model.device.type == "cuda"):
        raise ValueError("CUDA graphs need compile=True and a model on a CUDA device.")
    by_winograd = image_size is not None and precision == "float32"
    if winograd and not by_winograd:
        raise ValueError('winograd=True needs image_size=(height, width) and precision="float32".')
    if threads is not None:
        size = sum(parameter.numel() for parameter in model.parameters())
        torch.set_num_threads(threads_for(size, torch.get_num_threads()) if threads == "auto" else threads)
    if model.device.type == "cpu":
        keep_freed_memory()
    plain = copy.deepcopy(model).eval().requires_grad_(False)
    plain.reset()
    fold_norms(plain)
    plain.to(memory_format=torch.channels_last)
    if by_winograd and (model.device.type == "cpu" if winograd is None else winograd):
        assert image_size is not None
        image, state = _first_step(plain, image_size)
        use_winograd(plain, lambda: plain.step(image, state))
    if model.device.type == "cpu" and precision == "float32":
        use_matrix_products(plain)
    if cuda_graphs is None:
        cuda_graphs = compile and model.device.type == "cuda"
    prepared = InferenceDetector(
        plain, image_size, precision=precision, compile=compile, cuda_graphs=cuda_graphs
    ).eval()
    if compile:
        prepared.warm_up()
    return prepared


class InferenceDetector(VideoDetector):
    """The result of `prepare_for_inference`: a detector with the contract of `VideoDetector`, without training.

    Args:
        model: in evaluation mode, prepared.
        image_size: the only size of frames that it takes; None for any.
        precision: see `prepare_for_inference`.
        compile: as of `prepare_for_inference`.
        cuda_graphs: as of `prepare_for_inference`.
    """

    def __init__(
        self,
        model: VideoDetector,
        image_size: tuple[int, int] | None,
        *,
        precision: Precision = "float32",
        compile: bool = False,
        cuda_graphs: bool = False,
    ) -> None:
        super().__init__(organs=model.organs, organ_loss_weights=model.organ_loss_weights, tracker=model.tracker)
        self.pixel_mean, self.pixel_std = model.pixel_mean, model.pixel_std
        self.model = model
        self.image_size = image_size
        self.precision = precision
        self.cuda_graphs = cuda_graphs
        self._model_step: Step = model.step
        if compile:
            options: dict[str, Any] = {"triton.cudagraphs": True} if cuda_graphs else {}
            if model.device.type == "cpu":
                options["freezing"] = True  # weights are constants: packed once, and fused with what follows
            self._model_step = torch.compile(model.step, fullgraph=True, dynamic=False, options=options)

    @property
    def num_phases(self) -> int:
        """`VideoDetector.num_phases` of the model."""
        return self.model.num_phases

    def phase(self, frame_number: int) -> int:
        """`VideoDetector.phase` of the model, for the same ``frame_number``."""
        return self.model.phase(frame_number)

    def initial_state(self, image_size: tuple[int, int], organ: str = "") -> State:
        """As `VideoDetector.initial_state`, for the ``image_size`` that the model was prepared for.

        Raises:
            ValueError: it was prepared for another size, or as `VideoDetector.organ_index` of ``organ``.
        """
        self._check_size(image_size)
        return self.model.initial_state(image_size, organ)

    def _step(self, image: Tensor, state: State, phase: int) -> tuple[Detections, State]:
        self._check_size((int(image.shape[-2]), int(image.shape[-1])))
        with self._autocast():
            if not self.cuda_graphs:
                return self._model_step(image, state, phase)
            torch.compiler.cudagraph_mark_step_begin()
            # The graph's own memory is written to by the next replay, so nothing of it leaves this function.
            detections, state = tree_map(torch.clone, tuple(self._model_step(image, state, phase)))
            return detections, state

    @torch.no_grad()
    def detect_clip(self, frames: Tensor, organ: str = "") -> Detections:
        """As `VideoDetector.detect_clip` of the model, in its precision, but not compiled."""
        with self._autocast():
            return self.model.detect_clip(frames, organ)

    def losses(self, clips: Sequence[Clip]) -> dict[str, Tensor]:
        """Not available: a prepared model can't be trained.

        Raises:
            RuntimeError: always.
        """
        del clips
        raise RuntimeError(
            "A model that is prepared for inference can't be trained; train the model that it was made from."
        )

    def warm_up(self) -> None:
        """Run each phase once, which compiles it.

        Raises:
            CompileError: a phase does not compile to one graph.
        """
        assert self.image_size is not None
        image, state = _first_step(self, self.image_size)
        for phase in range(self.num_phases):
            try:
                self.step(image, state, phase)
            except COMPILER_ERRORS as error:
                reason = str(error).strip().split("\n")[0]
                raise CompileError(
                    f"{describe(self.model)} does not compile to one graph (phase {phase}): {type(error).__name__}: {reason}"
                ) from error

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _check_size(self, size: tuple[int, int]) -> None:
        if self.image_size is not None and tuple(size) != tuple(self.image_size):
            raise ValueError(
                f"The model is prepared for frames of {self.image_size[1]}x{self.image_size[0]} px, got {size[1]}x{size[0]}: "
                "resize the frames, or call prepare_for_inference for their size."
            )


def _first_step(model: VideoDetector, image_size: tuple[int, int]) -> tuple[Tensor, State]:
    """An image and a state for a step whose results do not matter."""
    image = torch.zeros(3, *image_size, device=model.device)
    return image, model.initial_state(image_size, next(iter(model.organs), ""))


def describe(model: nn.Module) -> str:
    """A model's family and parts, such as ``TwoStage(ResNet, NoFeatureContext, RPN, ...)``."""
    return f"{type(model).__name__}({', '.join(type(part).__name__ for part in model.children())})"
