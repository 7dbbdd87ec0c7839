"""What a model may return in training, and what is refused before a weight moves."""

import numpy as np
import pytest
import torch
from torch import nn

from ultravid.engine import SimpleTrainer
from ultravid.utils.errors import UserError


class Model(nn.Module):
    """Returns what a function makes of a loss."""

    def __init__(self, returned):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.returned = returned

    def forward(self, x):
        return self.returned(self.layer(x).pow(2))


def train(returned):
    torch.manual_seed(0)
    model = Model(returned)
    before = [p.detach().clone() for p in model.parameters()]
    trainer = SimpleTrainer(model, [torch.ones(3, 2)], torch.optim.SGD(model.parameters(), lr=0.1), max_iter=2, seed=0)
    try:
        trainer.train()
    except UserError:
        assert all(map(torch.equal, before, model.parameters()))
        raise
    return model.layer.weight


def freeze(loss):
    return {"a": loss.mean().detach(), "b": loss.sum().detach()}


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (
            lambda x: {"a": x.mean(), "accuracy": 0.5},
            r"a float \(0.5\) for the loss 'accuracy'.*put_scalar\('accuracy'",
        ),
        (lambda x: {"a": x}, r"the loss 'a' of shape \(3, 1\).*reduce it, by .mean\(\) or .sum\(\)"),
        (lambda x: x.flatten(), r"the loss 'loss' of shape \(3,\)"),
        (lambda _: None, r"The model \(Model\) returned None.*Is there a return statement"),
        (lambda x: (x.mean(), 1), r"returned a tuple of 2"),
        (lambda x: [{"instances": x}], r"returned a list of 1.*in evaluation"),
        (lambda _: {}, r"no loss, but an empty dict"),
        (lambda x: {"a": {"b": x.mean()}}, r"a dict for the loss 'a'"),
        (lambda x: {"a": x.mean() * 1j}, r"the loss 'a' in complex64"),
        (lambda x: {"a": x.mean(), "n": torch.tensor(3)}, r"the loss 'n' in int64"),
        (lambda x: {"a": x.mean(), "n": torch.tensor(True)}, r"the loss 'n' in bool"),
        (lambda x: {"a": x.mean(), "n": np.float32(3)}, r"a float32 for the loss 'n'"),
        (lambda x: {"a": x.mean(), 3: x.mean()}, r"a loss by the name 3"),
        (lambda x: {"a": x.mean(), "b": torch.zeros((), device="meta")}, r"the loss 'b' on meta, and 'a' on cpu"),
        (lambda x: x.mean().detach(), r"The loss 'loss' has no gradient.*it was detached"),
        (freeze, r"The losses 'a', 'b' have no gradient"),
        (lambda x: {"a": x.mean(), "total_loss": x.mean()}, r"'total_loss' beside 'a'"),
    ],
    ids=range(17),
)
def test_what_is_no_loss_is_named_before_a_weight_moves(returned, message):
    with pytest.raises(UserError, match=message):
        train(returned)


def test_a_loss_of_one_element_is_a_scalar_and_odd_losses_are_reported(caplog):
    weight = train(lambda x: {"a": x.mean()})
    assert torch.equal(train(lambda x: {"a": x.mean().reshape(1), "b": torch.zeros(())}), weight)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    train(lambda x: {"a": x.mean(), "b": x.sum(), "loss": x.mean() + x.sum(), "accuracy": torch.tensor(0.5)})
    assert "The loss 'accuracy' has no gradient" in caplog.text
    train(lambda x: {"a": x.mean(), "b": x.sum(), "loss": x.mean() + x.sum()})
    assert "The loss 'loss' is the sum of the others" in caplog.text
