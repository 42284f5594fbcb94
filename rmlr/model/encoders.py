"""Frozen text encoders: texts to tokens, and tokens to states and one vector for each text."""

import hashlib
import importlib.util
import logging
import os
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from pydantic import BaseModel
from torch import Tensor

from rmlr.model.sentence_modules import SentenceModules, encoder_folder
from rmlr.study.files import RelativeName, read_json
from rmlr.study.tensors import check_finite

log = logging.getLogger(__name__)

WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json")
EXPECTED = (
    "Expected is the folder of a text encoder (BERT and its family, T5), of a text tower or of a text-image pair "
    "(CLIP, SigLIP), with its tokenizer"
)
POSITION_TABLES = ("position_embedding", "position_embeddings", "embed_positions", "wpe")  # as libraries name them

Token = int | str
Pooling = Literal["cls", "mean", "eos", "own"]


@runtime_checkable
class TextEncoder(Protocol):
    """Turns sequences of its own tokens into states."""

    digest: str
    pooling: Pooling
    dim: int  # of a state
    sentence_dim: int  # of a text's vector
    limit: int  # tokens of a text, without special tokens
    separator: tuple[Token, ...]  # between phrases

    def tokens(self, text: str) -> list[Token]:
        """A text's tokens, without special tokens."""
        ...

    def framed(self, tokens: list[Token]) -> tuple[tuple[Token, ...], slice]:
        """A text with the encoder's special tokens ([CLS] ... [SEP]), and the position of the text itself."""
        ...

    def encode(self, batch: list[tuple[Token, ...]]) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b e"]]:
        """Last hidden states of texts of one length, with special tokens, and the pooled vector of each."""
        ...


class _ShardIndex(BaseModel):
    """model.safetensors.index.json: which file holds a tensor."""

    weight_map: dict[str, RelativeName]


