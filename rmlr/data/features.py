"""The cache of the frozen networks' outputs (instances, tokens and maps) in shards, which are read as batches.

A shard is one safetensors file of `shard_images` images: instances concatenated, maps as rows of cells without padding,
and the numbers of both for every image. index.json lists the images and describes the network. A pose network may have
a cache for the same split: shards of the same images, maps with the same cells. Reading copies nothing: tensors of a
shard are views of the memory-mapped file. Each is checked once (`rmlr.study.tensors`): small ones when the cache is
opened, a shard's maps when one of its images is first used.
"""

import logging
import shutil
from collections.abc import Collection, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict, model_validator
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rmlr.hoi import Annotation
from rmlr.hoi.batch import Batch, Instances
from rmlr.study.files import Int64, Natural, PositiveInt, read_json, write_whole
from rmlr.study.settings import Augment, View
from rmlr.study.tensors import DIGEST, Form, TensorFile, save_tensors

log = logging.getLogger(__name__)

INDEX_FILE = "index.json"
AnyIndex = TypeVar("AnyIndex", bound="Shards")


class Shards(BaseModel):
    """The common fields of every index.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    maker: ClassVar[str] = "rmlr features"  # the command that makes such a cache

    detector_digest: str  # SHA-256 of the detector's weights
    view: View  # how it was applied
    channels: PositiveInt  # of a map
    map_dtype: Literal["float16", "float32"]
    shard_images: PositiveInt
    image_ids: list[Int64]  # in the order of the annotations; shard k of a view holds the k-th `shard_images` of them
    views: PositiveInt  # of each image; the first is the original photo
    augment: Augment | None  # how the others were augmented (`rmlr.data.augment`, seed 0)

    @model_validator(mode="after")
    def _names_each_image_once(self) -> "Shards":
        if len(set(self.image_ids)) < len(self.image_ids):
            raise ValueError("an image is listed twice in image_ids")
        return self

    @property
    def shards(self) -> list[list[int]]:
        """Image ids of each shard, view by view."""
        ids, step = self.image_ids, self.shard_images
        return self.views * [ids[at : at + step] for at in range(0, len(ids), step)]

    def view_of(self, shard: int) -> int:
        """The view of a shard."""
        return shard // -(-len(self.image_ids) // self.shard_images)

    @property
    def digest(self) -> str:
        """Of the network whose maps these are."""
        return self.detector_digest

    def forms(self, cells: int | str = "cells") -> dict[str, Form]:
        """What a shard holds; `cells` is how many its maps have, where that is known."""
        maps = Form(getattr(torch, self.map_dtype), (cells, self.channels))
        return {"maps": maps, "image_ids": Form(torch.int64, ("images",))}


class Index(Shards):
    """index.json of one split."""

    objects: list[str]  # class of each label
    person: Natural
    token_dim: PositiveInt

    @model_validator(mode="after")
    def _knows_the_person(self) -> "Index":
        if self.person >= len(self.objects):
            raise ValueError(f"person is object {self.person}, expected 0 to {len(self.objects) - 1}")
        return self

    def forms(self, cells: int | str = "cells") -> dict[str, Form]:
        """Maps and all other tensors of a shard."""
        real, whole = torch.float32, torch.int64
        return super().forms(cells) | {
            "boxes": Form(real, ("instances", 4)),
            "scores": Form(real, ("instances",), low=0, high=1),
            "labels": Form(whole, ("instances",), low=0, high=len(self.objects) - 1),
            "tokens": Form(real, ("instances", self.token_dim)),
            "counts": Form(whole, ("images",), low=0),
            "map_sizes": Form(whole, ("images", 2), low=1),
            "cell_sizes": Form(real, ("images", 2), low=torch.finfo(real).tiny),
            "image_sizes": Form(real, ("images", 2), low=1),
        }


class PoseIndex(Shards):
    """index.json of a pose network's maps of one split: shards like those of the features, with the same cells."""

    maker: ClassVar[str] = "rmlr pose"
    pose_digest: str  # SHA-256 of the pose network's weights

    @property
    def digest(self) -> str:
        """Of the network whose maps these are."""
        return self.pose_digest


def shard_name(shard: int) -> str:
    """File of a shard."""
    return f"shard-{shard:05d}.safetensors"


