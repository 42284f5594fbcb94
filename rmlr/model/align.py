"""Alignment of pairs with text, by words and by sentences (paper, section 3.4). Training only.

Text is frozen: its states are computed once, and nothing here is needed for prediction.
"""

import logging
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rmlr.model.text import SUBJECT, TextEmbeddings
from rmlr.model.transformer import Encoder, Layout

log = logging.getLogger(__name__)

Form = Literal["anchored", "anchored_attention", "literal"]
SMALLEST_DEVIATION = 1e-3  # lower bound of the divisor in whitening
LARGE_DEVIATION = (
    10.0  # of sentences that are not whitened: most encoders have less than 1, MobileBERT's [CLS] far more
)


class PhraseTargets(nn.Module):
    """The targets of every phrase's rows: constants that move with the module and are not saved.

    A floor is the loss of a prediction that ignores the row: that of the best constant over the training rows, or of
    the best constant for each object class, which knows the object but not the verb.
    """

    phrase_of: Int[Tensor, "v o"]
    words: Float[Tensor, "s d"]
    sentences: Float[Tensor, "s k e"]  # as many targets of each phrase as the one with most sentences has
    sentence_weights: Float[Tensor, "s k"]  # 1 / a phrase's sentences; 0 where it has no more
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

    The words of a phrase are whitened over all phrases, and those of the verb and the object are averaged. With
    `residual`, the mean over the phrases of that object is subtracted, so that only the verb remains. `whiten` whitens
    sentences, too. If each of several sentences of a phrase is a target, the distance to the phrase is their mean.
    `phrase_counts` is how often each phrase is annotated in training: the floors' constants are medians with these
    weights.

    Differs: the paper attends to the image's words instead, see `LiteralWords`. It does not whiten. Whitened sentences
    have another scale than the encoder's own, and with it the sentence terms: the weights of equation 22 are not on the
    paper's scale.
    """
    phrases = len(text.phrases)
    vocabulary = _whitened(text.phrase_words.float())
    phrase = torch.arange(phrases).repeat_interleave(text.phrase_offsets.diff())
    is_said = text.phrase_parts != SUBJECT
    words = _group_means(vocabulary[is_said], phrase[is_said], phrases)
    num_objects = text.phrase_of.shape[1]
    object_of = torch.full((phrases,), num_objects)  # phrases without an object form one group
    has_phrase = text.phrase_of >= 0
    object_of[text.phrase_of[has_phrase]] = has_phrase.nonzero()[:, 1]
    if residual:
        words = words - _group_means(words, object_of, num_objects + 1)[object_of]
    everything = torch.zeros_like(object_of)
    return PhraseTargets(
        phrase_of=text.phrase_of,
        words=words,
        vocabulary=vocabulary,
        word_floor=_floor(words, everything, phrase_counts),
        word_object_floor=_floor(words, object_of, phrase_counts),
        **_sentence_targets(text, phrase_counts, object_of, whiten=whiten),
    )


def _sentence_targets(
    text: TextEmbeddings, phrase_counts: Int[Tensor, " s"], object_of: Int[Tensor, " s"], *, whiten: bool
) -> dict[str, Tensor]:
    """The sentences of every phrase, padded to as many as one of them has, their weights and their floors."""
    sentences = _whitened(text.sentences.float()) if whiten else text.sentences.float()
    if not whiten and (deviation := float(sentences.std())) > LARGE_DEVIATION:
        log.warning(
            "%s: the numbers of its sentences have a standard deviation of %.0f. The sentence terms have that scale "
            "and may outweigh all others. Set alignment.whiten to true, or lower losses.irm_sentence and ire_sentence",
            text.encoder,
            deviation,
        )
    phrases, several = len(text.phrases), text.sentence_counts
    counts = torch.ones(phrases, dtype=torch.long) if several is None else torch.tensor(several)
    owner = torch.arange(phrases).repeat_interleave(counts)  # the phrase of each sentence
    place = torch.arange(len(owner)) - (counts.cumsum(0) - counts)[owner]
    padded = sentences.new_zeros(phrases, int(place.max()) + 1 if phrases else 1, sentences.shape[1])
    weights = padded.new_zeros(padded.shape[:2])
    padded[owner, place], weights[owner, place] = sentences, 1 / counts[owner]
    occurs = phrase_counts if several is None else phrase_counts[owner] / counts[owner]
    floors = (_floor(sentences, group[owner], occurs) for group in (torch.zeros_like(object_of), object_of))
    floor, object_floor = (_group_means(each[:, None], owner, phrases)[:, 0] for each in floors)
    return {
        "sentences": padded,
        "sentence_weights": weights,
        "sentence_floor": floor,
        "sentence_object_floor": object_floor,
    }


def _whitened(states: Tensor) -> Tensor:
    deviation = states.std(0, correction=0).clamp(min=SMALLEST_DEVIATION)
    return (states - states.mean(0)) / deviation


def _group_means(rows: Tensor, group: Tensor, groups: int) -> Tensor:
    """Mean row of each group; 0 for an empty one."""
    totals = rows.new_zeros(groups, rows.shape[1]).index_add_(0, group, rows)
    return totals / torch.bincount(group, minlength=groups).clamp(min=1)[:, None]


def _floor(targets: Tensor, group: Tensor, counts: Tensor) -> Tensor:
    """Mean absolute difference of each target from its group's median; in a group without counts, weights are equal."""
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
    """The rows of a batch: each is a pair with one of its true interactions, sorted by pair."""

    pair: Int[Tensor, " r"]
    image: Int[Tensor, " r"]  # position in the batch, ascending
    phrase: Int[Tensor, " r"]


