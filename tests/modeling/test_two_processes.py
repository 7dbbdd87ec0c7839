"""Two processes train what one trains: normalisers are averaged over them."""

import pytest
import torch

from tests.modeling.random_models import SMALL, clip, deterministic_model
from tests.quick_python import spawns_quick_python
from ultravid.engine import create_ddp_model, launch
from ultravid.utils import comm

SIZE = (48, 64)


def clips():
    """Two clips with different numbers of boxes, so that no process has the mean number."""
    return [clip(1, 3, *SIZE, boxes=[2, 1, 2]), clip(2, 3, *SIZE, boxes=[0, 1, 0])]


def clips_with_one_box():
    """One box in all, so that the mean number over two processes is below one; the organ of its clip counts double."""
    single, empty = clip(1, 2, *SIZE, boxes=[0, 1]), clip(2, 2, *SIZE, boxes=0)
    single.organ = "thyroid"
    return [single, empty]


def losses_of_one_box(model, batch):
    (model.module if hasattr(model, "module") else model).organ_loss_weights = {"thyroid": 2.0}
    torch.manual_seed(0)
    with torch.no_grad():
        return model(batch)


def losses_and_gradients(model, batch):
    torch.manual_seed(0)
    losses = model(batch)
    sum(losses.values()).backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {k: v.detach() for k, v in losses.items()}, {n.removeprefix("module."): g for n, g in gradients.items()}


def train_one_clip_each(folder):
    torch.set_num_threads(1)
    results = {}
    for name in SMALL:
        model = create_ddp_model(deterministic_model(name), broadcast_buffers=False)
        losses, gradients = losses_and_gradients(model, [clips()[comm.get_rank()]])
        of_one_box = losses_of_one_box(model, [clips_with_one_box()[comm.get_rank()]])
        results[name] = comm.all_gather(losses), gradients, comm.all_gather(of_one_box)
    if comm.is_main_process():
        torch.save(results, folder / "results.pth")


def differences(of_processes, losses):
    """Losses whose mean over the processes differs from those of one process."""
    mean = {key: torch.stack([of_one[key] for of_one in of_processes]).mean() for key in losses}
    return [f"{k}: {mean[k]:.6g} not {v:.6g}" for k, v in losses.items() if (mean[k] - v).abs() > 1e-4 * v.abs()]


@pytest.mark.distributed
def test_two_processes_give_one_processs_losses_and_gradients(tmp_path):
    with spawns_quick_python():
        launch(train_one_clip_each, 2, args=(tmp_path,))
    results = torch.load(tmp_path / "results.pth", weights_only=True)
    wrong = {}
    for name in SMALL:
        model = deterministic_model(name)
        losses, gradients = losses_and_gradients(model, clips())
        of_two, gradients_of_two, of_two_with_one_box = results[name]
        found = differences(of_two, losses)
        found += differences(of_two_with_one_box, losses_of_one_box(model, clips_with_one_box()))
        scale = max(g.abs().max() for g in gradients.values())
        gaps = {n: ((gradients_of_two[n] - g).abs().max() / scale).item() for n, g in gradients.items()}
        found += [f"gradient of {n} differs by {gap:.2g}" for n, gap in gaps.items() if gap > 1e-4][:5]
        if found:
            wrong[name] = found
    assert not wrong, wrong