class MapShardBuilder:
    """Collects the maps of one shard, image by image, in any order."""

    def __init__(self, index: Shards) -> None:
        self._index = index
        self._images: dict[int, dict[str, Tensor]] = {}

    def add_map(self, image_id: int, cells: Float[Tensor, "c h w"]) -> None:
        """Add one image's map, which has no padding."""
        dtype = getattr(torch, self._index.map_dtype)
        rows = cells.permute(1, 2, 0).reshape(-1, self._index.channels).to(dtype)
        if not rows.isfinite().all():
            raise ValueError(
                f"image {image_id}: its map does not fit into {self._index.map_dtype} (largest value "
                f"{cells.abs().max():g}). Set features.map_dtype to float32"
            )
        self._images[image_id] = {"maps": rows.cpu()}

    def save(self, path: Path, image_ids: Sequence[int]) -> None:
        """Write the shard atomically, its images in the order given."""
        images = [self._images[image_id] for image_id in image_ids]
        columns = {name: torch.cat([image[name] for image in images]).contiguous() for name in images[0]}
        save_tensors(path, columns | {"image_ids": torch.tensor(image_ids)}, {DIGEST: self._index.digest})


class ShardBuilder(MapShardBuilder):
    """Collects the images of one shard, batch by batch, in any order."""

    def add(
        self,
        image_ids: Sequence[int],
        instances: Instances,
        instance_image: Int[Tensor, " n"],
        maps: Float[Tensor, "b c h w"],
        is_padding: Bool[Tensor, "b h w"],
        cell_sizes: Float[Tensor, "b 2"],
        image_sizes: Int[Tensor, "b 2"],
    ) -> None:
        """Add one batch; the padding of maps is removed."""
        for position, image_id in enumerate(image_ids):
            is_own = instance_image == position
            is_cell = ~is_padding[position]
            height, width = int(is_cell.any(1).sum()), int(is_cell.any(0).sum())
            self.add_map(image_id, maps[position, :, :height, :width])
            self._images[image_id] |= {
                "map_sizes": torch.tensor([[height, width]]),
                "cell_sizes": cell_sizes[position][None].float().cpu(),
                "image_sizes": image_sizes[position][None].float().cpu(),
                "counts": is_own.sum()[None].cpu(),
                **{name: getattr(instances, name)[is_own].cpu() for name in Instances.__slots__},
            }


class FeatureWriter:
    """Writes a cache shard by shard into `resume`, from which an interrupted run resumes; `finish` moves all of it.

    A shard in `resume` is used if it has the expected images, from the same network and with the same `identity` (a
    digest of all other inputs); otherwise everything there is computed again.
    """

    def __init__(self, index: Shards, resume: Path, identity: str) -> None:
        self.index = index
        self._resume = resume
        note = resume / "identity.txt"
        if not note.exists() or note.read_text() != identity:
            shutil.rmtree(resume, ignore_errors=True)
            resume.mkdir(parents=True)
            note.write_text(identity)

    def missing(self) -> list[tuple[int, list[int]]]:
        """(shard, its image ids) of all missing shards."""
        return [(shard, ids) for shard, ids in enumerate(self.index.shards) if not self._holds(shard, ids)]

    def write(self, shard: int, builder: MapShardBuilder) -> int:
        """Store a finished shard; returns its size in bytes."""
        path = self._resume / shard_name(shard)
        builder.save(path, self.index.shards[shard])
        return path.stat().st_size

    def finish(self, folder: Path) -> None:
        """Move all shards into `folder` and write their index."""
        for shard in range(len(self.index.shards)):
            shutil.move(self._resume / shard_name(shard), folder / shard_name(shard))
        write_whole(folder / INDEX_FILE, self.index.model_dump_json(indent=1) + "\n")
        shutil.rmtree(self._resume)

    def _holds(self, shard: int, image_ids: list[int]) -> bool:
        path = self._resume / shard_name(shard)
        if not path.exists():
            return False
        try:
            with safe_open(path, "pt") as file:
                digest = (file.metadata() or {}).get(DIGEST)
                return digest == self.index.digest and file.get_tensor("image_ids").tolist() == image_ids
        except SafetensorError:
            return False


def check_space(folder: Path, size: int, written: int = 0) -> None:
    """Log the size of a cache, of which `written` exists; ValueError if the disk has too little space for the rest."""
    left, free = size - written, shutil.disk_usage(folder).free
    told = f"about {size / 1e9:.3g} GB" + (f", {left / 1e9:.3g} of them still to be written" if written else "")
    log.info("%s: the features need %s; %.3g GB are free", folder, told, free / 1e9)
    if left > free:
        raise ValueError(
            f"{folder}: the features need {told}, but {free / 1e9:.3g} GB are free. Make room, or set "
            "features.map_dtype to float16, features.map to projected, or features.views to fewer"
        )


