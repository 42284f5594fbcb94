"""Detectors of `transformers`: loading from a folder or the hub, and the differences between families.

Only this file and `rmlr.model.detr` depend on the library's names. A family is one line of `FAMILIES`; a detector of
another kind, such as one that is prompted with text, is refused with the reason.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel
from torch import Tensor
from transformers import AutoModelForObjectDetection, DetrForObjectDetection, PreTrainedConfig, PreTrainedModel
from transformers.utils.hub import cached_file
from transformers.utils.logging import disable_progress_bar

from rmlr.hoi.batch import DEVIATION, MEAN
from rmlr.hoi.boxes import xyxy_from_cxcywh
from rmlr.model.adapter import PICTURE, Adapter, Found, Picture
from rmlr.model.anchored import AnchoredDetrConfig, AnchoredDetrForObjectDetection
from rmlr.study.files import SHORT, check_form, read_json
from rmlr.study.section import Positive
from rmlr.study.settings import FixedSize, ImageSize, MapName, PictureSize
from rmlr.study.tensors import TensorFile, check_finite

WEIGHTS_FILE = "model.safetensors"
PROCESSOR_FILE = "preprocessor_config.json"
PROBE = 256  # size of the empty picture on which strides are measured, if a detector takes any size


@dataclass(frozen=True, slots=True)
class Family:
    """How one family outputs classes and maps. A map is named by its module; `*`: each of a list."""

    backbone: str
    projected: str = ""
    encoder: str = ""
    softmax: bool = False  # over classes and "no object", which comes last; else a sigmoid for each class
    is_fixed: bool = False  # it takes pictures of one size, which only its image processor specifies


_DETR = Family("model.backbone", "model.input_projection", "model.encoder")
_RT_DETR = Family("model.backbone", "model.encoder_input_proj.*", "model.encoder", is_fixed=True)
_LW_DETR = Family("model.backbone.backbone", "model.backbone", is_fixed=True)
FAMILIES: dict[str, Family] = {  # by `model_type`
    "conditional_detr": _DETR,
    "dab-detr": Family("model.backbone.conv_encoder", "model.input_projection", "model.encoder"),
    "deformable_detr": Family("model.backbone", "model.input_proj.*", "model.encoder"),
    "table-transformer": Family("model.backbone", "model.input_projection", "model.encoder", softmax=True),
    "rt_detr": _RT_DETR,
    "rt_detr_v2": _RT_DETR,
    "d_fine": _RT_DETR,
    "deimv2": Family("model.conv_encoder.model", "model.conv_encoder", "model.encoder", is_fixed=True),
    "lw_detr": _LW_DETR,
    "rf_detr": _LW_DETR,
    "yolos": Family("vit", softmax=True),  # a box's token is a detection token's, the map is of the patch tokens
}
DETRS: dict[str, type[DetrForObjectDetection]] = {
    "detr": DetrForObjectDetection,
    AnchoredDetrConfig.model_type: AnchoredDetrForObjectDetection,
}


class FamilyAdapter(Adapter):
    """A detector of one of `FAMILIES`."""

    def __init__(self, network: PreTrainedModel, map: MapName, strides: Sequence[int] | None) -> None:
        super().__init__()
        self.network = network.eval()
        config: Any = network.config
        self._family = FAMILIES[config.model_type]
        self.name = network.name_or_path or f"this {config.model_type}"
        self.names = class_names(config)
        self.picture = picture_of(config)
        self._map: MapName = map
        self._num_tokens: int | None = getattr(config, "num_detection_tokens", None)  # YOLOS
        self._patch: int = getattr(config, "patch_size", 1)
        if not getattr(self._family, map):
            kinds = [kind for kind in ("backbone", "projected", "encoder") if getattr(self._family, kind)]
            raise ValueError(f"{self.name}: a {config.model_type} has no map '{map}'. Set map to {' or '.join(kinds)}")
        self._kept: dict[str, list[Any]] = {}
        for kind in {map, "projected"}:
            self._keep(kind, getattr(self._family, kind))
        maps, strides_there, self.token_dim = self._probe(self.picture.size)
        place_of = {stride: place for place, stride in enumerate(strides_there)}
        self.strides = (max(place_of),) if strides is None else tuple(strides)
        if missing := [stride for stride in self.strides if stride not in place_of]:
            raise ValueError(
                f"{self.name}: its map '{map}' has stride {' or '.join(str(stride) for stride in sorted(place_of))}, "
                f"the settings ask for {missing[0]}. Set features.strides to some of these, or to null"
            )
        self._places = [place_of[stride] for stride in self.strides]
        self.channels = tuple(maps[place].shape[1] for place in self._places)

    def find(self, pixels: Float[Tensor, "b 3 height width"], is_padding: Bool[Tensor, "b height width"]) -> Found:
        output, levels = self._look(pixels)
        maps = tuple(levels[place] for place in self._places)
        return Found(
            probabilities=output.logits.softmax(-1)[..., :-1] if self._family.softmax else output.logits.sigmoid(),
            boxes=xyxy_from_cxcywh(output.pred_boxes),
            tokens=self._tokens(output),
            maps=maps,
            is_padding=tuple(torch.zeros_like(level[:, 0], dtype=torch.bool) for level in maps),
        )

    def check_size(self, size: PictureSize) -> None:
        """ValueError if it does not accept pictures of this size."""
        if isinstance(size, FixedSize):
            self._probe(size)

    def _probe(self, size: PictureSize) -> tuple[list[Tensor], list[int], int]:
        """The maps of an empty picture, their strides, and the width of its tokens."""
        height, width = (size.height, size.width) if isinstance(size, FixedSize) else (PROBE, PROBE)
        device = next(self.network.parameters()).device
        try:
            with torch.no_grad():
                output, levels = self._look(torch.zeros(1, 3, height, width, device=device))
        except (RuntimeError, ValueError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            why = str(error).partition("\n")[0]
            raise ValueError(
                f"{self.name}: does not accept a picture of {height} x {width} pixels (height, width): {why}. Set the "
                "detector's image to null, for the size in its checkpoint"
            ) from error
        return levels, [round(height / maps.shape[2]) for maps in levels], self._tokens(output).shape[2]

    def _look(self, pixels: Tensor) -> tuple[Any, list[Tensor]]:
        """The network's output, and its maps."""
        self._kept = {}
        named = {} if self._num_tokens else {"pixel_mask": torch.ones_like(pixels[:, 0], dtype=torch.long)}
        output: Any = self.network(pixels, **named)
        if self._num_tokens:  # YOLOS: [CLS], patches, detection tokens
            rows, columns = (side // self._patch for side in pixels.shape[2:])
            patches = output.last_hidden_state[:, 1 : -self._num_tokens]
            return output, [patches.transpose(1, 2).unflatten(2, (rows, columns))]
        grids = [tuple(maps.shape[2:]) for kept in self._kept.get("projected", []) for maps in _maps(kept, [])]
        return output, [maps for kept in self._kept[self._map] for maps in _maps(kept, grids)]

    def _tokens(self, output: Any) -> Float[Tensor, "b q d"]:
        return output.last_hidden_state[:, -self._num_tokens :] if self._num_tokens else output.last_hidden_state

    def _keep(self, kind: str, path: str) -> None:
        """Store the output of the modules at a path at each call."""
        if not path or self._num_tokens:
            return
        parent = self.network.get_submodule(path.removesuffix(".*"))
        for module in parent.children() if path.endswith(".*") else [parent]:
            module.register_forward_hook(
                lambda _module, _inputs, output: self._kept.setdefault(kind, []).append(output)
            )


def _maps(kept: Any, grids: Sequence[tuple[int, ...]]) -> Iterator[Float[Tensor, "b c h w"]]:
    """The maps in a module's output: one, a list, pairs with masks, or a sequence of cells of these grids."""
    if isinstance(kept, Tensor) and kept.dim() == 4:
        yield kept
    elif isinstance(kept, Tensor) and kept.dim() == 3 and kept.is_floating_point():
        sizes = [grid[0] * grid[1] for grid in grids]
        for cells, grid in zip(kept.split(sizes, dim=1), grids, strict=True):
            yield cells.transpose(1, 2).unflatten(2, grid)
    elif isinstance(kept, list | tuple):
        for one in kept:
            yield from _maps(one, grids)
    elif not isinstance(kept, Tensor):
        found = getattr(kept, "feature_maps", None)
        yield from _maps(kept.last_hidden_state if found is None else found, grids)


# ---- reading


def load_transformers(source: str, revision: str | None = None) -> PreTrainedModel:
    """A detector from a folder of `save_pretrained`, or the hub; ValueError names what is missing.

    The library itself would initialise missing weights at random.
    """
    disable_progress_bar()
    origin: dict[str, Any] = {"revision": revision} if revision else {}
    if Path(source).is_dir():
        advice = "Is this the folder of a detector (`save_pretrained`)?"
        read_json(Path(source, "config.json"), Config, advice)
        if not (path := Path(source, WEIGHTS_FILE)).is_file():
            raise ValueError(f"{path}: does not exist. {advice}")
        dict(TensorFile(Path(source, WEIGHTS_FILE), "Make or get the detector again"))  # all of them are checked
    try:
        kind = PreTrainedConfig.get_config_dict(source, **origin)[0].get("model_type")
    except (OSError, AttributeError, TypeError) as error:  # the latter: JSON, but not an object
        raise ValueError(
            f"{source}: neither a folder with a detector (config.json, {WEIGHTS_FILE}) nor a model of the hub ({error})"
        ) from error
    if kind not in DETRS and kind not in FAMILIES:
        raise ValueError(
            f"{source}: its config.json says model_type '{kind}'. Expected a detector that has a token for each box "
            f"and needs no text: {', '.join(['detr', *FAMILIES])}. Any other can be a class of your own: "
            "docs/detectors.md"
        )
    form = DETRS.get(kind, AutoModelForObjectDetection)
    try:
        loaded: Any = form.from_pretrained(
            source, **origin, output_loading_info=True, ignore_mismatched_sizes=True, use_safetensors=True
        )
    except Exception as error:  # of a damaged config.json, many kinds
        said = (str(error).splitlines() or [type(error).__name__])[0]
        what = "DETR" if kind in DETRS else kind
        raise ValueError(f"{source}: config.json and {WEIGHTS_FILE} are not a {what} ({said}). Get it again") from error
    network, report = loaded
    faults = {
        "missing": sorted(report["missing_keys"]),
        "unexpected": sorted(key for key in report["unexpected_keys"] if not key.endswith("num_batches_tracked")),
        "of another shape": sorted(str(key) for key in report["mismatched_keys"]),
    }
    said = [f"{len(keys)} {fault}: {', '.join(keys[:5])}" for fault, keys in faults.items() if keys]
    if said:
        raise ValueError(f"{source}: weights do not fit the architecture of its config.json. {'; '.join(said)}")
    check_finite(source, network.state_dict(), "Get the detector again")
    _note_picture(network, source, revision, kind)
    return network


def class_names(config: Any) -> list[str]:
    """Names of the classes in the order of the logits, without "no object"; N/A if an id has no name."""
    names = config.id2label or {}
    return [names.get(index, "N/A") for index in range(max(names, default=-1) + 1)]


def picture_of(config: Any) -> Picture:
    """The input format of a detector of `transformers`: from its checkpoint, else DETR's."""
    return check_form(f"{config.name_or_path}: {PICTURE} of its config.json", getattr(config, PICTURE, {}), Picture)


def _note_picture(network: PreTrainedModel, source: str, revision: str | None, kind: str) -> None:
    """Store the settings of the checkpoint's image processor in its configuration, if they differ from DETR's."""
    if hasattr(network.config, PICTURE):
        return  # saved by `save_detector`
    found = cached_file(source, PROCESSOR_FILE, revision=revision, _raise_exceptions_for_missing_entries=False)
    if found is not None:
        picture = read_picture(Path(found))
        if picture != Picture():
            setattr(network.config, PICTURE, picture.model_dump())
    elif kind in FAMILIES and FAMILIES[kind].is_fixed:
        raise ValueError(
            f"{source}: has no {PROCESSOR_FILE}, which specifies the input size of a {kind}. Get it from the source "
            "of the weights"
        )


class Config(BaseModel):
    """The field of a detector's config.json that is read before `transformers` reads the file."""

    model_type: str | None = None


class Processor(BaseModel):
    """The fields of an image processor's file that are read."""

    size: dict[str, int] | int = 800
    max_size: int = 1333
    do_rescale: bool = True
    rescale_factor: Positive = 1 / 255
    do_normalize: bool = True
    image_mean: tuple[float, float, float] = MEAN
    image_std: tuple[Positive, Positive, Positive] = DEVIATION


def read_picture(path: Path) -> Picture:
    """How a photo is resized and normalised, by an image processor's file; ValueError if that is unknown."""
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}). Get the detector again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected keys with values, got {SHORT.repr(content)}. Get the detector again")
    said = check_form(str(path), {key: value for key, value in content.items() if value is not None}, Processor)
    size = said.size if isinstance(said.size, dict) else {"shortest_edge": said.size}
    if size.keys() == {"height", "width"}:
        found: PictureSize = check_form(f"{path}: size", size, FixedSize)
    elif "shortest_edge" in size:
        longest = size.get("longest_edge", said.max_size)
        found = check_form(f"{path}: size", {"shortest": size["shortest_edge"], "longest": longest}, ImageSize)
    else:
        raise ValueError(f"{path}: size is {size}. Expected height and width, or shortest_edge and longest_edge")
    scale = 255 * said.rescale_factor if said.do_rescale else 255.0  # of values in 0..1
    mean, deviation = (said.image_mean, said.image_std) if said.do_normalize else ((0.0,) * 3, (1.0,) * 3)
    return Picture(size=found, mean=_divided(mean, scale), deviation=_divided(deviation, scale))


def _divided(values: Sequence[float], scale: float) -> tuple[float, float, float]:
    red, green, blue = values
    return (red, green, blue) if scale == 1 else (red / scale, green / scale, blue / scale)
