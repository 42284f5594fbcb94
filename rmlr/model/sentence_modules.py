"""How a sentence-transformers folder turns the states of a text into its vector: the modules that follow the encoder.

Read without that library: `modules.json` names them, each has its `config.json` and, if it has weights, its own file.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, RootModel
from safetensors.torch import load_file
from torch import Tensor, nn

from rmlr.study.files import read_json, refuse_what_is_no_file
from rmlr.study.tensors import check_finite, load_pickled

MODULES_FILE = "modules.json"
MODULE_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
KNOWN = "Pooling, Dense, LayerNorm, Normalize and Dropout"

Mode = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
POOLED: dict[Mode, Callable[[Tensor], Tensor]] = {  # of texts without padding, b t d; several are concatenated
    "cls": lambda states: states[:, 0],
    "max": lambda states: states.amax(1),
    "mean": lambda states: states.mean(1),
    "mean_sqrt_len_tokens": lambda states: states.sum(1) / states.shape[1] ** 0.5,
    "weightedmean": lambda states: torch.einsum("btd,t->bd", states, _ascending(states.shape[1])),
    "lasttoken": lambda states: states[:, -1],
}


def _ascending(length: int) -> Tensor:
    weights = torch.arange(1.0, length + 1)
    return weights / weights.sum()


class _Module(BaseModel):
    type: str  # "sentence_transformers.models.Pooling", or where later versions have it
    path: str

    @property
    def kind(self) -> str:
        return self.type.rpartition(".")[2]


class _Modules(RootModel[Annotated[list[_Module], Field(min_length=1)]]):
    pass


class _PoolingConfig(BaseModel):
    """1_Pooling/config.json: one name or a list, or a switch for each mode as older versions wrote it."""

    pooling_mode: Mode | list[Mode] | None = None
    pooling_mode_cls_token: bool = False
    pooling_mode_max_tokens: bool = False
    pooling_mode_mean_tokens: bool = False
    pooling_mode_mean_sqrt_len_tokens: bool = False
    pooling_mode_weightedmean_tokens: bool = False
    pooling_mode_lasttoken: bool = False

    def modes(self) -> list[Mode]:
        if self.pooling_mode is not None:
            return [self.pooling_mode] if isinstance(self.pooling_mode, str) else self.pooling_mode
        switches = (
            self.pooling_mode_cls_token,
            self.pooling_mode_max_tokens,
            self.pooling_mode_mean_tokens,
            self.pooling_mode_mean_sqrt_len_tokens,
            self.pooling_mode_weightedmean_tokens,
            self.pooling_mode_lasttoken,
        )
        return [mode for mode, is_on in zip(POOLED, switches, strict=True) if is_on] or ["mean"]


class _DenseConfig(BaseModel):
    model_config = ConfigDict(extra="allow")

    in_features: int
    out_features: int
    bias: bool = True
    activation_function: str | None = "torch.nn.modules.activation.Tanh"
    module_input_name: Literal["sentence_embedding"] = "sentence_embedding"
    module_output_name: Literal["sentence_embedding"] | None = None
    use_residual: Literal[False] = False


class _LayerNormConfig(BaseModel):
    dimension: int


class SentenceModules:
    """The modules after the encoder of a sentence-transformers folder, applied to states without padding."""

    def __init__(self, folder: Path, modules: list[_Module]):
        self.weights: list[Path] = []  # files of the modules' own tensors
        self._steps: list[Callable[[Tensor], Tensor]] = []
        for number, module in enumerate(modules):
            if (module.kind == "Pooling") != (number == 0):
                raise ValueError(
                    f"{folder / MODULES_FILE}: expected one module Pooling right after the encoder, then others; got "
                    f"{[one.kind for one in modules]}. Set the encoder's pooling to cls, mean or eos"
                )
            self._steps.append(self._step(folder / MODULES_FILE, folder / module.path, module.kind))

    def __call__(self, states: Float[Tensor, "b t d"]) -> Float[Tensor, "b e"]:
        for step in self._steps:
            states = step(states)
        return states

    def _step(self, where: Path, folder: Path, kind: str) -> Callable[[Tensor], Tensor]:
        config = folder / "config.json"
        if kind == "Pooling":
            modes = read_json(config, _PoolingConfig).modes()
            return lambda states: torch.cat([POOLED[mode](states) for mode in modes], -1)
        if kind == "Normalize":
            return lambda vectors: F.normalize(vectors, dim=-1)
        if kind == "Dropout":  # only for training
            return lambda vectors: vectors
        if kind == "LayerNorm":
            norm = nn.LayerNorm(read_json(config, _LayerNormConfig).dimension)
            return self._loaded(folder, norm, "norm.")
        if kind == "Dense":
            sizes = read_json(config, _DenseConfig)
            linear = nn.Linear(sizes.in_features, sizes.out_features, bias=sizes.bias)
            return nn.Sequential(self._loaded(folder, linear, "linear."), _activation(config, sizes))
        raise ValueError(
            f"{where}: module {kind} is not supported (only {KNOWN} are). Set the encoder's pooling to cls, mean or eos"
        )

    def _loaded(self, folder: Path, module: nn.Module, prefix: str) -> nn.Module:
        """The module with the weights of its folder, frozen."""
        path = next((path for path in map(folder.joinpath, MODULE_WEIGHTS) if path.is_file()), None)
        if path is None:
            raise ValueError(f"{folder}: has no weights, expected one of {', '.join(MODULE_WEIGHTS)}. Get them again")
        self.weights.append(path)
        try:
            module.load_state_dict({key.removeprefix(prefix): value for key, value in _tensors(path).items()})
        except Exception as error:  # raised by torch or safetensors for damaged files or other shapes
            raise ValueError(f"{path}: does not fit its config.json ({' '.join(str(error).split())})") from error
        check_finite(str(path), module.state_dict(), "Get them again")
        return module.float().eval().requires_grad_(False)


def _tensors(path: Path) -> dict[str, Tensor]:
    refuse_what_is_no_file(path, "Get it again")
    return load_file(path) if path.suffix == ".safetensors" else load_pickled(path, "Get it again")


def _activation(config: Path, sizes: _DenseConfig) -> nn.Module:
    """The activation of a Dense module, named by its class, which must be one of torch."""
    if sizes.activation_function is None:
        return nn.Identity()
    place, _, name = sizes.activation_function.rpartition(".")
    known: Any = getattr(nn, name, None) if place.startswith("torch.") else None
    if not (isinstance(known, type) and issubclass(known, nn.Module)):
        raise ValueError(
            f"{config}: activation_function: expected a class of torch.nn, got {sizes.activation_function!r}"
        )
    return known()


def encoder_folder(folder: Path) -> tuple[Path, list[_Module] | None]:
    """The folder of the encoder, and the modules that follow it; None if there is no modules.json."""
    path = folder / MODULES_FILE
    if not path.exists():
        return folder, None
    first, *rest = read_json(path, _Modules).root
    if first.kind not in ("Transformer", "CLIPModel"):
        raise ValueError(f"{path}: expected a Transformer as the first module, got {first.type}. Take another encoder")
    return folder / first.path, rest
