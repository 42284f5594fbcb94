"""Maps of a frozen pose network for every image of a split, over the cells of the detector's map."""

import hashlib
import json
from itertools import groupby
from pathlib import Path
from typing import Literal

import torch

from rmlr.data.augment import load_view, view_sizes
from rmlr.data.features import Features, FeatureWriter, MapShardBuilder, PoseIndex, check_space
from rmlr.data.records import load_annotations
from rmlr.hoi import Annotation
from rmlr.model.pose import WEIGHTS, load_pose_network, pose_digest
from rmlr.study.frozen import Pose
from rmlr.study.nodes import PoseNode
from rmlr.study.run import run

Split = Literal["train", "val", "test"]


def pose(
    *,
    settings: Path,
    annotations: Path,
    split: Split,
    images: Path,
    features: Path,
    out: Path,
    joints: Path | None = None,
) -> None:
    """Run a frozen pose network on a split; save its map of every image, to be used with the detector's features.

    The photos are resized as for the detector, and each cell of the detector's map gets the mean of the pose network's
    map in that cell, so that both maps are read in the same way. An interrupted run resumes after its last complete
    shard.

    Args:
        settings: this node's settings file: the pose network's weights, if they are a file of the user's, and how many
            photos are in a batch.
        annotations: folder made by `prepare`.
        split: which images.
        images: folder of the photos.
        features: folder whose split was made by `features`.
        out: folder to write; gets shard-*.safetensors and index.json.
        joints: folder made by `joints`; needed only if the settings name no weights file.
    """
    chosen = PoseNode.load(settings)
    weights = _weights(chosen.pose, joints)
    network = load_pose_network(weights)
    inputs = [annotations, images, features / split, weights]
    with run("pose", chosen, settings=settings, out=out, inputs=inputs) as record:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = network.to(device)
        cached = Features.load(features, split)
        wanted = cached.annotated(load_annotations(annotations, split), features / split)
        index = PoseIndex(
            pose_digest=pose_digest(weights),
            channels=network.channels,
            **cached.indices[0].model_dump(
                include={"detector_digest", "view", "map_dtype", "shard_images", "image_ids"}
            ),
            views=cached.views,
            augment=cached.augment,
        )
        grids = (cached.cells(at, view)[0] for view in range(cached.views) for at in range(len(cached)))
        cells = sum(height * width for height, width in grids)
        check_space(out, cells * network.channels * torch.finfo(getattr(torch, index.map_dtype)).bits // 8)

        position = {image_id: at for at, image_id in enumerate(index.image_ids)}
        parts = [index.model_dump(), chosen.model_dump(), [item.file_name for item in wanted]]
        writer = FeatureWriter(index, record.resume, hashlib.sha256(json.dumps(parts).encode()).hexdigest())
        missing = writer.missing()
        with record.progress(sum(len(ids) for _, ids in missing), f"pose: {split} images") as progress:
            for shard, ids in missing:
                builder, view = MapShardBuilder(index), index.view_of(shard)
                for same in _of_one_size([wanted[position[image_id]] for image_id in ids], index, view):
                    for first in range(0, len(same), chosen.pose.batch_size):
                        chunk = same[first : first + chosen.pose.batch_size]
                        batch = load_view(chunk, images, index.view.image, index.augment, view)
                        maps = network(batch.pixels.to(device))
                        heights = zip(batch.resized[:, 0].tolist(), batch.original[:, 0].tolist(), strict=True)
                        for item, seen, (height, original) in zip(chunk, maps, heights, strict=True):
                            grid, (cell_height, _) = cached.cells(position[item.image_id], view)
                            stride = round(cell_height * height / original)
                            builder.add_map(item.image_id, network.onto_cells(seen[None], stride, *grid)[0])
                        progress.advance(len(chunk))
                writer.write(shard, builder)
        writer.finish(record.folder)
        record.log_metrics({"images": float(len(wanted))})


def _weights(chosen: Pose, joints: Path | None) -> Path:
    """The pose network's file: the user's, or the one that was trained here."""
    if chosen.weights is not None and joints is None:
        return Path(chosen.weights)
    if chosen.weights is None and joints is not None:
        return joints / WEIGHTS
    raise ValueError(
        f"pose.weights is {chosen.weights} and --joints is {joints}: the pose network must come from one of the two. "
        "Name its file in params.yaml, or give what `rmlr joints` made, --joints FOLDER"
    )


def _of_one_size(annotations: list[Annotation], index: PoseIndex, view: int) -> list[list[Annotation]]:
    """The images grouped by their resized size: so no map depends on padding, and thus on the batch."""
    sizes = view_sizes(annotations, index.view.image, index.augment, view)
    order = sorted(range(len(annotations)), key=sizes.__getitem__)
    return [[annotations[at] for at in group] for _, group in groupby(order, key=sizes.__getitem__)]
