"""A published UPT as a run's folder: its head and its detector, by which photos are looked at."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.ops import FrozenBatchNorm2d

from rmlr.commands.adopt import adopt
from rmlr.data.records import save_vocabulary
from rmlr.hoi import Vocabulary
from rmlr.learning.inference import load
from rmlr.model.published import CLASSES
from rmlr.model.upt import VCOCO_VERBS, load_upt_weights
from rmlr.study.plan import Study

from ..upt_layout import random_head

ROOT = Path(__file__).parents[2]
VERBS = tuple(reversed(VCOCO_VERBS.split(", ")))  # in an order of our own
VOCABULARY = Vocabulary("vcoco", tuple(CLASSES), 0, VERBS, tuple((verb, 32) for verb in range(len(VERBS))))
DIM = 32


@pytest.fixture
def params(tmp_path) -> Path:
    """The tiny profile with as many codes as UPT has."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["profiles"]["tiny"]["network"]["upt"]["code_dims"] = [8, 8]
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture
def published(tmp_path, params) -> Path:
    """A whole file in UPT's layout, as its training leaves it: detector and head, all random."""
    torch.manual_seed(0)
    body = ResNet(BasicBlock, [1, 1, 1, 1], norm_layer=FrozenBatchNorm2d)
    state = {f"backbone.0.body.{name}": t for name, t in body.state_dict().items() if not name.startswith("fc")}

    def linear(name: str, outputs: int, inputs: int, *more: int) -> None:
        state.update({f"{name}.weight": torch.randn(outputs, inputs, *more) / 6, f"{name}.bias": torch.randn(outputs)})

    def norm(name: str) -> None:
        state.update({f"{name}.weight": torch.ones(DIM), f"{name}.bias": torch.zeros(DIM)})

    for kind, attentions in (("encoder", ["self_attn"]), ("decoder", ["self_attn", "multihead_attn"])):
        layer = f"transformer.{kind}.layers.0"
        for number, attention in enumerate(attentions):
            state[f"{layer}.{attention}.in_proj_weight"] = torch.randn(3 * DIM, DIM) / 6
            state[f"{layer}.{attention}.in_proj_bias"] = torch.zeros(3 * DIM)
            linear(f"{layer}.{attention}.out_proj", DIM, DIM)
            norm(f"{layer}.norm{number + 1}")
        norm(f"{layer}.norm{len(attentions) + 1}")
        linear(f"{layer}.linear1", 48, DIM)
        linear(f"{layer}.linear2", DIM, 48)
    norm("transformer.decoder.norm")
    state["query_embed.weight"] = torch.randn(12, DIM)
    linear("input_proj", DIM, 512, 1, 1)
    linear("class_embed", 81, DIM)
    for number, outputs in enumerate((DIM, DIM, 4)):
        linear(f"bbox_embed.layers.{number}", outputs, DIM)
    upt = Study.load(params).profiles["tiny"].network.upt
    head = random_head(upt, token=DIM, channels=512, branches=4)
    content = {f"detector.{name}": tensor for name, tensor in state.items()}
    content |= {f"interaction_head.{name}": tensor for name, tensor in head.items()}
    path = tmp_path / "upt.pt"
    torch.save({"iteration": 9, "epoch": 1, "model_state_dict": content}, path)
    return path


def take(tmp_path: Path, weights: Path, **changes) -> Path:
    annotations, out = tmp_path / "prepare", tmp_path / "adopted"
    annotations.mkdir(exist_ok=True)
    save_vocabulary(annotations / "vocabulary.json", VOCABULARY)
    given = {"annotations": annotations, "run": "table1/upt", "params": tmp_path / "params.yaml", "profile": "tiny"}
    adopt(weights, **(given | {"out": out} | changes))
    return out


def test_what_was_adopted_is_loaded_as_any_run_with_its_own_detector(tmp_path, published):
    out = take(tmp_path, published)
    found, expected = load(out).network.state_dict(), load_upt_weights(published, VOCABULARY)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert {path.name for path in (out / "detector").iterdir()} >= {"config.json", "model.safetensors"}
    card = json.loads((out / "train" / "checkpoint.json").read_text())
    assert card["variant"]["network"] == "upt"
    assert card["channels"] == 512
    assert yaml.safe_load((out / "predict" / "settings.yaml").read_text())["prediction"]["prior_power"] == 2.8


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"run": "shared/rmlr"}, r"profile tiny has no run 'shared/rmlr' of variant upt"),
        ({"run": "bogus"}, r"no run 'bogus' of variant upt"),
        ({"run": "table1/upt_hicodet"}, r"prepare: is vcoco, but run table1/upt_hicodet is of hicodet|no run"),
        ({"profile": "huge"}, r"'huge'"),
    ],
)
def test_what_is_asked_for_wrongly_is_named_and_nothing_is_written(tmp_path, published, changes, said):
    with pytest.raises(ValueError, match=said):
        take(tmp_path, published, **changes)
    assert not (tmp_path / "adopted").exists()


def test_weights_of_other_sizes_and_a_folder_that_is_there_are_refused(tmp_path, published):
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")  # one code less
    with pytest.raises(ValueError, match=r"upt\.pt: has other sizes than run table1/upt"):
        take(tmp_path, published)
    (tmp_path / "adopted").mkdir()
    with pytest.raises(ValueError, match=r"adopted: exists"):
        take(tmp_path, published)
