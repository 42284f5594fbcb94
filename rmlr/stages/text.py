"""Sentence and word embeddings of the annotation text, computed once."""

import logging
from pathlib import Path

from rmlr.data.records import load_annotations, load_vocabulary
from rmlr.model.encoders import load_encoder
from rmlr.model.text import collect, embed
from rmlr.study.nodes import TextNode
from rmlr.study.run import run

log = logging.getLogger(__name__)


def text(*, settings: Path, annotations: Path, out: Path) -> None:
    """Encode the annotations of train and val as text, with a frozen text encoder.

    Test annotations are not read: text is for training only.

    Args:
        settings: this node's settings file: which encoder, and how a sentence is pooled.
        annotations: folder made by `prepare`.
        out: folder to write; gets embeddings.safetensors and index.json.
    """
    chosen = TextNode.load(settings)
    encoder = chosen.encoder
    inputs = [annotations, *([Path(encoder.model)] if Path(encoder.model).exists() else [])]  # else of the hub
    with run("text", chosen, settings=settings, out=out, inputs=inputs) as record:
        texts = collect(load_vocabulary(annotations), load_annotations(annotations, "trainval"))
        embeddings = embed(
            texts,
            load_encoder(encoder.model, encoder.revision, encoder.sha256),
            name=encoder.name,
            model=encoder.model,
            revision=encoder.revision,
            pooling=encoder.pooling,
            progress=record.progress,
        )
        embeddings.save(record.folder)
        counts = {
            "phrases": len(embeddings.phrases),
            "image_texts": len(embeddings.text_offsets) - 1,
            "words": len(embeddings.text_words),
            "phrases_cut": embeddings.cut,
        }
        record.log_metrics({name: float(count) for name, count in counts.items()})
        if embeddings.cut:
            log.warning("%d phrases of image texts did not fit into %s and were cut", embeddings.cut, encoder.name)