class Features:
    """The cached features of a split, read as batches; with pose maps, if `poses` has a folder for each."""

    def __init__(self, folders: Sequence[Path], poses: Sequence[Path] = ()) -> None:
        self.indices = [_load_index(folder, Index) for folder in folders]
        first = self.indices[0]
        for folder, index in zip(folders, self.indices, strict=True):
            if any(getattr(index, name) != getattr(first, name) for name in _COMMON):
                raise ValueError(f"{folder}: its features are of another detector or view than those of {folders[0]}")
        self.image_ids = [image_id for index in self.indices for image_id in index.image_ids]
        self.objects = tuple(first.objects)
        self.person = first.person
        self.channels = first.channels
        self.token_dim = first.token_dim
        self.detector_digest = first.detector_digest
        self.view = first.view
        self.views = first.views
        self.augment = first.augment

        self._maps = [  # which stay on disk until used
            _open_shard(folder, number, index)
            for folder, index in zip(folders, self.indices, strict=True)
            for number in range(len(index.shards))
        ]
        for shard in self._maps:
            _check_sizes(shard)
        columns = {
            name: torch.cat([_nothing(form), *(shard[name] for shard in self._maps)])
            for name, form in first.forms().items()
            if name not in ("maps", "image_ids")
        }
        self._instances = Instances(*(columns[name] for name in Instances.__slots__))
        self._counts, self._map_sizes = columns["counts"], columns["map_sizes"]
        self._cell_sizes, self._image_sizes = columns["cell_sizes"], columns["image_sizes"]
        self._first_instance = self._counts.cumsum(0) - self._counts
        counts = [len(index.image_ids) for index in self.indices]
        rows = torch.arange(self.views * sum(counts)).split([self.views * count for count in counts])
        parts = [part.view(self.views, count) for part, count in zip(rows, counts, strict=True)]
        self._rows = torch.cat(parts, dim=1)  # views images: the place of each in columns
        self._cells: list[tuple[int, int, int]] = []  # of each row: shard, first cell, last cell + 1
        sizes = iter(self._map_sizes.prod(1).tolist())
        for number, shard in enumerate(self._maps):
            end = 0
            for _ in range(len(shard["image_ids"])):
                start, end = end, end + next(sizes)
                self._cells.append((number, start, end))

        self.pose_channels: int | None = None
        self.pose_digest: str | None = None
        self._poses: list[TensorFile] = []
        for pose, folder, index in zip(poses, folders, self.indices, strict=True) if poses else ():
            self._add_pose(pose, folder, index)

    @classmethod
    def load(cls, parent: Path, split: str, pose: Path | None = None) -> "Features":
        """The features of a split, in the folder of all splits; `trainval` is train, then val.

        `pose` is such a folder with a pose network's maps.
        """
        names = ["train", "val"] if split == "trainval" else [split]
        return cls([parent / name for name in names], [pose / name for name in names] if pose else [])

    def _add_pose(self, pose: Path, folder: Path, index: Index) -> None:
        """Add the pose maps of one folder; ValueError if their cells differ from those of the features."""
        found = _load_index(pose, PoseIndex)
        shared = Shards.model_fields.keys() - {"channels", "map_dtype"}
        if differing := sorted(name for name in shared if getattr(found, name) != getattr(index, name)):
            raise ValueError(
                f"{pose}: does not belong to the features in {folder}, it differs in {', '.join(differing)}. "
                "Run `rmlr pose` with these features"
            )
        if (self.pose_digest or found.pose_digest) != found.pose_digest:
            raise ValueError(f"{pose}: its maps are of another pose network than those of the split before")
        self.pose_channels, self.pose_digest = found.channels, found.pose_digest
        for number in range(len(found.shards)):
            self._poses.append(_open_shard(pose, number, found, cells=self._maps[len(self._poses)].sizes["cells"]))

    def only(self, image_ids: Collection[int], where: Path) -> "Features":
        """The features of some of the images, in their order here; ValueError names `where` if one is missing."""
        if unknown := sorted(set(image_ids) - set(self.image_ids)):
            raise ValueError(
                f"{where}: {len(unknown)} annotated images have no features, e.g. {unknown[:3]}. Are features and "
                "annotations of one data set?"
            )
        wanted = set(image_ids)
        positions = [position for position, image_id in enumerate(self.image_ids) if image_id in wanted]
        part = copy(self)
        part.image_ids = [self.image_ids[position] for position in positions]
        part._rows = self._rows[:, positions]
        part.__dict__.pop("_pair_counts", None)  # those of all
        return part

    def __len__(self) -> int:
        return len(self.image_ids)

    def annotated(self, annotations: Sequence[Annotation], where: Path) -> list[Annotation]:
        """The records of the images that have features, in their order; ValueError names `where` if one is missing."""
        by_id = {annotation.image_id: annotation for annotation in annotations}
        if unknown := [image_id for image_id in self.image_ids if image_id not in by_id]:
            raise ValueError(
                f"{where}: {len(unknown)} images have features but no annotation, e.g. {unknown[:3]}. "
                "Are features and annotations of one data set?"
            )
        return [by_id[image_id] for image_id in self.image_ids]

    @cached_property
    def _pair_counts(self) -> Int[Tensor, "views images"]:
        row = torch.repeat_interleave(torch.arange(len(self._counts)), self._counts)
        is_person = (self._instances.labels == self.person).long()
        people = torch.zeros(len(self._counts), dtype=torch.long).index_add_(0, row, is_person)
        return (people * (self._counts - 1))[self._rows]

    @property
    def pair_counts(self) -> Int[Tensor, " images"]:
        """The number of candidate pairs of each image, without augmentation: every human with every other instance."""
        return self._pair_counts[0]

    @property
    def has_pair(self) -> Bool[Tensor, " images"]:
        """Whether any view of an image has a candidate pair."""
        return (self._pair_counts > 0).any(0)

    def cells(self, index: int, view: int = 0) -> tuple[tuple[int, int], tuple[float, float]]:
        """For one image's map: height and width in cells, and of a cell in pixels of the original image."""
        row = self._rows[view, index]
        height, width = self._map_sizes[row].tolist()
        cell_height, cell_width = self._cell_sizes[row].tolist()
        return (height, width), (cell_height, cell_width)

    def batch(self, indices: Sequence[int], view: int = 0) -> Batch:
        """A view of the images at these positions (of `image_ids`), in this order."""
        chosen = self._rows[view, torch.as_tensor(indices, dtype=torch.long)]
        counts = self._counts[chosen]
        instance_image = torch.repeat_interleave(torch.arange(len(chosen)), counts)
        before = counts.cumsum(0) - counts
        rows = torch.arange(len(instance_image)) + (self._first_instance[chosen] - before)[instance_image]
        sizes = self._map_sizes[chosen]
        maps, is_padding = self._padded_maps(self._maps, self.channels, chosen.tolist(), sizes)
        pose = None
        if self.pose_channels:
            pose = self._padded_maps(self._poses, self.pose_channels, chosen.tolist(), sizes)[0]
        return Batch(
            image_ids=torch.tensor([self.image_ids[index] for index in indices], dtype=torch.long),
            maps=maps,
            is_padding=is_padding,
            cell_sizes=self._cell_sizes[chosen],
            image_sizes=self._image_sizes[chosen],
            instances=Instances(*(getattr(self._instances, name)[rows] for name in Instances.__slots__)),
            instance_image=instance_image,
            pose=pose,
        )

    def _padded_maps(
        self, shards: Sequence[TensorFile], channels: int, of_rows: Sequence[int], sizes: Int[Tensor, "b 2"]
    ) -> tuple[Float[Tensor, "b c h w"], Bool[Tensor, "b h w"]]:
        height, width = sizes.amax(0).tolist() if len(sizes) else (0, 0)
        cells = [shards[shard]["maps"][start:end] for shard, start, end in (self._cells[row] for row in of_rows)]
        is_padding = torch.zeros(len(sizes), height, width, dtype=torch.bool)
        if cells and all(len(rows) == height * width for rows in cells):
            maps = torch.stack(cells).float().view(-1, height, width, channels)
            return maps.permute(0, 3, 1, 2), is_padding
        maps = torch.zeros(len(sizes), height, width, channels)
        for position, (rows, (h, w)) in enumerate(zip(cells, sizes.tolist(), strict=True)):
            maps[position, :h, :w] = rows.view(h, w, -1)
            is_padding[position, h:] = True
            is_padding[position, :, w:] = True
        return maps.permute(0, 3, 1, 2), is_padding


