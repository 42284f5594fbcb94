"""Sentences and words of every interaction, through a frozen text encoder (paper, section 3.3, equations 7 and 8).

Text is encoded once, used in training, and never needed for prediction. `collect` converts annotations to phrases,
`embed` encodes them, `TextEmbeddings` stores the result. A sentence may differ from its phrase (`rmlr.model.prompts`);
words are always those of the phrase.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import model_validator
from torch import Tensor

from rmlr.hoi import NO_BOX, Annotation, Phrase, Vocabulary
from rmlr.model.encoders import Pooling, TextEncoder, Token
from rmlr.study.files import read_json, write_whole
from rmlr.study.section import NaturalInt, PositiveInt, Section
from rmlr.study.tensors import Form, TensorFile, save_tensors

INDEX_FILE, EMBEDDINGS_FILE = "index.json", "embeddings.safetensors"
SUBJECT, VERB, OBJECT = range(3)  # part of a phrase that a word belongs to; "with" of an instrument is the verb's

Several = Literal["average", "each"]


# ---- stored embeddings


@dataclass(frozen=True, slots=True, eq=False)
class TextEmbeddings:
    """The frozen encoder's states of all training text: phrases of rows, and annotation texts of images.

    A phrase is one interaction alone ("person hit with bat"); an image's text joins all of its phrases. Sets of words
    are concatenated: those of phrase i are `phrase_words[phrase_offsets[i]:phrase_offsets[i + 1]]`.
    """

    encoder: str  # as printed in tables
    model: str  # hub id, folder, package, or a control (`random:DIM`, `shuffled:ENCODER`)
    revision: str | None
    digest: str  # sha256 of the encoder's weights
    cut: int  # phrases of image texts that did not fit into the encoder's length, over all images
    phrases: list[str]  # distinct, those of the vocabulary's HOIs first
    sentences: Float[Tensor, "m e"]  # what is said of each phrase, encoded alone and pooled: E_cls
    phrase_of: Int[Tensor, "v o"]  # phrase of a verb and an object class, -1 if there is none
    phrase_words: Float[Tensor, "w d"]
    phrase_offsets: Int[Tensor, " s1"]  # one more than phrases
    phrase_parts: Int[Tensor, " w"]  # SUBJECT, VERB or OBJECT
    text_words: Float[Tensor, "k d"]  # distinct image texts, without special tokens: E_w
    text_offsets: Int[Tensor, " x1"]  # one more than distinct texts
    image_ids: Int[Tensor, " i"]  # ascending
    text_of_image: Int[Tensor, " i"]  # -1: nothing was annotated
    sentence_counts: list[int] | None = None  # sentences of each phrase, in order; None: one of each

    @property
    def word_dim(self) -> int:
        """Width of the encoder's states."""
        return self.phrase_words.shape[1]

    @property
    def sentence_dim(self) -> int:
        """Width of a sentence's vector."""
        return self.sentences.shape[1]

    def count_phrases(self, verbs: Int[Tensor, " g"], objects: Int[Tensor, " g"]) -> Int[Tensor, " s"]:
        """The number of occurrences of each phrase among these interactions."""
        phrase = self.phrase_of[verbs, objects]
        return torch.bincount(phrase[phrase >= 0], minlength=len(self.phrases))

    def image_words(self, image_ids: Int[Tensor, " b"]) -> tuple[Float[Tensor, "b t d"], Bool[Tensor, "b t"]]:
        """Words of each image's annotation text, padded with zeros, and which of them are padding."""
        image_ids = image_ids.to(self.image_ids.device)
        found = torch.isin(image_ids, self.image_ids)
        if not found.all():
            raise ValueError(f"no annotation text was encoded for image(s) {image_ids[~found].tolist()[:5]}: are text "
                             "embeddings and features of one dataset?")  # fmt: skip
        text = self.text_of_image[torch.searchsorted(self.image_ids, image_ids)]
        length = (self.text_offsets[text + 1] - self.text_offsets[text]).where(text >= 0, 0)
        steps = torch.arange(int(length.max()) if len(length) else 0, device=length.device)
        is_padding = steps >= length[:, None]  # b t
        rows = (self.text_offsets[text.clamp(min=0)][:, None] + steps).masked_fill(is_padding, 0)
        return self.text_words[rows].masked_fill(is_padding[..., None], 0), is_padding

    def to(self, device) -> "TextEmbeddings":
        """The same embeddings on another device."""
        moved = {name: value.to(device) for name in self.__slots__ if isinstance(value := getattr(self, name), Tensor)}
        return replace(self, **moved)

    def save(self, folder: Path) -> None:
        """Write embeddings.safetensors and index.json."""
        values = {name: getattr(self, name) for name in self.__slots__}
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        save_tensors(folder / EMBEDDINGS_FILE, tensors)
        index = TextIndex(**{name: value for name, value in values.items() if name not in tensors})
        unused = {"sentence_counts"} if index.sentence_counts is None else set()
        write_whole(folder / INDEX_FILE, index.model_dump_json(indent=1, exclude=unused) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "TextEmbeddings":
        """Read the files of `save`; ValueError if they are missing or damaged."""
        hint = "Run `rmlr text` again"
        index = read_json(folder / INDEX_FILE, TextIndex, hint)
        file = TensorFile(folder / EMBEDDINGS_FILE, hint, index.forms())
        for name, words in (("phrase_offsets", "phrase_words"), ("text_offsets", "text_words")):
            steps = file[name].diff()
            if not len(file[name]) or file[name][0] != 0 or (steps < 0).any() or file[name][-1] != len(file[words]):
                raise file.error(name, f"does not ascend from 0 to the {len(file[words])} rows of {words}")
        if (file["text_of_image"] >= len(file["text_offsets"]) - 1).any():
            raise file.error(
                "text_of_image", f"names more than the {len(file['text_offsets']) - 1} texts that there are"
            )
        if (file["image_ids"].diff() <= 0).any():
            raise file.error("image_ids", "does not ascend")
        fields: dict[str, Any] = index.model_dump(exclude={"format"}) | dict(file)
        return cls(**fields)

    def must_fit(self, where: Path, vocabulary: Vocabulary) -> None:
        """ValueError that names `where` these came from, if they are not of this vocabulary's verbs and objects."""
        found, expected = tuple(self.phrase_of.shape), (len(vocabulary.verbs), len(vocabulary.objects))
        if found != expected:
            wrong = f"phrases of {found} verbs and objects, the vocabulary has {expected}"
        else:
            index = [(int(self.phrase_of[hoi]), str(vocabulary.phrase(*hoi))) for hoi in vocabulary.hois]
            wrong = next((f"no '{text}'" for row, text in index if row < 0 or self.phrases[row] != text), None)
        if wrong is not None:
            raise ValueError(f"{where}: {wrong}. Are text and annotations of one dataset? Run `rmlr text` again")


class TextIndex(Section):
    """index.json: describes the embeddings."""

    format: Literal[1] = 1
    encoder: str
    model: str
    revision: str | None
    digest: str
    cut: NaturalInt
    phrases: list[str]
    sentence_counts: list[PositiveInt] | None = None

    @model_validator(mode="after")
    def _every_phrase_has_sentences(self) -> "TextIndex":
        if self.sentence_counts is not None and len(self.sentence_counts) != len(self.phrases):
            raise ValueError(
                f"{len(self.phrases)} phrases, but sentence_counts has {len(self.sentence_counts)} entries"
            )
        return self

    def forms(self) -> dict[str, Form]:
        """The tensors of embeddings.safetensors."""
        real, whole, phrases = torch.float32, torch.int64, len(self.phrases)
        sentences = phrases if self.sentence_counts is None else sum(self.sentence_counts)
        return {
            "sentences": Form(real, (sentences, "sentence_dim")),
            "phrase_of": Form(whole, ("verbs", "objects"), low=-1, high=phrases - 1),
            "phrase_words": Form(real, ("words", "dim")),
            "phrase_offsets": Form(whole, (phrases + 1,)),
            "phrase_parts": Form(whole, ("words",), low=SUBJECT, high=OBJECT),
            "text_words": Form(real, ("text_words", "dim")),
            "text_offsets": Form(whole, ("texts_and_one",)),
            "image_ids": Form(whole, ("images",)),
            "text_of_image": Form(whole, ("images",), low=-1),
        }


# ---- the text to encode


@dataclass(frozen=True, slots=True)
class Texts:
    """Annotations as phrases."""

    phrases: list[Phrase]  # distinct, of every interaction that a row can have
    phrase_of: Int[np.ndarray, "v o"]
    images: dict[int, tuple[Phrase, ...]]  # image id: its annotation text in annotation order, duplicates removed


def collect(vocabulary: Vocabulary, annotations: Sequence[Annotation]) -> Texts:
    """Phrases of the vocabulary's HOIs and of further annotated combinations, and the text of each image.

    Differs: the paper does not say how often a triplet is repeated; here each phrase occurs once per image. A role
    without an object reads `person <verb>` and is part of the image's text only.
    """
    combinations = dict.fromkeys(vocabulary.hois)
    images = {}
    for annotation in annotations:
        said = {}
        for _, verb, box in annotation.interactions.tolist():
            object_ = None if box == NO_BOX else int(annotation.labels[box])
            said[vocabulary.phrase(verb, object_)] = None
            if object_ is not None and verb < len(vocabulary.verbs):
                combinations[verb, object_] = None
        images[annotation.image_id] = tuple(said)
    index: dict[Phrase, int] = {}
    phrase_of = np.full((len(vocabulary.verbs), len(vocabulary.objects)), -1, dtype=np.int64)
    for verb, object_ in combinations:
        phrase_of[verb, object_] = index.setdefault(vocabulary.phrase(verb, object_), len(index))
    return Texts(list(index), phrase_of, images)


# ---- encoding

BATCH_TOKENS = 4096  # tokens encoded at once: affects memory, not results
SAME = 1e-3  # vectors with a smaller relative difference count as equal: those of real encoders differ by a tenth


@torch.no_grad()
def embed(
    texts: Texts,
    encoder: TextEncoder,
    *,
    name: str,
    model: str,
    revision: str | None,
    progress: Callable[[int, str], AbstractContextManager],
    sentences: Sequence[Sequence[str]] | None = None,
    several: Several = "average",
    said: Mapping[Phrase, Phrase] | None = None,
) -> TextEmbeddings:
    """Encode each distinct text once.

    Words are last hidden states without special and separating tokens. Phrases of an image are joined by the encoder's
    separator as far as they fit. `sentences` are what is said of each phrase (None: the phrase itself); of several, the
    vectors are averaged, or kept as so many targets. `said` has what is read in a phrase's place (None: the phrase).
    `progress` is a record's.

    Differs: the paper has one [CLS] per interaction; here it is that of the phrase encoded alone, or another vector of
    it, as the encoder pools it.
    """
    read = {phrase: (said or {}).get(phrase, phrase) for phrase in _all_phrases(texts)}
    tokens = {phrase: _tokens(encoder, spoken, name) for phrase, spoken in read.items()}
    if sentences is None:
        sentences = [[str(read[phrase])] for phrase in texts.phrases]
    alone = [encoder.framed(_fitting(encoder, tokens[phrase][0], str(phrase), name)) for phrase in texts.phrases]
    spoken = [
        [encoder.framed(_fitting(encoder, encoder.tokens(text), text, name))[0] for text in group]
        for group in sentences
    ]
    joined, cut = _joined(texts, tokens, encoder)
    distinct = {text: number for number, text in enumerate(dict.fromkeys(text for text in joined.values() if text))}
    framed = [encoder.framed(list(text)) for text in distinct]
    sequences = [sequence for sequence, _ in (*alone, *framed)]
    sequences = list(dict.fromkeys([*sequences, *(sequence for group in spoken for sequence in group)]))
    states, vectors = {}, {}
    with progress(len(sequences), "texts") as bar:
        for batch in _batches(sequences):
            found, pooled = encoder.encode(batch)
            states.update(zip(batch, found, strict=True))
            vectors.update(zip(batch, pooled, strict=True))
            bar.advance(len(batch))

    def concatenated(sets: list[Tensor]) -> tuple[Tensor, Tensor]:
        offsets = torch.tensor([0, *(len(words) for words in sets)]).cumsum(0)
        return torch.cat([*sets, torch.zeros(0, encoder.dim)]), offsets

    grouped = [torch.stack([vectors[sequence] for sequence in group]) for group in spoken]
    means = [group.mean(0) for group in grouped]
    _must_differ([str(phrase) for phrase in texts.phrases], means, name, encoder.pooling)
    kept = [*torch.cat(grouped)] if several == "each" and grouped else means
    phrase_words, phrase_offsets = concatenated([states[sequence][where] for sequence, where in alone])
    is_word = [torch.tensor([token not in encoder.separator for token in text]) for text in distinct]
    text_words, text_offsets = concatenated(
        [states[sequence][where][keep] for (sequence, where), keep in zip(framed, is_word, strict=True)]
    )
    images = sorted(joined)
    return TextEmbeddings(
        encoder=name,
        model=model,
        revision=revision,
        digest=encoder.digest,
        cut=cut,
        phrases=[str(phrase) for phrase in texts.phrases],
        sentences=torch.stack(kept) if kept else torch.zeros(0, encoder.sentence_dim),
        phrase_of=torch.from_numpy(texts.phrase_of),
        phrase_words=phrase_words,
        phrase_offsets=phrase_offsets,
        phrase_parts=torch.tensor([part for phrase in texts.phrases for part in tokens[phrase][1]], dtype=torch.long),
        text_words=text_words,
        text_offsets=text_offsets,
        image_ids=torch.tensor(images, dtype=torch.long),
        text_of_image=torch.tensor([distinct.get(joined[image], -1) for image in images], dtype=torch.long),
        sentence_counts=[len(group) for group in spoken] if several == "each" else None,
    )


def _all_phrases(texts: Texts) -> list[Phrase]:
    return list(dict.fromkeys([*texts.phrases, *(phrase for image in texts.images.values() for phrase in image)]))


def _tokens(encoder: TextEncoder, phrase: Phrase, name: str) -> tuple[list[Token], list[int]]:
    """A phrase's tokens, and the part of the phrase that each belongs to: parts end where words do."""
    tokens = encoder.tokens(str(phrase))
    heads = [encoder.tokens(phrase.subject), encoder.tokens(f"{phrase.subject} {phrase.verb}")]
    if any(tokens[: len(head)] != head for head in heads):
        raise ValueError(
            f"text encoder {name}: its tokens of '{phrase}' do not end where words do. Take another encoder"
        )
    return tokens, np.searchsorted([len(head) for head in heads], range(len(tokens)), side="right").tolist()


def _fitting(encoder: TextEncoder, tokens: list[Token], text: str, name: str) -> list[Token]:
    """The tokens of a text; ValueError where there are none, or more than the encoder reads."""
    if not 0 < len(tokens) <= encoder.limit:
        raise ValueError(
            f"text encoder {name}: '{text}' has {len(tokens)} tokens, of which it reads 1 to {encoder.limit}. Take a "
            "shorter text, or an encoder of longer ones"
        )
    return tokens


def _joined(
    texts: Texts, tokens: Mapping[Phrase, tuple[list[Token], list[int]]], encoder: TextEncoder
) -> tuple[dict[int, tuple[Token, ...]], int]:
    """The text of each image, as far as its phrases fit, and how many phrases did not, over all images."""
    joined, cut = {}, 0
    for image, phrases in texts.images.items():
        text: list[Token] = []
        for number, phrase in enumerate(phrases):
            longer = [*text, *(encoder.separator if text else ()), *tokens[phrase][0]]
            if len(longer) > encoder.limit:
                cut += len(phrases) - number
                break
            text = longer
        joined[image] = tuple(text)
    return joined, cut


def _must_differ(phrases: list[str], pooled: list[Tensor], name: str, pooling: Pooling) -> None:
    """ValueError if different phrases have the same vector, which is useless for training.

    The first state of a causal encoder does not depend on the following words.
    """
    if len(phrases) < 2:
        return
    sentences = torch.stack(pooled)
    spread, length = (sentences - sentences.mean(0)).norm(dim=1).max(), sentences.norm(dim=1).mean()
    seen: dict[tuple[float, ...], str] = {}
    twins = next(((first, phrase) for phrase, vector in zip(phrases, sentences.tolist(), strict=True)
                  if (first := seen.setdefault(tuple(vector), phrase)) != phrase), None)  # fmt: skip
    if spread <= SAME * length:
        twins = phrases[0], phrases[1]
    if twins is not None:
        advice = "Set its pooling to mean or eos" if pooling == "cls" else "Take another encoder, or other sentences"
        raise ValueError(
            f"text encoder {name}: '{twins[0]}' and '{twins[1]}' have one vector with pooling: {pooling}, so training "
            f"could not tell them apart. {advice}"
        )


def _batches(sequences: list[tuple[Token, ...]]) -> Iterator[list[tuple[Token, ...]]]:
    """Batches of texts of equal length, so that none is padded and a text's states do not depend on the others."""
    for length, group in groupby(sorted(sequences, key=len), key=len):
        texts = list(group)
        size = max(1, BATCH_TOKENS // length)
        yield from (texts[i : i + size] for i in range(0, len(texts), size))
