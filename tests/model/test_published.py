"""A DETR as its authors publish it gives the same answers under the names of `transformers`."""

import argparse
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d
from transformers import DetrForObjectDetection

from rmlr.model.adapter import match_names
from rmlr.model.detector import FrozenDetector, load_detector, save_detector
from rmlr.model.detr import random_detector
from rmlr.model.published import ALL_CLASSES, CLASSES, origin_of

DIM, HEADS = 32, 8


class Attending(nn.Module):
    """A layer of DETR's encoder, or of its decoder where it reads a memory. Its attributes are the published names."""

    def __init__(self, reads_memory: bool):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(DIM, HEADS)
        if reads_memory:
            self.multihead_attn = nn.MultiheadAttention(DIM, HEADS)
            self.norm3 = nn.LayerNorm(DIM)
        self.linear1, self.linear2 = nn.Linear(DIM, 48), nn.Linear(48, DIM)
        self.norm1, self.norm2 = nn.LayerNorm(DIM), nn.LayerNorm(DIM)

    def forward(self, x: Tensor, code: Tensor, mask: Tensor | None, memory: Tensor | None, memory_code: Tensor):
        own_mask = mask if memory is None else None
        x = self.norm1(x + self.self_attn(x + code, x + code, x, key_padding_mask=own_mask)[0])
        if memory is None:
            return self.norm2(x + self.linear2(self.linear1(x).relu()))
        read = self.multihead_attn(x + code, memory + memory_code, memory, key_padding_mask=mask)[0]
        x = self.norm2(x + read)
        return self.norm3(x + self.linear2(self.linear1(x).relu()))


def named(**modules: nn.Module) -> Any:
    holder = nn.Module()
    for name, module in modules.items():
        holder.add_module(name, module)
    return holder


