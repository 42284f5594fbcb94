"""Bring pairs and text together, by word and by sentence (paper, section 3.4). Training only.

Text is frozen throughout: its states are computed once, and nothing here is needed to predict.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rmlr.model.text import SUBJECT, TextEmbeddings
from rmlr.model.transformer import Encoder, Layout

Form = Literal["anchored", "anchored_attention", "literal"]
SMALLEST_DEVIATION = 1e-3  # whitening divides by no less


class PhraseTargets(nn.Module):
    """What the row of a phrase is drawn to, for every phrase: constants that move with the module and are not saved.

    A floor is what a prediction that does not look at the row pays for a phrase: the best constant over the training
    rows, or the best constant for each object class, which knows the object and nothing of the verb.
    """

    phrase_of: Int[Tensor, "v o"]
    words: Float[Tensor, "s d"]
    sentences: Float[Tensor, "s d"]
    vocabulary: Float[Tensor, "w d"]  # whitened states of all phrases' words
    word_floor: Float[Tensor, " s"]
    word_object_floor: Float[Tensor, " s"]
    sentence_floor: Float[Tensor, " s"]
    sentence_object_floor: Float[Tensor, " s"]

    def __init__(self, **tensors: Tensor):
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)


def phrase_targets(
    text: TextEmbeddings, phrase_counts: Int[Tensor, " s"], *, whiten: bool, residual: bool
) -> PhraseTargets:
    """The targets of every phrase, from the frozen text alone (model specification, section 10).

    Of a phrase's words, whitened over all phrases, those of the verb and the object are averaged; with `residual`,
    less the mean over the phrases of that object, so that only the verb is left to learn. `whiten` whitens sentences,
    too. `phrase_counts` says how often each phrase is annotated in training: the floors' constants are medians so
    weighted.

    Differs: the paper attends to the image's words instead, see `LiteralWords`.
    """
    phrases = len(text.sentences)
    vocabulary = _whitened(text.phrase_words.float())
    phrase = torch.arange(phrases).repeat_interleave(text.phrase_offsets.diff())
    is_said = text.phrase_parts != SUBJECT
    words = _group_means(vocabulary[is_said], phrase[is_said], phrases)
    sentences = _whitened(text.sentences.float()) if whiten else text.sentences.float()

    num_objects = text.phrase_of.shape[1]
    object_of = torch.full((phrases,), num_objects)  # phrases without an object are a group of their own
    has_phrase = text.phrase_of >= 0
    object_of[text.phrase_of[has_phrase]] = has_phrase.nonzero()[:, 1]
    if residual:
        words = words - _group_means(words, object_of, num_objects + 1)[object_of]
    everything = torch.zeros_like(object_of)
    return PhraseTargets(
        phrase_of=text.phrase_of,
        words=words,
        sentences=sentences,
        vocabulary=vocabulary,
        word_floor=_floor(words, everything, phrase_counts),
        word_object_floor=_floor(words, object_of, phrase_counts),
        sentence_floor=_floor(sentences, everything, phrase_counts),
        sentence_object_floor=_floor(sentences, object_of, phrase_counts),
    )


def _whitened(states: Tensor) -> Tensor:
    deviation = states.std(0, correction=0).clamp(min=SMALLEST_DEVIATION)
    return (states - states.mean(0)) / deviation


def _group_means(rows: Tensor, group: Tensor, groups: int) -> Tensor:
    """Mean row of each group; 0 for an empty one."""
    totals = rows.new_zeros(groups, rows.shape[1]).index_add_(0, group, rows)
    return totals / torch.bincount(group, minlength=groups).clamp(min=1)[:, None]


def _floor(targets: Tensor, group: Tensor, counts: Tensor) -> Tensor:
    """Mean absolute difference of each target from the median of its group; a group that never occurs weighs evenly."""
    floor = targets.new_zeros(len(targets))
    for index in group.unique():
        members = (group == index).nonzero()[:, 0]
        weights = counts[members] if counts[members].any() else torch.ones_like(members)
        values, order = targets[members].sort(dim=0)
        reached = weights[order].cumsum(0) * 2 >= weights.sum()
        median = values.gather(0, reached.int().argmax(0, keepdim=True))
        floor[members] = (targets[members] - median).abs().mean(1)
    return floor


@dataclass(frozen=True, slots=True)
class Matched:
    """The rows of a batch: a pair with one of its true interactions each, sorted by pair."""

    pair: Int[Tensor, " r"]
    image: Int[Tensor, " r"]  # position in the batch, ascending
    phrase: Int[Tensor, " r"]


@dataclass(frozen=True, slots=True)
class AlignmentTerm:
    """One term, summed over rows. Divided by their number, `loss` is the paper's; the rest is for the log.

    `floor` and `object_floor`: what the best constant and the best constant for each object pay (None: not defined).
    `spread`: root mean square deviation of what is compared with text, over all rows and over those of one image.
    Both come near 0 when the term has found a constant answer.
    """

    loss: Float[Tensor, ""]
    floor: Float[Tensor, ""] | None
    object_floor: Float[Tensor, ""] | None
    spread: Float[Tensor, ""]
    spread_within: Float[Tensor, ""]


class SentenceAlignment(nn.Module):
    """FFN_T: each row in the space of its phrase's sentence (paper, equations 18 and 19): | e_cls - FFN_T(row) |.

    Differs: e_cls is the phrase encoded alone; the paper counts one [CLS] per interaction and leaves open how.
    """

    def __init__(self, dim: int, hidden_dim: int, text_dim: int):
        super().__init__()
        self.to_text = nn.Sequential(nn.Linear(dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, text_dim))

    def forward(self, rows: Float[Tensor, "r d"]) -> Float[Tensor, "r t"]:
        return self.to_text(rows)


class AnchoredWords(nn.Module):
    """Each row in the space of words, to be compared with those of its own phrase: | P row - t |.

    Differs: stands for equations 13 to 17, which have a constant solution (model specification, section 10). Nothing
    trainable lies between frozen words and target. With `attends`, the row looks its words up in the whole vocabulary:
    | softmax(P row W^T / sqrt(d)) W - t |, which keeps the paper's cross-attention.
    """

    def __init__(self, dim: int, text_dim: int, attends: bool):
        super().__init__()
        self.attends = attends
        self.to_text = nn.Linear(dim, text_dim)

    def forward(self, rows: Float[Tensor, "r d"], vocabulary: Float[Tensor, "w t"]) -> Float[Tensor, "r t"]:
        projected = self.to_text(rows)
        if not self.attends:
            return projected
        return (projected @ vocabulary.T / vocabulary.shape[1] ** 0.5).softmax(-1) @ vocabulary


class LiteralWords(nn.Module):
    """One cross-attention without residual, rows to the words of their image (paper, equations 13 and 14).

    Differs: words are first projected to the rows' width, and several heads attend. An image without words is given
    one of zeros.
    """

    def __init__(self, dim: int, heads: int, text_dim: int):
        super().__init__()
        self.heads = heads
        self.reduce = nn.Linear(text_dim, dim)
        self.to_query = nn.Linear(dim, dim)
        self.to_key_value = nn.Linear(dim, 2 * dim)
        self.mix = nn.Linear(dim, dim)

    def forward(
        self,
        rows: Float[Tensor, "r d"],
        image: Int[Tensor, " r"],
        words: Float[Tensor, "b t e"],
        is_padding: Bool[Tensor, "b t"],
    ) -> Float[Tensor, "r d"]:
        words, is_padding = F.pad(words, (0, 0, 1, 0)), F.pad(is_padding, (1, 0), value=True)
        is_padding[:, 0] = is_padding.all(1).logical_not()  # the one that an image without words has
        layout = Layout.of_rows(image, len(words))
        query = layout.pad(self.to_query(rows)).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # b heads r d/heads
        key, value = (
            self.to_key_value(self.reduce(words)).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # b heads t d/heads
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=~is_padding[:, None, None, :])
        return self.mix(layout.flatten(found.transpose(1, 2).flatten(2)))


class Alignment(nn.Module):
    """The alignment of one level, IRE's cues m or IRM's output O, with the text of their rows.

    `literal`: rows come out of self-attention over all the pairs of an image (equations 11 and 12). Otherwise a row is
    its pair's vector itself, and what the heads learn reaches m and O directly. A head that is off is None.
    """

    def __init__(
        self,
        project: nn.Module | None,
        stack: Encoder | None,
        word: AnchoredWords | LiteralWords | None,
        sentence: SentenceAlignment | None,
    ):
        super().__init__()
        self.project = project
        self.stack = stack
        self.word = word
        self.sentence = sentence

    @property
    def needs_image_words(self) -> bool:
        """Whether `forward` reads the words of the images."""
        return isinstance(self.word, LiteralWords)

    def forward(
        self,
        features: Float[Tensor, "p d"],
        layout: Layout,
        matched: Matched,
        targets: PhraseTargets,
        image_words: tuple[Float[Tensor, "b t e"], Bool[Tensor, "b t"]] | None,
    ) -> tuple[AlignmentTerm | None, AlignmentTerm | None]:
        """The sentence term and the word term, None for one that is off. Without rows both are 0, graph kept."""
        features = features.float()  # the network's precision may be lower
        if self.project is not None:
            features = self.project(features)
        if self.stack is not None:
            features = self.stack(features, layout)
        rows, phrase = features.index_select(0, matched.pair), matched.phrase
        sentence = word = None
        if self.sentence is not None:
            floors = targets.sentence_floor[phrase], targets.sentence_object_floor[phrase]
            sentence = _term(self.sentence(rows), targets.sentences[phrase], matched.image, floors)
        if isinstance(self.word, LiteralWords):
            assert image_words is not None
            word = _term(rows, self.word(rows, matched.image, *image_words), matched.image, None)
        elif self.word is not None:
            floors = targets.word_floor[phrase], targets.word_object_floor[phrase]
            word = _term(self.word(rows, targets.vocabulary), targets.words[phrase], matched.image, floors)
        return sentence, word


def _term(rows: Tensor, targets: Tensor, image: Tensor, floors: tuple[Tensor, Tensor] | None) -> AlignmentTerm:
    """L1 distance (paper, equation 15), and what the log wants to know."""
    rows = rows.float()
    with torch.no_grad():
        number = len(rows)
        deviation = rows - rows.sum(0) / max(number, 1)
        images = int(image[-1]) + 1 if number else 0
        within = rows - _group_means(rows, image, images)[image]
        spread, spread_within = (x.square().sum().mul(number / rows.shape[1]).sqrt() for x in (deviation, within))
    return AlignmentTerm(
        loss=(rows - targets).abs().mean(1).sum(),
        floor=None if floors is None else floors[0].sum(),
        object_floor=None if floors is None else floors[1].sum(),
        spread=spread,
        spread_within=spread_within,
    )
