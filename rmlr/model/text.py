"""Sentences and words of every interaction, through a frozen text encoder (paper, section 3.3, equations 7 and 8).

The text is a teacher: it is encoded once, read in training, and never needed for a prediction. `collect` puts
annotations into words, `embed` encodes them, `TextEmbeddings` is what is kept.
"""

import hashlib
import importlib.util
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rmlr.hoi import NO_BOX, Annotation, Phrase, Vocabulary

log = logging.getLogger(__name__)

INDEX_FILE, EMBEDDINGS_FILE = "index.json", "embeddings.safetensors"
SUBJECT, VERB, OBJECT = range(3)  # part of a phrase that a word belongs to; "with" of an instrument is the verb's

Token = int | str
Pooling = Literal["cls", "mean"]


# ---- what is kept


@dataclass(frozen=True, slots=True, eq=False)
class TextEmbeddings:
    """The frozen encoder's view of all that training reads: phrases of rows, and annotation texts of images.

    A phrase is one interaction alone ("person hit with bat"); an image's text joins all of its phrases. Sets of words
    are concatenated: those of phrase i are `phrase_words[phrase_offsets[i]:phrase_offsets[i + 1]]`.
    """

    encoder: str  # as printed in tables
    model: str  # hub id, folder, package, or `random:DIM`
    revision: str | None
    digest: str  # sha256 of the encoder's weights
    cut: int  # phrases of image texts that did not fit into the encoder's length, over all images
    phrases: list[str]  # distinct, those of the vocabulary's HOIs first
    sentences: Float[Tensor, "s d"]  # each phrase encoded alone, pooled: E_cls
    phrase_of: Int[Tensor, "v o"]  # phrase of a verb and an object class, -1 where nothing says so
    phrase_words: Float[Tensor, "w d"]
    phrase_offsets: Int[Tensor, " s1"]  # one more than phrases
    phrase_parts: Int[Tensor, " w"]  # SUBJECT, VERB or OBJECT
    text_words: Float[Tensor, "k d"]  # distinct image texts, without special tokens: E_w
    text_offsets: Int[Tensor, " x1"]  # one more than distinct texts
    image_ids: Int[Tensor, " i"]  # ascending
    text_of_image: Int[Tensor, " i"]  # -1: nothing was annotated

    @property
    def dim(self) -> int:
        """Width of the encoder's states."""
        return self.sentences.shape[1]

    def count_phrases(self, verbs: Int[Tensor, " g"], objects: Int[Tensor, " g"]) -> Int[Tensor, " s"]:
        """How often each phrase is among these interactions."""
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
        tensors = {name: value.contiguous() for name, value in values.items() if isinstance(value, Tensor)}
        save_file(tensors, folder / EMBEDDINGS_FILE)
        index = {name: value for name, value in values.items() if name not in tensors}
        (folder / INDEX_FILE).write_text(json.dumps({"format": 1, **index}, indent=1))

    @classmethod
    def load(cls, folder: Path) -> "TextEmbeddings":
        """Read what `save` wrote; ValueError where it is not there or of another form."""
        path = folder / INDEX_FILE
        try:
            index = json.loads(path.read_text())
            if index.pop("format") != 1:
                raise ValueError("unknown format")
            path = folder / EMBEDDINGS_FILE
            fields: dict[str, Any] = {**index, **load_file(path)}
            return cls(**fields)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, SafetensorError) as error:
            raise ValueError(f"{path}: no readable text embeddings ({error}). Run `rmlr text` again") from error

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


# ---- what there is to encode


@dataclass(frozen=True, slots=True)
class Texts:
    """Annotations in words."""

    phrases: list[Phrase]  # distinct, of every interaction that a row can have
    phrase_of: Int[np.ndarray, "v o"]
    images: dict[int, tuple[Phrase, ...]]  # image id: its annotation text in annotation order, duplicates removed