@dataclass(frozen=True, slots=True)
class AlignmentTerm:
    """One term, summed over rows. Divided by their number, `loss` is the paper's; the rest is for the log.

    `floor` and `object_floor`: the loss of the best constant and of the best constant for each object (None: not
    defined). `spread`: root mean square deviation of the vectors that are compared with text, over all rows and over
    those of one image. Both approach 0 when the term has collapsed to a constant.
    """

    loss: Float[Tensor, ""]
    floor: Float[Tensor, ""] | None
    object_floor: Float[Tensor, ""] | None
    spread: Float[Tensor, ""]
    spread_within: Float[Tensor, ""]


class SentenceAlignment(nn.Module):
    """FFN_T: each row in the space of its phrase's sentence (paper, equations 18 and 19): | e_cls - FFN_T(row) |.

    Differs: e_cls is the [CLS] of the phrase encoded alone; the paper has one [CLS] per interaction and does not say
    how.
    """

    def __init__(self, dim: int, hidden_dim: int, text_dim: int):
        super().__init__()
        self.to_text = nn.Sequential(nn.Linear(dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, text_dim))

    def forward(self, rows: Float[Tensor, "r d"]) -> Float[Tensor, "r t"]:
        return self.to_text(rows)


class AnchoredWords(nn.Module):
    """Each row in the space of words, to be compared with those of its own phrase: | P row - t |.

    Differs: replaces equations 13 to 17, which have a constant solution (model specification, section 10). Nothing
    between frozen words and target is trainable. With `attends`, the row attends to the words of the whole vocabulary:
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
    """One cross-attention without residual, from rows to the words of their image (paper, equations 13 and 14).

    Differs: words are first projected to the rows' width, and there are several heads. An image without words gets one
    word of zeros.
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
        is_padding[:, 0] = is_padding.all(1).logical_not()  # the word of zeros of an image without words
        layout = Layout.of_rows(image, len(words))
        query = layout.pad(self.to_query(rows)).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # b heads r d/heads
        key, value = (
            self.to_key_value(self.reduce(words)).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # b heads t d/heads
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=~is_padding[:, None, None, :])
        return self.mix(layout.flatten(found.transpose(1, 2).flatten(2)))


class Alignment(nn.Module):
    """The alignment of one level, IRE's cues m or IRM's output O, with the text of their rows.

    `literal`: rows come out of self-attention over all the pairs of an image (equations 11 and 12). The paper leaves
    open what reads its output: here only the comparison with text, or, with `on_path`, the classifier as well (the
    network then holds that attention). Otherwise a row is its pair's vector itself, and the gradient of the heads
    reaches m and O directly. A head that is off is None.

    With `of_pair`, all the rows of a pair have one target, the mean of theirs: one vector cannot be equal to several.
    Floors are not defined then.
    """

    def __init__(
        self,
        project: nn.Module | None,
        stack: Encoder | None,
        word: AnchoredWords | LiteralWords | None,
        sentence: SentenceAlignment | None,
        of_pair: bool = False,
    ):
        super().__init__()
        self.of_pair = of_pair
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
        """The sentence term and the word term, None for one that is off. Without rows both are 0, with a graph."""
        features = features.float()  # the network's precision may be lower
        if self.project is not None:
            features = self.project(features)
        if self.stack is not None:
            features = self.stack(features, layout)
        rows, phrase = features.index_select(0, matched.pair), matched.phrase
        sentence = word = None
        if self.sentence is not None:
            predicted, several, weights = self.sentence(rows), targets.sentences, targets.sentence_weights
            if self.of_pair:
                target = _means_of_pairs((several * weights[..., None]).sum(1)[phrase], matched.pair)
                sentence = _term(predicted, (predicted.float() - target).abs().mean(1), matched.image, None)
            else:
                distance = (predicted.float()[:, None] - several[phrase]).abs().mean(2)  # r k
                floors = targets.sentence_floor[phrase], targets.sentence_object_floor[phrase]
                sentence = _term(predicted, (distance * weights[phrase]).sum(1), matched.image, floors)
        if isinstance(self.word, LiteralWords):
            assert image_words is not None
            attended = self.word(rows, matched.image, *image_words)
            word = _term(rows, (rows.float() - attended).abs().mean(1), matched.image, None)
        elif self.word is not None:
            predicted, target = self.word(rows, targets.vocabulary), targets.words[phrase]
            floors = targets.word_floor[phrase], targets.word_object_floor[phrase]
            if self.of_pair:
                target, floors = _means_of_pairs(target, matched.pair), None
            word = _term(predicted, (predicted.float() - target).abs().mean(1), matched.image, floors)
        return sentence, word


def _means_of_pairs(targets: Tensor, pair: Tensor) -> Tensor:
    """For each row, the mean over the rows of its pair; pairs are sorted."""
    _, group = pair.unique_consecutive(return_inverse=True)
    return _group_means(targets, group, int(group[-1]) + 1 if len(group) else 0)[group]


def _term(rows: Tensor, distances: Tensor, image: Tensor, floors: tuple[Tensor, Tensor] | None) -> AlignmentTerm:
    """The L1 distances of the rows (paper, equation 15), summed, and the diagnostics that are logged."""
    rows = rows.float()
    with torch.no_grad():
        number = len(rows)
        deviation = rows - rows.sum(0) / max(number, 1)
        images = int(image[-1]) + 1 if number else 0
        within = rows - _group_means(rows, image, images)[image]
        spread, spread_within = (x.square().sum().mul(number / rows.shape[1]).sqrt() for x in (deviation, within))
    return AlignmentTerm(
        loss=distances.sum(),
        floor=None if floors is None else floors[0].sum(),
        object_floor=None if floors is None else floors[1].sum(),
        spread=spread,
        spread_within=spread_within,
    )
