"""Random text encoders of many architectures with tokenizers of their own kinds, as files of the hub look."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

WORDS = ["person", "hit", "with", "sports", "ball", "bat", "talk", "on", "phone", "point", "##s", "un"]

KINDS = ["bert", "mobilebert", "albert", "roberta"]


def save_tiny(folder: Path, kind: str, positions: int = 64, seed: int = 0, words: Sequence[str] = ()) -> Path:
    """A random encoder of some architecture and its own kind of tokenizer, which knows `words` besides `WORDS`."""
    from transformers import AlbertConfig, AutoModel, BertConfig, MobileBertConfig, RobertaConfig

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    sizes |= {"max_position_embeddings": positions}
    narrow = {"embedding_size": 4, "intra_bottleneck_size": 8, "true_hidden_size": 8, "num_feedforward_networks": 1}
    configs = {
        "bert": (BertConfig, save_wordpiece, {}),
        "mobilebert": (MobileBertConfig, save_wordpiece, narrow),
        "albert": (AlbertConfig, save_unigram, {"embedding_size": 4}),
        "roberta": (RobertaConfig, save_byte_pairs, {"pad_token_id": 1}),
    }
    config, save_tokenizer, more = configs[kind]
    torch.manual_seed(seed)
    model = AutoModel.from_config(config(vocab_size=save_tokenizer(folder, [*WORDS, *words]), **sizes, **more))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)  # at the library's deviation of 0.02 all states are alike
    model.save_pretrained(folder)
    return folder


def save_wordpiece(folder: Path, words: Sequence[str]) -> int:
    """BERT's and MobileBERT's vocab.txt; gives the size of the vocabulary."""
    names = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *words]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{name}\n" for name in names))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    return len(names)


def save_unigram(folder: Path, words: Sequence[str]) -> int:
    """ALBERT's tokenizer.json, made from SentencePiece: a piece may begin a word ("▁ball") or go on with one."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "[CLS]", "[SEP]", "<unk>"]
    pieces = [f"▁{word}" for word in words if word.isalpha() and word != "phone"] + ["▁", "s", "▁ph", "one"]
    tokenizer = Tokenizer(models.Unigram([*((name, 0.0) for name in names), *((piece, -1.0) for piece in pieces)], 3))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", cls_token="[CLS]", sep_token="[SEP]", unk_token="<unk>"
    ).save_pretrained(folder)
    return len(names) + len(pieces)


def save_byte_pairs(folder: Path, words: Sequence[str]) -> int:
    """RoBERTa's vocab.json and merges.txt: bytes, merged from the left, of which "Ġ" is the space before a word."""
    from tokenizers import pre_tokenizers

    whole = [word for word in words if word.isalpha()]
    merges = [(word[:end], word[end]) for bare in whole for word in (bare, f"Ġ{bare}") for end in range(1, len(word))]
    merges = list(dict.fromkeys(merges))
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    names += [name for name in map("".join, merges) if name not in names]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(names)}))
    (folder / "merges.txt").write_text("".join(f"{left} {right}\n" for left, right in merges))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "RobertaTokenizer"}')
    return len(names)


def save_word_level(folder: Path, frame: str, special: tuple[str, ...], reads: list[str]) -> int:
    """A tokenizer of whole words that puts a frame around a text, such as "<s> $A </s>"."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = [*special, *(word for word in WORDS if word.isalpha())]
    tokenizer = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token=special[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    used = [(name, names.index(name)) for name in special if name in frame]
    tokenizer.post_processor = processors.TemplateProcessing(single=frame, pair=None, special_tokens=used)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=special[0],
        eos_token="</s>",
        pad_token="</s>",
        model_max_length=32,
        model_input_names=reads,
    ).save_pretrained(folder)
    return len(names)


def save_siglip2(folder: Path) -> int:
    """SigLIP2's tokenizer.json, which is Gemma's in small letters: pairs of characters, "▁" is a space."""
    from tokenizers import processors
    from transformers import Siglip2Tokenizer

    whole = [word for word in WORDS if word.isalpha()]
    merges = [(word[:end], word[end]) for bare in whole for word in (bare, f"▁{bare}") for end in range(1, len(word))]
    merges = list(dict.fromkeys(merges))
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *sorted({"▁", *"".join(whole)})]
    names += [name for name in map("".join, merges) if name not in names]
    tokenizer = Siglip2Tokenizer({name: number for number, name in enumerate(names)}, merges, model_max_length=32)
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    tokenizer.save_pretrained(folder)
    return len(names)


def save_other(folder: Path, kind: str) -> Path:
    """A random network of a kind that reads text otherwise than BERT."""
    import transformers as library

    special = ("<unk>", "</s>")
    if kind.startswith(("clip", "bart")):
        special = ("<unk>", "<s>", "</s>")
    if kind == "siglip2":
        size = save_siglip2(folder)
    else:
        reads = ["input_ids"] if kind.startswith("siglip") else ["input_ids", "attention_mask"]
        size = save_word_level(folder, "<s> $A </s>" if "<s>" in special else "$A </s>", special, reads)
    shared = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "hidden_size": 8}
    end = special.index("</s>")
    text: dict[str, Any] = shared | {"vocab_size": size, "max_position_embeddings": 32}
    text |= {"bos_token_id": None, "eos_token_id": end}
    clip = text | {"projection_dim": 6}
    vision = shared | {"image_size": 8, "patch_size": 4}
    siglip2_vision = shared | {"patch_size": 4, "num_patches": 4}
    t5 = {"vocab_size": size, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    decoder = {"bos_token_id": None, "eos_token_id": end, "pad_token_id": end}
    bart = decoder | {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    bart |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "max_position_embeddings": 32}
    gpt2 = decoder | {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 32}
    both = {"text_config": text, "vision_config": vision}
    torch.manual_seed(0)
    made = {
        "clip": lambda: library.CLIPModel(library.CLIPConfig(**both, projection_dim=6)),
        "clip_text": lambda: library.CLIPTextModel(library.CLIPTextConfig(**text)),
        "clip_projection": lambda: library.CLIPTextModelWithProjection(library.CLIPTextConfig(**clip)),
        "siglip": lambda: library.SiglipModel(library.SiglipConfig(**both)),
        "siglip_text": lambda: library.SiglipTextModel(library.SiglipTextConfig(**text)),
        "siglip2": lambda: library.Siglip2Model(library.Siglip2Config(text_config=text, vision_config=siglip2_vision)),
        "t5": lambda: library.T5Model(library.T5Config(**t5, decoder_start_token_id=0)),
        "t5_encoder": lambda: library.T5EncoderModel(library.T5Config(**t5)),
        "bart": lambda: library.BartModel(library.BartConfig(vocab_size=size, **bart)),
        "gpt2": lambda: library.GPT2Model(library.GPT2Config(vocab_size=size, **gpt2)),
        "vit": lambda: library.ViTModel(library.ViTConfig(**vision)),
    }[kind]()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    made.save_pretrained(folder)
    return folder
