"""What the frozen detector sees in every image of a split, computed once and read by all variants."""

import hashlib
import json
from pathlib import Path
from typing import Literal

import torch

from rmlr.data.features import FeatureWriter, Index, ShardBuilder, check_space
from rmlr.data.images import load_annotated, resized_size
from rmlr.data.records import load_annotations, load_vocabulary
from rmlr.model.detector import FrozenDetector, load_detector, select_instances, weights_digest
from rmlr.run import run
from rmlr.settings import FeaturesNode, View

Split = Literal["train", "val", "test"]


def features(*, settings: Path, annotations: Path, split: Split, images: Path, detector: Path, out: Path) -> None:
    """Run the frozen detector over a split; keep instances, their tokens, and the backbone's map of every image.

    An interrupted run goes on from its last whole shard.

    Args:
        settings: this node's settings file: photo size, selection of instances, precision and size of shards.
        annotations: folder made by `prepare`.
        split: which images.
        images: folder of the photos.
        detector: folder made by `detector`.
        out: folder to write; gets shard-*.safetensors and index.json.
    """
    chosen = FeaturesNode.load(settings)
    rule = chosen.features
    with run("features", chosen, settings=settings, out=out, inputs=[annotations, images, detector]) as record:
        vocabulary, wanted = load_vocabulary(annotations), load_annotations(annotations, split)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        frozen = FrozenDetector(load_detector(str(detector)), vocabulary.objects).to(device)
        size = chosen.image.shortest, chosen.image.longest
        index = Index(
            detector_digest=weights_digest(detector),
            view=View(image=chosen.image, selection=rule.selection),
            objects=list(vocabulary.objects),
            person=vocabulary.person,
            channels=frozen.channels,
            token_dim=frozen.token_dim,
            map_dtype=rule.map_dtype,
            shard_images=rule.shard_images,
            image_ids=[annotation.image_id for annotation in wanted],
        )
        cells = [
            -(-height // frozen.stride) * -(-width // frozen.stride)
            for height, width in (resized_size(item.height, item.width, *size) for item in wanted)
        ]
        bytes_per_cell = frozen.channels * torch.finfo(getattr(torch, rule.map_dtype)).bits // 8
        check_space(record.folder, sum(cells) * bytes_per_cell)

        by_id = {annotation.image_id: annotation for annotation in wanted}
        parts = [index.model_dump(), chosen.model_dump(), [(item.image_id, item.file_name) for item in wanted]]
        writer = FeatureWriter(index, record.resume, hashlib.sha256(json.dumps(parts).encode()).hexdigest())
        missing = writer.missing()
        kept = 0
        with record.progress(sum(len(ids) for _, ids in missing), f"features: {split} images") as progress:
            for shard, ids in missing:
                builder = ShardBuilder(index)
                ids = sorted(ids, key=lambda image_id: by_id[image_id].height / by_id[image_id].width)  # little padding
                for first in range(0, len(ids), rule.batch_size):
                    chunk = ids[first : first + rule.batch_size]
                    batch = load_annotated([by_id[image_id] for image_id in chunk], images, *size)
                    inputs = (batch.pixels, batch.is_padding, batch.resized, batch.original)
                    detections = frozen(*(part.to(device) for part in inputs))
                    instances, image = select_instances(detections, vocabulary.person, rule.selection)
                    kept += len(image)
                    seen = detections.maps, detections.is_padding, detections.cell_sizes
                    builder.add(chunk, instances, image, *seen, batch.original)
                    progress.advance(len(chunk))
                writer.write(shard, builder)
        writer.finish(record.folder)
        record.log_metrics({"images": float(len(wanted)), "instances_made": float(kept)})