def collect(vocabulary: Vocabulary, annotations: Sequence[Annotation]) -> Texts:
    """Phrases of the vocabulary's HOIs and of what is annotated beyond them, and the text of each image.

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


# ---- encoders


@runtime_checkable
class TextEncoder(Protocol):
    """Turns sequences of its own tokens into states."""

    digest: str
    dim: int
    limit: int  # tokens of a text, without its frame
    separator: tuple[Token, ...]  # between phrases

    def tokens(self, phrase: Phrase) -> tuple[list[Token], list[int]]:
        """A phrase's tokens, and the part of the phrase that each belongs to."""
        ...

    def framed(self, tokens: list[Token]) -> tuple[tuple[Token, ...], slice]:
        """A text as the encoder wants it ([CLS] ... [SEP]), and where in it the text itself stands."""
        ...

    def states(self, batch: list[tuple[Token, ...]]) -> Float[Tensor, "b t d"]:
        """Last hidden states of framed texts of one length."""
        ...


class TransformerEncoder:
    """A frozen `transformers.AutoModel` and its tokenizer, from a folder, in float32 on the CPU."""

    def __init__(self, folder: Path, digest: str):
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        from transformers import AutoModel, AutoTokenizer  # here, for training must not pay for it
        from transformers.utils import logging as talk

        talk.disable_progress_bar()
        level = talk.get_verbosity()
        talk.set_verbosity_error()  # of what the weights hold besides, it would print a table
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model, report = AutoModel.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
        finally:
            talk.set_verbosity(level)
        self.digest = digest
        if extra := len(report["unexpected_keys"]):
            log.info("%s: left out %d tensors of heads that an encoder does not have", folder, extra)
        if missing := sorted(key for key in report["missing_keys"] if "pooler" not in key):
            raise ValueError(
                f"{folder}: weights lack {missing[:3]}, {len(missing)} in all. Is this an encoder's folder?"
            )
        self._model = model.eval().requires_grad_(False)
        self.dim = model.config.hidden_size

        tokenizer = self._tokenizer
        if not tokenizer.is_fast:
            raise ValueError(
                f"{folder}: its tokenizer does not say which characters a token stands for; use a fast one"
            )
        probe, bare = tokenizer("person")["input_ids"], tokenizer("person", add_special_tokens=False)["input_ids"]
        start = next(i for i in range(len(probe)) if probe[i : i + len(bare)] == bare)
        self._prefix, self._suffix = probe[:start], probe[start + len(bare) :]
        self.separator = self._separator(len(bare))
        if not self.separator:
            raise ValueError(f"{folder}: its tokenizer has no separator (sep_token, eos_token) to join phrases with")
        self.limit = min(tokenizer.model_max_length, self._positions()) - len(self._prefix) - len(self._suffix)

    def _separator(self, length: int) -> tuple[Token, ...]:
        """What the tokenizer puts between two texts of a pair, RoBERTa two tokens; else its separator, or its end."""
        tokenizer = self._tokenizer
        pair = tokenizer("person", "person")["input_ids"]
        between = pair[len(self._prefix) + length : len(pair) - length - len(self._suffix)]
        if between and set(between) <= set(tokenizer.all_special_ids):
            return tuple(between)
        return tuple(token for token in (tokenizer.sep_token_id, tokenizer.eos_token_id) if token is not None)[:1]

    def _positions(self) -> int:
        """Tokens that the position table can hold; RoBERTa's keeps those up to its padding's for itself."""
        for name, module in self._model.named_modules():
            if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
                return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
        return self._tokenizer.model_max_length

    def tokens(self, phrase: Phrase) -> tuple[list[Token], list[int]]:
        encoded = self._tokenizer(str(phrase), add_special_tokens=False, return_offsets_mapping=True)
        ends = np.cumsum([len(phrase.subject), 1 + len(phrase.verb)])  # where subject and verb end, in characters
        last = [end - 1 for _, end in encoded["offset_mapping"]]  # a token may begin with the space before its word
        return list(encoded["input_ids"]), np.searchsorted(ends, last, side="right").tolist()

    def framed(self, tokens: list[Token]) -> tuple[tuple[Token, ...], slice]:
        start = len(self._prefix)
        return (*self._prefix, *tokens, *self._suffix), slice(start, start + len(tokens))

    def states(self, batch: list[tuple[Token, ...]]) -> Float[Tensor, "b t d"]:
        ids = torch.tensor(batch)
        return self._model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state