_COMMON = ("detector_digest", "objects", "view", "views", "augment")  # equal in all splits that are read together


def _nothing(form: Form) -> Tensor:
    """Empty tensors for the case without shards."""
    return torch.zeros(0, *(size for size in form.shape[1:] if isinstance(size, int)), dtype=form.dtype)


def _load_index(folder: Path, form: type[AnyIndex]) -> AnyIndex:
    return read_json(folder / INDEX_FILE, form, f"Run `{form.maker}` for this split first")


def _open_shard(folder: Path, number: int, index: Shards, cells: int | str = "cells") -> TensorFile:
    """A shard with the images of its index; ValueError if they differ."""
    hint = f"Make it again with `{index.maker}`"
    shard = TensorFile(folder / shard_name(number), hint, index.forms(cells))
    if shard["image_ids"].tolist() != index.shards[number]:
        raise shard.error("image_ids", f"does not name the images that {INDEX_FILE} does")
    if shard.metadata.get(DIGEST, index.digest) != index.digest:
        raise ValueError(f"{shard.path}: is of another network than {INDEX_FILE} says. {hint}")
    return shard


def _check_sizes(shard: TensorFile) -> None:
    """ValueError if the numbers of instances and cells do not match a shard's images."""
    for name, images, of in (("counts", shard["counts"].double(), "instances"),
                             ("map_sizes", shard["map_sizes"].double().prod(1), "cells")):  # fmt: skip
        if (total := int(images.sum())) != shard.sizes[of]:
            raise shard.error(name, f"makes {total} {of}, but the shard has {shard.sizes[of]}")