def sine_code(mask: Tensor) -> Tensor:
    """DETR's position code, from its paper: sines and cosines of y, then of x, counted over what is no padding."""
    halves = []
    for axis in (1, 2):
        place = (~mask).float().cumsum(axis)
        place = place / (place.select(axis, -1).unsqueeze(axis) + 1e-6) * 2 * math.pi
        angles = place[..., None] / 10000 ** (torch.arange(0, DIM // 2, 2) / (DIM // 2))
        halves.append(torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2))
    return torch.cat(halves, dim=-1)  # b h w d


class Original(nn.Module):
    """A small DETR in plain torch whose state has the names and layout of facebookresearch/detr."""

    def __init__(self, rows: int, block: type = Bottleneck, blocks: tuple[int, ...] = (1, 2, 1, 1), queries: int = 5):
        super().__init__()
        body = ResNet(block, list(blocks), norm_layer=FrozenBatchNorm2d)
        del body.fc, body.avgpool
        self.backbone = nn.Sequential(named(body=body))
        self.transformer = named(
            encoder=named(layers=nn.ModuleList(Attending(False) for _ in range(2))),
            decoder=named(layers=nn.ModuleList(Attending(True) for _ in range(3)), norm=nn.LayerNorm(DIM)),
        )
        self.query_embed = nn.Embedding(queries, DIM)
        self.input_proj = nn.Conv2d(512 * block.expansion, DIM, 1)
        self.class_embed = nn.Linear(DIM, rows)
        layers = (nn.Linear(DIM, DIM), nn.Linear(DIM, DIM), nn.Linear(DIM, 4))
        self.bbox_embed = named(layers=nn.ModuleList(layers))
        with torch.no_grad():
            for name, value in self.state_dict().items():
                value.uniform_(0.5, 1.5) if "norm" in name or "bn" in name or "downsample.1" in name else None
                value.uniform_(-0.3, 0.3) if name.endswith(("bias", "running_mean")) else None
                value.mul_(3) if re.search(r"class_embed.w|bbox_embed.*w|query|in_proj_w", name) else None
        self.eval()

    def forward(self, pixels: Tensor, is_padding: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Class logits, boxes (centre and size, 0 to 1), last tokens and the backbone's map."""
        body: Any = self.backbone[0].body
        x = body.maxpool(body.relu(body.bn1(body.conv1(pixels))))
        maps = body.layer4(body.layer3(body.layer2(body.layer1(x))))
        mask = nn.functional.interpolate(is_padding[None].float(), size=maps.shape[-2:]).bool()[0]
        code = sine_code(mask).flatten(1, 2).transpose(0, 1)  # hw b d
        memory, mask = self.input_proj(maps).flatten(2).permute(2, 0, 1), mask.flatten(1)
        for layer in self.transformer.encoder.layers:
            memory = layer(memory, code, mask, None, code)
        queries = self.query_embed.weight[:, None].expand(-1, len(pixels), -1)
        tokens = torch.zeros_like(queries)
        for layer in self.transformer.decoder.layers:
            tokens = layer(tokens, queries, mask, memory, code)
        tokens = boxes = self.transformer.decoder.norm(tokens).transpose(0, 1)
        for index, layer in enumerate(self.bbox_embed.layers):
            boxes = layer(boxes).relu() if index < 2 else layer(boxes).sigmoid()
        return self.class_embed(tokens), boxes, tokens, maps


@pytest.fixture(scope="module")
def original() -> Original:
    torch.manual_seed(0)
    return Original(rows=81)


def write(path: Path, state: dict[str, Tensor], key: str = "model", **more) -> Path:
    torch.save({key: state, **more}, path)
    return path


@torch.no_grad()
@pytest.mark.parametrize(("rows", "block"), [(81, Bottleneck), (92, Bottleneck), (92, BasicBlock)])
def test_a_published_detr_gives_the_same_logits_boxes_tokens_and_map(tmp_path, rows, block):
    torch.manual_seed(1)
    theirs = Original(rows, block)
    load_detector(str(write(tmp_path / "detr.pth", theirs.state_dict()))).save_pretrained(tmp_path / "ours")
    ours = load_detector(str(tmp_path / "ours"))
    pixels = nn.functional.interpolate(2 * torch.randn(2, 3, 8, 10), scale_factor=16)
    is_padding = torch.zeros(2, 128, 160, dtype=torch.bool)
    is_padding[1, 96:], is_padding[1, :, 128:] = True, True
    pixels[is_padding[:, None].expand_as(pixels)] = 0
    maps = []
    ours.model.backbone.register_forward_hook(lambda _module, _inputs, output: maps.append(output[-1][0]))
    found = ours(pixels, pixel_mask=(~is_padding).long())
    expected = theirs(pixels, is_padding)
    for mine, other in zip((found.logits, found.pred_boxes, found.last_hidden_state, maps[0]), expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)
    assert found.logits.std() > 0.5
    assert found.pred_boxes.std(1).mean() > 0.01, "queries differ"


def test_its_classes_are_known_by_name_whichever_head_it_has(tmp_path):
    """The same rows, as COCO's category ids and as its 80 classes, give the same instances."""
    torch.manual_seed(2)
    many = Original(92)
    state = many.state_dict()
    kept = [index for index, name in enumerate(ALL_CLASSES) if name in CLASSES] + [91]
    few = state | {name: state[name][kept] for name in ("class_embed.weight", "class_embed.bias")}
    with torch.no_grad():
        for rows in (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83):  # what COCO never annotated is never said
            state["class_embed.bias"][rows] = -1e9
    objects = sorted(name.replace(" ", "_") for name in CLASSES)  # as in HICO-DET
    shape = (1, 96, 96)
    inputs = (torch.randn(1, 3, *shape[1:]), torch.zeros(shape).bool(), *[torch.tensor([shape[1:]])] * 2)
    seen = [
        FrozenDetector(load_detector(str(write(tmp_path / f"{len(one)}-{key}.pth", one, key))), objects)(*inputs)
        for one, key in ((state, "model"), (few, "model_state_dict"))
    ]
    assert torch.equal(seen[0].labels, seen[1].labels)
    torch.testing.assert_close(seen[0].scores, seen[1].scores)
    logits = many(inputs[0], inputs[1])[0][0].detach()
    assert [objects[label].replace("_", " ") for label in seen[0].labels[0]] == [
        ALL_CLASSES[index] for index in logits[:, :91].argmax(-1)
    ]


def test_coco_and_hicodet_name_the_same_classes_in_the_published_orders(real_data):
    """By fredzzhang/hicodet's own correspondences, and by the classes that its annotations name."""
    folder = real_data / "annotations"
    objects = json.loads((folder / "instances_test2015.json").read_text())["objects"]
    of_80 = json.loads((folder / "coco80tohico80.json").read_text())
    assert match_names(CLASSES, objects) == [of_80[str(number + 1)] for number in range(80)]
    of_91 = json.loads((folder / "coco91tohico80.json").read_text())
    assert match_names(ALL_CLASSES, objects) == [of_91.get(str(number), -1) for number in range(91)]
    vcoco = json.loads((folder / "instances_vcoco_test.json").read_text())["objects"]
    assert match_names(CLASSES, vcoco[1:]) == list(range(80))


@pytest.mark.parametrize(("depths", "convolutions"), [((3, 4, 6, 3), 53), ((3, 4, 23, 3), 104)], ids=["R50", "R101"])
def test_every_tensor_of_the_published_sizes_has_its_place(depths, convolutions):
    with torch.device("meta"):
        ours, body = random_detector(depths, CLASSES), ResNet(Bottleneck, list(depths), norm_layer=FrozenBatchNorm2d)
    shapes = {}
    for name, tensor in ours.state_dict().items():
        origin, part = origin_of(name)
        shapes.setdefault(origin, []).append((part, tuple(tensor.shape)))
    backbone = {f"backbone.0.body.{name}": tuple(t.shape) for name, t in body.state_dict().items() if name[:2] != "fc"}
    assert {name: parts[0][1] for name, parts in shapes.items() if name.startswith("backbone")} == backbone
    assert all(len(parts) == (3 if "in_proj" in name else 1) for name, parts in shapes.items())
    small = Original(92, queries=100).state_dict()
    layers = {re.sub(r"layers\.\d", "layers.0", name) for name in small if name.startswith("transformer")}
    assert {re.sub(r"layers\.\d", "layers.0", name) for name in shapes if name.startswith("transformer")} == layers
    heads = {name for name in small if not name.startswith(("transformer", "backbone"))}
    assert {name for name in shapes if not name.startswith(("transformer", "backbone"))} == heads
    assert len(shapes) == 5 * convolutions + 6 * (12 + 18) + 2 + len(heads)


def test_a_trained_upts_detector_is_read_from_its_checkpoint(original, tmp_path):
    state = {f"detector.{name}": tensor for name, tensor in original.state_dict().items()}
    state["interaction_head.box_pair_predictor.bias"] = torch.zeros(24)
    path = write(tmp_path / "upt.pt", state, "model_state_dict", epoch=3)
    alone = load_detector(str(write(tmp_path / "detr.pth", original.state_dict())))
    for name, tensor in load_detector(str(path)).state_dict().items():
        assert torch.equal(tensor, alone.state_dict()[name]), name


def test_flags_of_detrs_own_training_are_read_without_running_anything(original, tmp_path):
    flags = argparse.Namespace(nheads=4, dilation=False)
    detr = load_detector(str(write(tmp_path / "detr.pth", original.state_dict(), args=flags)))
    assert detr.config.encoder_attention_heads == detr.config.decoder_attention_heads == 4
    dilated = write(tmp_path / "dc5.pth", original.state_dict(), args=argparse.Namespace(dilation=True))
    with pytest.raises(ValueError, match=r"dc5\.pth: a DETR with a dilated backbone"):
        load_detector(str(dilated))


def test_what_is_read_is_saved_and_loaded_as_the_librarys_own(original, tmp_path):
    detr = load_detector(str(write(tmp_path / "detr.pth", original.state_dict())))
    save_detector(detr, tmp_path / "saved")
    again = load_detector(str(tmp_path / "saved"))
    assert type(again) is DetrForObjectDetection
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in detr.state_dict().items())
    assert again.config.dropout == again.config.attention_dropout == again.config.activation_dropout == 0.1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("query_embed.weight"), r"there is no tensor 'query_embed\.weight'"),
        (lambda s: s.pop("bbox_embed.layers.1.bias"), r"1 tensor\(s\) lack \(bbox_embed\.layers\.1\.bias\)"),
        (
            lambda s: s.pop("transformer.decoder.layers.1.multihead_attn.in_proj_bias"),
            r"1 tensor\(s\) lack \(transformer\.decoder\.layers\.1\.multihead_attn\.in_proj_bias\)",
        ),
        (
            lambda s: s.update({"transformer.encoder.norm.weight": torch.zeros(DIM)}),
            r"1 tensor\(s\) are left over \(transformer\.encoder\.norm\.weight\)",
        ),
        (
            lambda s: s.update({"transformer.encoder.layers.0.self_attn.in_proj_weight": torch.zeros(DIM, DIM)}),
            r"are of another shape \(transformer\.encoder\.layers\.0\.self_attn\.in_proj_weight \(32, 32\)",
        ),
        (
            lambda s: s.update({"backbone.0.body.bn1.num_batches_tracked": torch.zeros(1)}),
            r"left over \(backbone\.0\.body\.bn1\.num_batches_tracked\)",
        ),
        (
            lambda s: s.update({"class_embed.weight": torch.zeros(251, DIM)}),
            r"its class head has 251 rows, expected 92 or 81",
        ),
        (lambda s: s.clear(), "there is no tensor"),
        (lambda s: s["class_embed.bias"].fill_(torch.nan), r"tensor 'class_embed\.bias' holds nan at \[0\]"),
    ],
)
def test_a_checkpoint_that_is_not_whole_or_not_a_detr_is_refused(original, tmp_path, change, said):
    state = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    change(state)
    with pytest.raises(ValueError, match=rf"(?s)detr\.pth: .*{said}"):
        load_detector(str(write(tmp_path / "detr.pth", state)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"epoch": 1}, "under 'model' or 'model_state_dict', found epoch"),
        ([1], "found list"),
        ({"model": {"a": 1}}, "found model"),
        ({}, "found "),
    ],
)
def test_a_file_with_other_content_is_refused(tmp_path, content, said):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=rf"other\.pth: expected .*{said}"):
        load_detector(str(tmp_path / "other.pth"))


def test_a_file_that_cannot_be_read_or_would_run_code_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.pth: cannot be read .*No such file"):
        load_detector(str(tmp_path / "nowhere.pth"))
    (tmp_path / "page.pth").write_bytes(b"<html>quota exceeded</html>")
    with pytest.raises(ValueError, match=r"page\.pth: cannot be read as a checkpoint"):
        load_detector(str(tmp_path / "page.pth"))
    torch.save({"model": {}, "hook": print}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match=r"code\.pth: cannot be read as a checkpoint"):
        load_detector(str(tmp_path / "code.pth"))