class RandomEncoder:
    """A control that knows no language: a seeded normal vector for each distinct word, and one for each text ([CLS]).

    Mean-pooled, a phrase is a bag of its words' vectors; pooled by [CLS], it has nothing in common with another.
    """

    separator: tuple[Token, ...] = ("[SEP]",)

    def __init__(self, dim: int):
        self.dim, self.digest, self.limit = dim, f"random:{dim}", 510  # as long as BERT's

    def tokens(self, phrase: Phrase) -> tuple[list[Token], list[int]]:
        texts = (phrase.subject, phrase.verb, phrase.object or "")
        words = [(word, part) for part, text in enumerate(texts) for word in text.split()]
        return [word for word, _ in words], [part for _, part in words]

    def framed(self, tokens: list[Token]) -> tuple[tuple[Token, ...], slice]:
        return (" ".join(["[CLS]", *map(str, tokens)]), *tokens), slice(1, 1 + len(tokens))

    def states(self, batch: list[tuple[Token, ...]]) -> Float[Tensor, "b t d"]:
        return torch.stack([torch.stack([self._vector(str(token)) for token in text]) for text in batch])

    def _vector(self, token: str) -> Float[Tensor, " d"]:
        seed = int.from_bytes(hashlib.sha256(token.encode()).digest()[:8], "little")
        return torch.from_numpy(np.random.default_rng(seed).standard_normal(self.dim, dtype=np.float32))


def load_encoder(model: str, revision: str | None, sha256: str | None) -> TextEncoder:
    """The encoder that `model` names: a local folder, `package:NAME`, `random:DIM`, or a hub id.

    Its weights file must have the given sha256, where one is given. A hub id is downloaded, or taken from the hub's
    cache (always so with HF_HUB_OFFLINE=1); nothing else touches the network.
    """
    kind, _, name = model.partition(":")
    if kind == "random":
        if not name.isdecimal() or int(name) == 0:
            raise ValueError(f"text encoder {model!r}: expected `random:DIM` with a positive DIM, e.g. random:384")
        return RandomEncoder(int(name))
    if kind == "package":
        folder = _package_folder(name)
    elif Path(model).is_dir():
        folder = Path(model)
    else:
        folder = _hub_folder(model, revision)
    weights = next((path for path in map(folder.joinpath, WEIGHTS) if path.is_file()), None)
    if weights is None:
        raise ValueError(
            f"{folder}: no weights here, expected one of {', '.join(WEIGHTS)} (save_pretrained writes one)"
        )
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 is not None and digest != sha256:
        raise ValueError(
            f"{weights}: sha256 is {digest}, but the settings say {sha256}. Is it the release that was meant?"
        )
    return TransformerEncoder(folder, digest)


WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def _package_folder(name: str) -> Path:
    """The one folder with a config and weights inside an installed package, whose code is not run."""
    spec = importlib.util.find_spec(name)
    roots = list(spec.submodule_search_locations or []) if spec else []
    if not roots:
        raise ValueError(f"text encoder 'package:{name}': no such package is installed. Install it, or name a folder")
    found = sorted(path.parent for root in roots for path in Path(root).rglob("model.safetensors"))
    found = [folder for folder in found if (folder / "config.json").is_file()]
    if len(found) != 1:
        raise ValueError(f"text encoder 'package:{name}': expected one folder with config.json and model.safetensors "
                         f"in {roots[0]}, found {len(found)}")  # fmt: skip
    return found[0]


