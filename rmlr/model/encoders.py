"""Frozen text encoders: phrases to tokens, and tokens to states."""

import hashlib
import importlib.util
import logging
import os
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rmlr.hoi import Phrase
from rmlr.study.tensors import check_finite

log = logging.getLogger(__name__)

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
EXPECTED = "Expected is the folder of an encoder such as BERT, RoBERTa, ALBERT or MobileBERT, with its tokenizer"

Token = int | str


@runtime_checkable
class TextEncoder(Protocol):
    """Turns sequences of its own tokens into states."""

    digest: str
    dim: int
    limit: int  # tokens of a text, without special tokens
    separator: tuple[Token, ...]  # between phrases

    def tokens(self, phrase: Phrase) -> tuple[list[Token], list[int]]:
        """A phrase's tokens, and the part of the phrase that each belongs to."""
        ...

    def framed(self, tokens: list[Token]) -> tuple[tuple[Token, ...], slice]:
        """A text with the encoder's special tokens ([CLS] ... [SEP]), and the position of the text itself."""
        ...

    def states(self, batch: list[tuple[Token, ...]]) -> Float[Tensor, "b t d"]:
        """Last hidden states of texts of one length, with special tokens."""
        ...


class TransformerEncoder:
    """A frozen `transformers.AutoModel` and its tokenizer, from a folder, in float32 on the CPU."""

    def __init__(self, folder: Path, digest: str):
        self.digest = digest
        try:
            self._tokenizer, self._model = _load(folder)
        except Exception as error:  # the library may raise anything for damaged files or unknown models
            raise ValueError(f"{folder}: cannot be read as a text encoder ({_line(error)}). {EXPECTED}") from error
        self.dim = self._model.config.hidden_size

        tokenizer = self._tokenizer
        if not tokenizer.is_fast:
            raise ValueError(
                f"{folder}: its tokenizer does not say which characters a token stands for; use a fast one"
            )
        probe, bare = tokenizer("person")["input_ids"], tokenizer("person", add_special_tokens=False)["input_ids"]
        if set(bare) <= {tokenizer.unk_token_id}:
            raise ValueError(f"{folder}: its tokenizer does not know 'person'. Is its vocabulary there? {EXPECTED}")
        start = next(i for i in range(len(probe)) if probe[i : i + len(bare)] == bare)
        self._prefix, self._suffix = probe[:start], probe[start + len(bare) :]
        self.separator = self._separator(len(bare))
        if not self.separator:
            raise ValueError(f"{folder}: its tokenizer has no separator (sep_token, eos_token) to join phrases with")
        self.limit = min(tokenizer.model_max_length, self._positions()) - len(self._prefix) - len(self._suffix)
        try:
            self.states([tuple(probe)])
        except Exception as error:  # from a network that needs more than text
            raise ValueError(f"{folder}: does not encode 'person' ({_line(error)}). {EXPECTED}") from error

    def _separator(self, length: int) -> tuple[Token, ...]:
        """The tokens between two texts of a pair (two for RoBERTa); otherwise the separator, or the end token."""
        tokenizer = self._tokenizer
        pair = tokenizer("person", "person")["input_ids"]
        between = pair[len(self._prefix) + length : len(pair) - length - len(self._suffix)]
        if between and set(between) <= set(tokenizer.all_special_ids):
            return tuple(between)
        return tuple(token for token in (tokenizer.sep_token_id, tokenizer.eos_token_id) if token is not None)[:1]

    def _positions(self) -> int:
        """The size of the position table, in tokens; RoBERTa's reserves those up to its padding token."""
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


def _load(folder: Path) -> tuple[Any, Any]:
    """Tokenizer and network of a folder; ValueError if it is not a text encoder, or weights are missing."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from transformers import AutoConfig, AutoModel, AutoTokenizer  # here, so that training does not import it
    from transformers.utils import logging as talk

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    kind = f"model_type '{config.model_type}'"
    if config.is_encoder_decoder:
        raise ValueError(f"{kind} is an encoder with a decoder, which is not supported")
    if hasattr(config, "text_config") or not hasattr(config, "hidden_size"):
        raise ValueError(f"{kind} is more than a text tower; of CLIP, give the folder of a CLIPTextModel alone")
    talk.disable_progress_bar()
    level = talk.get_verbosity()
    talk.set_verbosity_error()  # it would print a table of the unused weights
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model, report = AutoModel.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    finally:
        talk.set_verbosity(level)
    if extra := len(report["unexpected_keys"]):
        log.info("%s: left out %d tensors of heads that an encoder does not have", folder, extra)
    if missing := sorted(key for key in report["missing_keys"] if "pooler" not in key):
        raise ValueError(f"weights lack {missing[:3]}, {len(missing)} in all")
    check_finite("weights", model.state_dict(), "Get them again")
    return tokenizer, model.eval().requires_grad_(False)


def _line(error: Exception) -> str:
    """The first line of an error."""
    return (str(error).splitlines() or [type(error).__name__])[0]


class RandomEncoder:
    """A control that knows no language: a seeded normal vector for each distinct word, and one for each text ([CLS]).

    With mean pooling, a phrase is the mean of its words' vectors; with [CLS], phrases are independent.
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

    Its weights file must have the sha256, if one is given. A hub id is downloaded, or read from the hub's cache (always
    with HF_HUB_OFFLINE=1); nothing else uses the network.
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


def _package_folder(name: str) -> Path:
    """The single folder with a config and weights in an installed package, whose code is not run."""
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
    except Exception as error:  # the hub client may raise anything
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
