"""Features of the frozen detector for every image of a split, computed once and read by all variants."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from rmlr.data.augment import view_sizes
from rmlr.data.features import FeatureWriter, Index, ShardBuilder, check_space
from rmlr.data.loading import ahead, loader_threads
from rmlr.data.records import load_annotations, load_vocabulary
from rmlr.hoi import Annotation, Vocabulary
from rmlr.learning.seeing import Looking, Seeing, Taking
from rmlr.model.detector import select_instances
from rmlr.study.nodes import FeaturesNode
from rmlr.study.run import run
from rmlr.study.settings import View

Split = Literal["train", "val", "test"]


def features(
    *,
    settings: Path,
    annotations: Path,
    split: Split,
    out: Path,
    images: Path | None = None,
    detector: Path | None = None,
    from_: Path | None = None,
) -> None:
    """Run the frozen detector on a split; save instances, their tokens, and the map of every view of every image.

    The first view is the photo without augmentation. The size on disk is reported in advance, and again after the first
    shard; if there is too little space, the stage stops before any work. An interrupted run resumes after its last
    complete shard. RMLR_LOADERS is the number of threads that read photos (by default one per core if there is a GPU,
    otherwise none).

    Args:
        settings: this node's settings file: photo size, selection of instances, views, precision and size of shards.
        annotations: folder made by `prepare`.
        split: which images.
        out: folder to write; gets shard-*.safetensors and index.json.
        images: folder of the photos.
        detector: folder made by `detector`.
        from_: instead of both, a folder of features from another framework (docs/detectors.md), which are checked.
    """
    chosen = FeaturesNode.load(settings)
    rule = chosen.features
    inputs = [path for path in (annotations, images, detector, from_) if path is not None]
    with run("features", chosen, settings=settings, out=out, inputs=inputs) as record:
        vocabulary, wanted = load_vocabulary(annotations), load_annotations(annotations, split)
        source = _source(vocabulary, chosen, images, detector, from_)
        index = _index(source, vocabulary, wanted, chosen)
        by_id = {annotation.image_id: annotation for annotation in wanted}
        parts = [index.model_dump(), chosen.model_dump(), [(item.image_id, item.file_name) for item in wanted]]
        writer = FeatureWriter(index, record.resume, hashlib.sha256(json.dumps(parts).encode()).hexdigest())
        missing = writer.missing()

        sizes = [
            dict(zip(index.image_ids, view_sizes(wanted, source.image, rule.augment, view), strict=True))
            for view in range(rule.views)
        ]
        shard_bytes = [
            sum(_bytes(*sizes[index.view_of(shard)][image_id], source, chosen) for image_id in ids)
            for shard, ids in enumerate(index.shards)
        ]
        size, to_write = sum(shard_bytes), sum(shard_bytes[shard] for shard, _ in missing)
        check_space(out, size, size - to_write)

        chunks = [
            chunk
            for shard, ids in missing
            for chunk in _chunks(shard, ids, sizes[index.view_of(shard)], source.batch_size)
        ]

        def load(chunk: tuple[int, list[int], bool]) -> Any:
            shard, ids, _ = chunk
            return source.load([by_id[image_id] for image_id in ids], index.view_of(shard))

        kept, builder = 0, ShardBuilder(index)
        loaded = ahead(load, chunks, loader_threads(source.device))
        with record.progress(sum(len(ids) for _, ids in missing), f"features: {split} images") as progress:
            for (shard, ids, is_last), batch in zip(chunks, loaded, strict=True):
                detections, original = source.see(batch)
                instances, of_image = select_instances(detections, vocabulary.person, rule.selection)
                kept += len(of_image)
                builder.add(ids, instances, of_image, detections.levels, original)
                progress.advance(len(ids))
                if is_last:
                    found = writer.write(shard, builder)
                    builder = ShardBuilder(index)
                    if shard == missing[0][0] and len(missing) > 1:
                        ratio = found / shard_bytes[shard]
                        check_space(out, round(size * ratio), round((size - to_write) * ratio) + found)
        writer.finish(record.folder)
        record.log_metrics({"images": float(len(wanted)), "instances_made": float(kept)})


def _source(
    vocabulary: Vocabulary, chosen: FeaturesNode, images: Path | None, detector: Path | None, given: Path | None
) -> Seeing:
    """The detector on photos, or features that were computed elsewhere."""
    if given is not None and images is None and detector is None:
        return Taking(given, vocabulary, chosen)
    if given is None and images is not None and detector is not None:
        return Looking(detector, images, vocabulary, chosen)
    raise ValueError("give either --images and --detector, or --from, the folder of features that you have")


def _index(source: Seeing, vocabulary: Vocabulary, wanted: Sequence[Annotation], chosen: FeaturesNode) -> Index:
    rule = chosen.features
    return Index(
        detector_digest=source.digest,
        view=View(image=source.image, selection=rule.selection, map=rule.map, strides=rule.strides),
        objects=list(vocabulary.objects),
        person=vocabulary.person,
        channels=source.channels,
        finer_channels=list(source.finer_channels),
        token_dim=source.token_dim,
        map_dtype=rule.map_dtype,
        shard_images=rule.shard_images,
        image_ids=[annotation.image_id for annotation in wanted],
        views=rule.views,
        augment=rule.augment,
    )


def _chunks(
    shard: int, image_ids: list[int], sizes: dict[int, tuple[int, int]], batch_size: int
) -> list[tuple[int, list[int], bool]]:
    """The batches of each shard, with little padding: shard, image ids, whether they are its last."""
    ids = sorted(image_ids, key=lambda image_id: sizes[image_id][0] / sizes[image_id][1])
    parts = [ids[first : first + batch_size] for first in range(0, len(ids), batch_size)]
    return [(shard, part, part is parts[-1]) for part in parts]


def _bytes(height: int, width: int, source: Seeing, chosen: FeaturesNode) -> int:
    """The maximum size of one image in bytes: its maps, and as many instances as the selection may keep."""
    numbers = sum(
        -(-height // stride) * -(-width // stride) * channels
        for stride, channels in zip(source.strides, (source.channels, *source.finer_channels), strict=True)
    )
    size = torch.finfo(getattr(torch, chosen.features.map_dtype)).bits // 8
    instances = 2 * chosen.features.selection.max_instances
    return numbers * size + instances * (4 * (source.token_dim + 5) + 8)
