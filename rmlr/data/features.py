"""The cache of the frozen networks' outputs (instances, tokens and maps) in shards, which are read as batches.

A shard is one safetensors file of `shard_images` images: instances concatenated, maps as rows of cells without padding,
and the numbers of both for every image. Of a detector with several maps, the coarsest is "maps", the others "maps_1"
and so on. index.json lists the images and describes the network. A pose network may have a cache for the same split:
shards of the same images, maps with the same cells. Reading copies nothing: tensors of a shard are views of the
memory-mapped file. Each is checked once (`rmlr.study.tensors`): small ones when the cache is opened, a shard's maps
when one of its images is first used.
"""

import logging
import shutil
from collections.abc import Collection, Iterator, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict, Field, model_validator
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rmlr.hoi import Annotation
from rmlr.hoi.batch import Batch, Instances, Level
from rmlr.study.files import Int64, Natural, PositiveInt, read_json, write_whole
from rmlr.study.settings import Augment, View
from rmlr.study.tensors import DIGEST, Form, TensorFile, save_tensors

log = logging.getLogger(__name__)

INDEX_FILE = "index.json"
MOST_VIEWS = 10_000  # of an image: more than there are epochs
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
    views: Annotated[int, Field(gt=0, le=MOST_VIEWS)]  # of each image; the first is the original photo
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
    finer_channels: list[PositiveInt] = Field(default_factory=list)  # of the other maps, from coarse to fine

    @model_validator(mode="after")
    def _knows_the_person(self) -> "Index":
        if self.person >= len(self.objects):
            raise ValueError(f"person is object {self.person}, expected 0 to {len(self.objects) - 1}")
        return self

    def forms(self, cells: int | str = "cells") -> dict[str, Form]:
        """Maps and all other tensors of a shard."""
        real, whole = torch.float32, torch.int64
        levels = {}
        for level, channels in enumerate((self.channels, *self.finer_channels)):
            levels |= {
                _at("maps", level): Form(getattr(torch, self.map_dtype), (_at("cells", level), channels)),
                _at("map_sizes", level): Form(whole, ("images", 2), low=1),
                _at("cell_sizes", level): Form(real, ("images", 2), low=torch.finfo(real).tiny),
            }
        return (
            super().forms(cells)
            | levels
            | {
                "boxes": Form(real, ("instances", 4)),
                "scores": Form(real, ("instances",), low=0, high=1),
                "labels": Form(whole, ("instances",), low=0, high=len(self.objects) - 1),
                "tokens": Form(real, ("instances", self.token_dim)),
                "counts": Form(whole, ("images",), low=0),
                "image_sizes": Form(real, ("images", 2), low=1),
            }
        )


class PoseIndex(Shards):
    """index.json of a pose network's maps of one split: shards like those of the features, with the same cells."""

    maker: ClassVar[str] = "rmlr pose"
    pose_digest: str  # SHA-256 of the pose network's weights

    @property
    def digest(self) -> str:
        """Of the network whose maps these are."""
        return self.pose_digest


