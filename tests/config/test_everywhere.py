"""``**.dropout=0.1`` sets a key wherever it stands, and lists where."""

import pytest
import torch

from ultravid.config import LazyCall, LazyConfig, Node, OverrideError, UnknownKeyError, check, explain_text
from ultravid.config.command_line import default_argument_parser, show_config


def model():
    layer = LazyCall(torch.nn.TransformerEncoderLayer)
    return Node(
        model=Node(
            first=layer(d_model=8, nhead=2, dropout=0.5),
            stack=[layer(d_model=8, nhead=2, dropout=0.25), LazyCall(torch.nn.Dropout)(p="${model.first.dropout}")],
            third=layer(d_model=8, nhead=2, dropout="${model.first.dropout}"),
            fourth=layer(d_model=8, nhead=2),
        ),
        head=Node(dropout="${train.rate}"),
        train=Node(rate=0.75),
        cfg_node=Node(dropout=1),
    )


def test_every_key_of_the_name_is_set_and_listed(caplog):
    cfg = LazyConfig.apply_overrides(model(), ["**.dropout=0.1"])
    assert cfg.model.first.dropout == cfg.model.stack[0].dropout == cfg.model.third.dropout == cfg.head.dropout == 0.1
    assert cfg.model.third.raw.dropout == "${model.first.dropout}"  # what refers to it stays a reference
    assert (cfg.train.rate, cfg.cfg_node.dropout, "dropout" in cfg.model.fourth) == (0.75, 1, False)
    assert caplog.messages == [
        "override 1: **.dropout=0.1 sets 3 keys:\n"
        "  model.first.dropout (was 0.5)\n"
        "  model.stack[0].dropout (was 0.25)\n"
        '  head.dropout (was ref("train.rate"))\n'
        "  model.third.dropout is a reference to model.first.dropout\n"
        "Not set, as the config does not write them:\n"
        "  model.fourth.dropout (torch.nn.modules.transformer.TransformerEncoderLayer takes 0.1); to set it write '+model.fourth.dropout=0.1'"
    ]
    assert "0.1  from override 1: **.dropout=0.1" in explain_text(cfg, "model.stack[0].dropout")
    LazyConfig.apply_overrides(cfg, ["+model.fourth.dropout=0.1"])


def test_a_plain_value_is_not_meant_for_an_object_of_the_name(caplog):
    cfg = model()
    cfg.hooks = Node(dropout=LazyCall(torch.nn.Dropout)(p=0.5), also="${hooks.dropout}")
    LazyConfig.apply_overrides(cfg, ["head.**.dropout=0.3", "**.dropout=0.1"])
    assert cfg.hooks.dropout.p == 0.5 and cfg.model.first.dropout == cfg.head.dropout == 0.1
    assert (
        "Not set, as they hold an object or a dict and other keys of the name a value:\n  hooks.dropout (torch.nn.modules.dropout.Dropout("
        in caplog.messages[-1]
    )
    LazyConfig.apply_overrides(cfg, ["hooks.**.dropout={_target_: torch.nn.Identity}", "~**.dropout"])
    assert "dropout" not in cfg.hooks and "dropout" not in cfg.head


def test_it_can_be_bounded_from_above_and_lengthened_below_and_deletes_too(tmp_path):
    cfg = LazyConfig.apply_overrides(model(), ["model.**.dropout=0.1", "**.first.nhead=4", "~head.**.dropout"])
    assert (cfg.model.first.dropout, cfg.model.first.nhead, cfg.model.stack[0].nhead) == (0.1, 4, 2)
    assert "dropout" not in cfg.head
    LazyConfig.save(cfg, tmp_path / "c.yaml")
    saved = LazyConfig.load(tmp_path / "c.yaml")
    assert saved.model.stack[0].dropout == 0.1 and saved == cfg and [f for f in check(saved) if f.fatal] == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("**.dropuot=0.1", r"'\*\*\.dropuot' matches no key in the config\. Did you mean '\*\*\.dropout'\?"),
        ("model.**.rate=1", r"matches no key below 'model'\."),
        (
            "**.batch_first=true",
            r"Some calls accept this argument .* '\+model\.first\.batch_first=true' for torch\.nn\..*, and 1 more",
        ),
        ("modle.**.dropout=1", r"Unknown key 'modle' of 'modle\.\*\*\.dropout'\. Did you mean 'model'\?"),
        ("++**.dropout=0.1", r"would add a key, and '\*\*' does not say where: write '\*\*\.dropout=0\.1'"),
        ("+**.dropout=0.1", r"'\+PLACE\.dropout=0\.1' to add it at one place"),
        ("**=1", r"'\*\*' is not a key: '\*\*' may occur once, between dots"),
        ("a**.b=1", "may occur once, between dots"),
        ("**.a.**.b=1", "may occur once, between dots"),
        ("**.dropout", r"sets nothing: write '\*\*\.dropout=VALUE'"),
        ("~**.drop", r"'\*\*\.drop' matches no key"),
    ],
)
def test_a_pattern_that_means_nothing_is_refused_with_what_would_be_right(override, message):
    with pytest.raises(OverrideError, match=message) as error:
        LazyConfig.apply_overrides(model(), [override])
    assert isinstance(error.value, UnknownKeyError) == (
        "matches no key" in message or "Unknown" in message or "accept" in message
    )


def test_a_value_that_does_not_fit_is_refused_for_each_place():
    with pytest.raises(OverrideError) as error:
        LazyConfig.apply_overrides(model(), ["**.dropout=much"])
    assert "'model.first.dropout' is 0.5" in str(error.value) and "'model.stack[0].dropout' is 0.25" in str(error.value)


def test_a_pattern_can_be_explained(tmp_path, capsys):
    path = tmp_path / "c.yaml"
    path.write_text("a: {rate: 1}\nb: {c: {rate: 2}}\n")
    args = default_argument_parser().parse_args(["--config-file", str(path), "--explain", "**.rate", "**.rate=5"])
    assert show_config(args)
    assert [line for line in capsys.readouterr().out.splitlines() if line[0] != " "] == ["a.rate = 5", "b.c.rate = 5"]