class TransformerEncoder:
    """A frozen text encoder of `transformers` and its tokenizer, from a folder, in float32 on the CPU.

    `pooling` makes one vector of a text's states: that of [CLS], the mean over all of them, `eos`: the last token's as
    the library itself pools it (`get_text_features` of CLIP and SigLIP), or `own`: what a sentence-transformers folder
    says in its modules.json.
    """

    def __init__(self, folder: Path, digest: str, pooling: Pooling, modules: SentenceModules | None):
        self.digest = digest
        self.pooling: Pooling = pooling
        self._modules = modules
        try:
            self._tokenizer, self._model = _load(folder)
        except Exception as error:  # the library may raise anything for damaged files or unknown models
            raise ValueError(f"{folder}: cannot be read as a text encoder ({_line(error)}). {EXPECTED}") from error

        tokenizer = self._tokenizer
        probe, bare = tokenizer("person")["input_ids"], self.tokens("person")
        if set(bare) <= {tokenizer.unk_token_id}:
            raise ValueError(f"{folder}: its tokenizer does not know 'person'. Is its vocabulary there? {EXPECTED}")
        start = next(i for i in range(len(probe)) if probe[i : i + len(bare)] == bare)
        self._prefix, self._suffix = probe[:start], probe[start + len(bare) :]
        if pooling == "cls" and not self._prefix:
            raise ValueError(
                f"{folder}: its tokenizer puts no [CLS] before a text, so pooling: cls is not possible. Set its "
                "pooling to mean or eos"
            )
        self.separator = self._separator(len(bare))
        if not self.separator:
            raise ValueError(f"{folder}: its tokenizer has no separator (sep_token, eos_token) to join phrases with")
        self._padded_length = self._fixed_length()
        self.limit = min(tokenizer.model_max_length, self._positions()) - len(self._prefix) - len(self._suffix)
        try:
            with torch.no_grad():
                states, pooled = self.encode([tuple(probe)])
        except Exception as error:  # from a network that needs more than text
            raise ValueError(f"{folder}: does not encode 'person' ({_line(error)}). {EXPECTED}") from error
        self.dim, self.sentence_dim = states.shape[-1], pooled.shape[-1]

    def _separator(self, length: int) -> tuple[Token, ...]:
        """The tokens between two texts of a pair (two for RoBERTa); otherwise the separator, or the end token."""
        tokenizer = self._tokenizer
        pair = tokenizer("person", "person")["input_ids"]
        between = pair[len(self._prefix) + length : len(pair) - length - len(self._suffix)]
        if between and set(between) <= set(tokenizer.all_special_ids):
            return tuple(between)
        return tuple(token for token in (tokenizer.sep_token_id, tokenizer.eos_token_id) if token is not None)[:1]

    def _text_config(self) -> Any:
        return getattr(self._model.config, "text_config", self._model.config)

    def _fixed_length(self) -> int | None:
        """The length to which SigLIP's texts are padded, as in its training: it reads its vector at the last position.

        Its padding is not masked, so that a text's states depend on it. None: nothing is padded.
        """
        config = self._text_config()
        return config.max_position_embeddings if config.model_type.startswith("siglip") else None

    def _positions(self) -> int:
        """The size of the position table, in tokens; RoBERTa's reserves those up to its padding token."""
        for name, module in self._model.named_modules():
            if name.startswith("vision_model.") or not isinstance(module, torch.nn.Embedding):
                continue
            if name.rpartition(".")[2] in POSITION_TABLES:
                reserved = 0 if module.padding_idx is None else module.padding_idx + 1
                return module.num_embeddings - max(reserved, getattr(module, "offset", 0))
        return self._tokenizer.model_max_length

    def tokens(self, text: str) -> list[Token]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def framed(self, tokens: list[Token]) -> tuple[tuple[Token, ...], slice]:
        start = len(self._prefix)
        return (*self._prefix, *tokens, *self._suffix), slice(start, start + len(tokens))

    def encode(self, batch: list[tuple[Token, ...]]) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b e"]]:
        ids = torch.tensor(batch)
        first, last = 0, ids.shape[1]
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self._padded_length is not None:
            missing = self._padded_length - ids.shape[1]
            sides = (missing, 0) if self._tokenizer.padding_side == "left" else (0, missing)
            first, last = sides[0], sides[0] + ids.shape[1]
            padding = self._tokenizer.pad_token_id
            inputs = {"input_ids": torch.nn.functional.pad(ids, sides, value=padding)}
            if "attention_mask" in self._tokenizer.model_input_names:
                inputs["attention_mask"] = torch.nn.functional.pad(torch.ones_like(ids), sides)
        states, feature = self._states(inputs)
        return states[:, first:last], self._pooled(states[:, first:last], feature)

    def _states(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Last hidden states, and the library's own vector of each text, of a pair or a text tower."""
        model = self._model
        if not hasattr(model, "get_text_features"):
            output = model(**inputs)
            feature = getattr(output, "text_embeds", None)
            if feature is None and model.config.model_type.endswith("text_model"):
                feature = output.pooler_output
            return output.last_hidden_state, feature
        output = model.get_text_features(**inputs)
        if isinstance(output, Tensor):  # early versions of transformers 5 return the vector alone
            return model.text_model(**inputs).last_hidden_state, output
        return output.last_hidden_state, output.pooler_output

    def _pooled(self, states: Tensor, feature: Tensor | None) -> Tensor:
        if self.pooling == "own" and self._modules is not None:
            return self._modules(states)
        if self.pooling == "cls":
            return states[:, 0]
        if self.pooling == "mean":
            return torch.stack([text.mean(0) for text in states])
        return states[:, -1] if feature is None else feature


def _load(folder: Path) -> tuple[Any, Any]:
    """Tokenizer and network of a folder; ValueError if it is not a text encoder, or weights are missing."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from transformers import AutoConfig, AutoTokenizer  # here, so that training does not import it
    from transformers.utils import logging as talk

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    architecture = _architecture(config)
    if hasattr(config, "text_config") and not hasattr(architecture, "get_text_features"):
        raise ValueError(f"model_type '{config.model_type}' has no features of text alone")
    talk.disable_progress_bar()
    level = talk.get_verbosity()
    talk.set_verbosity_error()  # otherwise it prints a table of the unused weights
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model, report = architecture.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    finally:
        talk.set_verbosity(level)
    if extra := len(report["unexpected_keys"]):
        log.info("%s: left out %d tensors of heads that an encoder does not have", folder, extra)
    if missing := sorted(key for key in report["missing_keys"] if "pooler" not in key):
        raise ValueError(f"weights are missing: {missing[:3]}, {len(missing)} in all")
    if getattr(model.config, "is_encoder_decoder", False):
        model = model.get_encoder()
    check_finite("weights", model.state_dict(), "Get them again")
    return tokenizer, model.eval().requires_grad_(False)


def _architecture(config: Any) -> Any:
    """The class of `transformers` that encodes text: an encoder, a pair, or a text tower by its name."""
    import transformers

    named = next(iter(config.architectures or ()), "")
    if named.endswith("WithProjection"):  # the same tower without it would be loaded otherwise
        return getattr(transformers, named)
    if type(config) in transformers.MODEL_FOR_TEXT_ENCODING_MAPPING:  # T5's without its decoder
        return transformers.MODEL_FOR_TEXT_ENCODING_MAPPING[type(config)]
    if type(config) in transformers.MODEL_MAPPING:
        return transformers.MODEL_MAPPING[type(config)]
    if not hasattr(transformers, named):
        raise ValueError(f"model_type '{config.model_type}' has no class {named!r} in the installed transformers")
    return getattr(transformers, named)


def _line(error: Exception) -> str:
    """The first line of an error."""
    return (str(error).splitlines() or [type(error).__name__])[0]


class RandomEncoder:
    """A control that knows no language: a seeded normal vector for each distinct word, and one for each text ([CLS]).

    With `cls`, the vectors of different texts are independent. With `mean`, a text's vector is the mean of its words'
    vectors and of its own [CLS] vector, which has the weight of one word. It is therefore not a bag of words: the same
    words in another order have another [CLS] vector.
    """

    separator: tuple[Token, ...] = ("[SEP]",)

    def __init__(self, dim: int, pooling: Literal["cls", "mean"]):
        self.dim = self.sentence_dim = dim
        self.digest, self.limit = f"random:{dim}", 510  # as long as BERT's
        self.pooling: Pooling = pooling

    def tokens(self, text: str) -> list[Token]:
        return list(text.split())

    def framed(self, tokens: list[Token]) -> tuple[tuple[Token, ...], slice]:
        return (" ".join(["[CLS]", *map(str, tokens)]), *tokens), slice(1, 1 + len(tokens))

    def encode(self, batch: list[tuple[Token, ...]]) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b e"]]:
        states = torch.stack([torch.stack([self._vector(str(token)) for token in text]) for text in batch])
        return states, states[:, 0] if self.pooling == "cls" else torch.stack([text.mean(0) for text in states])

    def _vector(self, token: str) -> Float[Tensor, " d"]:
        seed = int.from_bytes(hashlib.sha256(token.encode()).digest()[:8], "little")
        return torch.from_numpy(np.random.default_rng(seed).standard_normal(self.dim, dtype=np.float32))


def load_encoder(model: str, revision: str | None, sha256: str | None, pooling: Pooling) -> TextEncoder:
    """The encoder that `model` names: a local folder, `package:NAME`, `random:DIM`, or a hub id.

    Its weights must have the sha256, if one is given: that of the file, or of the digests of several files in the order
    of their names. A hub id is downloaded, or read from the hub's cache (always with HF_HUB_OFFLINE=1); nothing else
    uses the network.
    """
    kind, _, name = model.partition(":")
    if kind == "random":
        if not name.isdecimal() or int(name) == 0:
            raise ValueError(f"text encoder {model!r}: expected `random:DIM` with a positive DIM, e.g. random:384")
        if pooling not in ("cls", "mean"):
            raise ValueError(
                f"text encoder {model!r}: random vectors have no pooling: {pooling}. Set it to cls or mean"
            )
        return RandomEncoder(int(name), pooling)
    if kind == "package":
        folder = _package_folder(name)
    elif Path(model).is_dir():
        folder = Path(model)
    else:
        folder = _hub_folder(model, revision)
    inner, listed = encoder_folder(folder)
    weights = _weights(inner)
    digest = _digest(weights)
    if sha256 is not None and digest != sha256:
        raise ValueError(
            f"{weights[0]}: sha256 is {digest}, but the settings say {sha256}. Is it the intended release?"
        )
    modules = None
    if pooling == "own":
        if listed is None:
            raise ValueError(
                f"{folder}: pooling: own is for a sentence-transformers folder, but there is no modules.json. Set its "
                "pooling to cls, mean or eos"
            )
        modules = SentenceModules(folder, listed) if listed else None
        digest = _digest([*weights, *modules.weights]) if modules and modules.weights else digest
    return TransformerEncoder(inner, digest, pooling, modules)


def _weights(folder: Path) -> list[Path]:
    """The files with an encoder's weights: one, or several that an index lists."""
    path = next((path for path in map(folder.joinpath, WEIGHTS) if path.is_file()), None)
    if path is None:
        raise ValueError(f"{folder}: has no weights, expected one of {', '.join(WEIGHTS)} (save_pretrained writes one)")
    if path.suffix != ".json":
        return [path]
    files = [folder / name for name in sorted(set(read_json(path, _ShardIndex).weight_map.values()))]
    if missing := next((file for file in files if not file.is_file()), None):
        raise ValueError(f"{missing}: does not exist, but {path.name} names it. Get the folder again")
    return files


def _digest(files: list[Path]) -> str:
    """The sha256 of a file, or of the digests of several."""
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


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
        raise ValueError(f"text encoder {model!r}: the folder does not exist, and it is not a hub id (OWNER/NAME)")
    try:
        for weights in ("model*.safetensors", "pytorch_model*.bin"):
            wanted = ["*.json", "*.txt", "*.model", f"[0-9]_*/{weights}", weights]  # with those of numbered modules
            folder = Path(snapshot_download(model, revision=revision, allow_patterns=wanted))
            if any(folder.glob(weights)) or any(folder.glob(f"0_*/{weights}")):
                break
    except Exception as error:  # the hub client may raise anything
        download = f"hf download {model}" + (f" --revision {revision}" if revision else "")
        raise ValueError(
            f"text encoder {model!r} (revision {revision}): not a local folder, not in the hub's cache, not available "
            f"from the hub ({' '.join(str(error).split())}). With a network, run `{download}`; or name a "
            "folder that contains it"
        ) from error
    if revision != folder.name:
        log.warning("text encoder %s, revision %s, is commit %s now: give that as its revision", model, revision,
                    folder.name)  # fmt: skip
    return folder
