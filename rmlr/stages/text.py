"""Sentence and word embeddings of the annotation text, computed once."""

import logging
from pathlib import Path

from rmlr.data.records import load_annotations, load_vocabulary
from rmlr.model.encoders import load_encoder
from rmlr.model.prompts import read_descriptions, shuffled, template_sentences
from rmlr.model.text import collect, embed
from rmlr.study.nodes import TextNode
from rmlr.study.run import run

log = logging.getLogger(__name__)


def text(*, settings: Path, annotations: Path, out: Path) -> None:
    """Encode the annotations of train and val as text, with a frozen text encoder.

    Test annotations are not read: text is for training only.

    Args:
        settings: this node's settings file: which encoder, how a sentence is pooled, and what is said of a phrase.
        annotations: folder made by `prepare`.
        out: folder to write; gets embeddings.safetensors and index.json.
    """
    chosen = TextNode.load(settings)
    encoder = chosen.encoder
    inputs = [annotations, *([Path(encoder.weights)] if Path(encoder.weights).exists() else [])]  # else of the hub
    inputs += [Path(encoder.descriptions)] if encoder.descriptions else []
    with run("text", chosen, settings=settings, out=out, inputs=inputs) as record:
        vocabulary = load_vocabulary(annotations)
        texts = collect(vocabulary, load_annotations(annotations, "trainval"))
        said = {} if encoder.shuffle_seed is None else shuffled(texts, encoder.shuffle_seed)
        sentences = None
        if encoder.descriptions:
            sentences = read_descriptions(Path(encoder.descriptions), texts, vocabulary)
        elif encoder.prompt:
            sentences = template_sentences(encoder.prompt, [said.get(phrase, phrase) for phrase in texts.phrases])
        embeddings = embed(
            texts,
            load_encoder(encoder.weights, encoder.revision, encoder.sha256, encoder.pooling),
            name=encoder.name,
            model=encoder.model,
            revision=encoder.revision,
            progress=record.progress,
            sentences=sentences,
            several=encoder.several,
            said=said,
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