def _at(name: str, level: int) -> str:
    """The name of a level's tensor in a shard."""
    return f"{name}_{level}" if level else name


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
        self._images[image_id] = {"maps": self._rows(image_id, cells)}

    def _rows(self, image_id: int, cells: Float[Tensor, "c h w"]) -> Tensor:
        """A map as it is stored."""
        rows = cells.permute(1, 2, 0).flatten(0, 1).to(getattr(torch, self._index.map_dtype))
        if not rows.isfinite().all():
            raise ValueError(
                f"image {image_id}: its map does not fit into {self._index.map_dtype} (largest value "
                f"{cells.abs().max():g}). Set features.map_dtype to float32"
            )
        return rows.cpu()

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
        levels: Sequence[Level],
        image_sizes: Int[Tensor, "b 2"],
    ) -> None:
        """Add one batch, its maps from coarse to fine; their padding is removed."""
        for position, image_id in enumerate(image_ids):
            is_own = instance_image == position
            self._images[image_id] = columns = {
                "image_sizes": image_sizes[position][None].float().cpu(),
                "counts": is_own.sum()[None].cpu(),
                **{name: getattr(instances, name)[is_own].cpu() for name in Instances.__slots__},
            }
            for number, level in enumerate(levels):
                is_cell = ~level.is_padding[position]
                height, width = int(is_cell.any(1).sum()), int(is_cell.any(0).sum())
                columns[_at("maps", number)] = self._rows(image_id, level.maps[position, :, :height, :width])
                columns[_at("map_sizes", number)] = torch.tensor([[height, width]])
                columns[_at("cell_sizes", number)] = level.cell_sizes[position][None].float().cpu()


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
    """Log the size of a cache, of which `written` exists; ValueError if the disk has too little space for the rest.

    The folder of the cache may not exist yet.
    """
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    left, free = size - written, shutil.disk_usage(there).free
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
        self.finer_channels = tuple(first.finer_channels)
        self.token_dim = first.token_dim
        self.detector_digest = first.detector_digest
        self.view = first.view
        self.views = first.views
        self.augment = first.augment

        self._shards = [  # whose maps stay on disk until used
            _open_shard(folder, number, index)
            for folder, index in zip(folders, self.indices, strict=True)
            for number in range(len(index.shards))
        ]
        levels = range(1 + len(first.finer_channels))
        for shard in self._shards:
            _check_sizes(shard, levels)
        columns = {
            name: torch.cat([_nothing(form), *(shard[name] for shard in self._shards)])
            for name, form in first.forms().items()
            if name != "image_ids" and not name.startswith("maps")
        }
        self._instances = Instances(*(columns[name] for name in Instances.__slots__))
        self._counts, self._image_sizes = columns["counts"], columns["image_sizes"]
        self._cell_sizes = [columns[_at("cell_sizes", level)] for level in levels]
        images = [len(shard["image_ids"]) for shard in self._shards]
        self._maps = [
            _Maps(self._shards, _at("maps", level), channels, columns[_at("map_sizes", level)], images)
            for level, channels in enumerate((first.channels, *first.finer_channels))
        ]
        self._first_instance = self._counts.cumsum(0) - self._counts
        counts = [len(index.image_ids) for index in self.indices]
        rows = torch.arange(self.views * sum(counts)).split([self.views * count for count in counts])
        parts = [part.view(self.views, count) for part, count in zip(rows, counts, strict=True)]
        self._rows = torch.cat(parts, dim=1)  # views images: the place of each in columns

        self.pose_channels: int | None = None
        self.pose_digest: str | None = None
        shards: list[TensorFile] = []
        for pose, folder, index in zip(poses, folders, self.indices, strict=True) if poses else ():
            shards += self._pose_shards(pose, folder, index, self._shards[len(shards) :])
        self._poses = None
        if self.pose_channels:
            self._poses = _Maps(shards, "maps", self.pose_channels, columns["map_sizes"], images)

    @classmethod
    def load(cls, parent: Path, split: str, pose: Path | None = None) -> "Features":
        """The features of a split, in the folder of all splits; `trainval` is train, then val.

        `pose` is such a folder with a pose network's maps.
        """
        names = ["train", "val"] if split == "trainval" else [split]
        return cls([parent / name for name in names], [pose / name for name in names] if pose else [])

    def _pose_shards(
        self, pose: Path, folder: Path, index: Index, features: Sequence[TensorFile]
    ) -> Iterator[TensorFile]:
        """The pose maps of one folder; ValueError if their cells differ from those of its features."""
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
        for number, shard in zip(range(len(found.shards)), features, strict=False):
            yield _open_shard(pose, number, found, cells=shard.sizes["cells"])

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
        height, width = self._maps[0].sizes[row].tolist()
        cell_height, cell_width = self._cell_sizes[0][row].tolist()
        return (height, width), (cell_height, cell_width)

    def batch(self, indices: Sequence[int], view: int = 0) -> Batch:
        """A view of the images at these positions (of `image_ids`), in this order."""
        chosen = self._rows[view, torch.as_tensor(indices, dtype=torch.long)]
        counts = self._counts[chosen]
        instance_image = torch.repeat_interleave(torch.arange(len(chosen)), counts)
        before = counts.cumsum(0) - counts
        rows = torch.arange(len(instance_image)) + (self._first_instance[chosen] - before)[instance_image]
        coarsest, *finer = (
            Level(*maps.padded(chosen), sizes[chosen]) for maps, sizes in zip(self._maps, self._cell_sizes, strict=True)
        )
        return Batch(
            image_ids=torch.tensor([self.image_ids[index] for index in indices], dtype=torch.long),
            maps=coarsest.maps,
            is_padding=coarsest.is_padding,
            cell_sizes=coarsest.cell_sizes,
            image_sizes=self._image_sizes[chosen],
            instances=Instances(*(getattr(self._instances, name)[rows] for name in Instances.__slots__)),
            instance_image=instance_image,
            pose=None if self._poses is None else self._poses.padded(chosen)[0],
            finer=tuple(finer),
        )


class _Maps:
    """One map of every image, which is read from the shards when it is used."""

    def __init__(
        self,
        shards: Sequence[TensorFile],
        name: str,
        channels: int,
        sizes: Int[Tensor, "rows 2"],
        images: Sequence[int],
    ) -> None:
        """`sizes`: height and width of each map, in the order of the shards, which have these numbers of images."""
        self._shards, self._name, self._channels, self.sizes = shards, name, channels, sizes
        self._cells: list[tuple[int, int, int]] = []  # of each row: shard, first cell, last cell + 1
        numbers = iter(sizes.prod(1).tolist())
        for shard, count in enumerate(images):
            end = 0
            for _ in range(count):
                start, end = end, end + next(numbers)
                self._cells.append((shard, start, end))

    def padded(self, chosen: Int[Tensor, " b"]) -> tuple[Float[Tensor, "b c h w"], Bool[Tensor, "b h w"]]:
        """The maps of these rows, padded with zeros to one size."""
        sizes = self.sizes[chosen]
        height, width = sizes.amax(0).tolist() if len(sizes) else (0, 0)
        places = (self._cells[row] for row in chosen.tolist())
        cells = [self._shards[shard][self._name][start:end] for shard, start, end in places]
        is_padding = torch.zeros(len(sizes), height, width, dtype=torch.bool)
        if cells and all(len(rows) == height * width for rows in cells):
            maps = torch.stack(cells).float().view(-1, height, width, self._channels)
            return maps.permute(0, 3, 1, 2), is_padding
        maps = torch.zeros(len(sizes), height, width, self._channels)
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


def _check_sizes(shard: TensorFile, levels: Sequence[int]) -> None:
    """ValueError if the numbers of instances and cells do not match a shard's images, or corners are out of order."""
    is_inverted = (shard["boxes"][:, 2:] < shard["boxes"][:, :2]).any(1)
    if is_inverted.any():
        row = int(is_inverted.int().argmax())
        raise shard.error("boxes", f"holds {shard['boxes'][row].tolist()} at [{row}], expected x1 <= x2 and y1 <= y2")
    told = [("counts", shard["counts"].double(), "instances")]
    for level in levels:
        name = _at("map_sizes", level)
        told.append((name, shard[name].double().prod(1), _at("cells", level)))
    for name, images, of in told:
        if (total := int(images.sum())) != shard.sizes[of]:
            raise shard.error(name, f"makes {total} {of}, but the shard has {shard.sizes[of]}")