def _hub_folder(model: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    if model.count("/") > 1 or model.startswith((".", "/", "~")):
        raise ValueError(f"text encoder {model!r}: there is no such folder, and it is not a hub id (OWNER/NAME)")
    try:
        for weights in WEIGHTS:
            folder = Path(
                snapshot_download(model, revision=revision, allow_patterns=["*.json", "*.txt", "*.model", weights])
            )
            if (folder / weights).is_file():
                break
    except Exception as error:  # the hub client's, many kinds
        download = f"hf download {model}" + (f" --revision {revision}" if revision else "")
        raise ValueError(
            f"text encoder {model!r} (revision {revision}): neither a local folder, nor in the hub's cache, nor to be "
            f"had from the hub ({' '.join(str(error).split())}). Where there is a network, run `{download}`; or name a "
            "folder that holds it"
        ) from error
    if revision != folder.name:
        log.warning("text encoder %s, revision %s, is commit %s now: give that as its revision", model, revision,
                    folder.name)  # fmt: skip
    return folder


# ---- encoding

BATCH_TOKENS = 4096  # tokens encoded at once: a matter of memory, not of results


@torch.no_grad()
def embed(
    texts: Texts,
    encoder: TextEncoder,
    *,
    name: str,
    model: str,
    revision: str | None,
    pooling: Pooling,
    progress: Callable[[int, str], AbstractContextManager],
) -> TextEmbeddings:
    """Encode each distinct text once.

    Words are last hidden states without special and separating tokens. Phrases of an image are joined by the encoder's
    separator as far as they fit. `progress` is a record's.

    Differs: the paper has one [CLS] per interaction; here it is that of the phrase encoded alone, or the mean of
    its states.
    """
    tokens = {
        phrase: encoder.tokens(phrase) for phrase in {*texts.phrases, *(p for i in texts.images.values() for p in i)}
    }
    alone = [encoder.framed(tokens[phrase][0]) for phrase in texts.phrases]
    for phrase in texts.phrases:
        if len(tokens[phrase][0]) > encoder.limit:
            raise ValueError(
                f"text encoder {name}: '{phrase}' has {len(tokens[phrase][0])} tokens, of which it reads "
                f"{encoder.limit}. Take an encoder of longer texts"
            )
    if pooling == "cls" and any(where.start == 0 for _, where in alone):
        raise ValueError(f"text encoder {name}: it puts no [CLS] before a text; set its pooling to mean")
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
    distinct = {text: number for number, text in enumerate(dict.fromkeys(text for text in joined.values() if text))}
    framed = [encoder.framed(list(text)) for text in distinct]
    sequences = list(dict.fromkeys(sequence for sequence, _ in (*alone, *framed)))
    states = {}
    with progress(len(sequences), "texts") as bar:
        for batch in _batches(sequences):
            states.update(zip(batch, encoder.states(batch), strict=True))
            bar.advance(len(batch))

    def concatenated(sets: list[Tensor]) -> tuple[Tensor, Tensor]:
        offsets = torch.tensor([0, *(len(words) for words in sets)]).cumsum(0)
        return torch.cat([*sets, torch.zeros(0, encoder.dim)]), offsets

    pooled = [states[sequence][0] if pooling == "cls" else states[sequence].mean(0) for sequence, _ in alone]
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
        sentences=torch.stack(pooled) if pooled else torch.zeros(0, encoder.dim),
        phrase_of=torch.from_numpy(texts.phrase_of),
        phrase_words=phrase_words,
        phrase_offsets=phrase_offsets,
        phrase_parts=torch.tensor([part for phrase in texts.phrases for part in tokens[phrase][1]], dtype=torch.long),
        text_words=text_words,
        text_offsets=text_offsets,
        image_ids=torch.tensor(images, dtype=torch.long),
        text_of_image=torch.tensor([distinct.get(joined[image], -1) for image in images], dtype=torch.long),
    )


def _batches(sequences: list[tuple[Token, ...]]) -> Iterator[list[tuple[Token, ...]]]:
    """Texts of one length each, so that none is padded and a text's states do not hang on its neighbours' lengths."""
    for length, group in groupby(sorted(sequences, key=len), key=len):
        texts = list(group)
        size = max(1, BATCH_TOKENS // length)
        yield from (texts[i : i + size] for i in range(0, len(texts), size))
