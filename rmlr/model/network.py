"""The network as a sequence of its parts; only `build` and `build_objective` construct modules from numbers."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rmlr.hoi import Vocabulary
from rmlr.hoi.batch import Batch
from rmlr.model.align import Alignment, AnchoredWords, LiteralWords, SentenceAlignment, phrase_targets
from rmlr.model.losses import Objective
from rmlr.model.pairs import GEOMETRY_DIM, Pairs, enumerate_pairs, pair_geometry
from rmlr.model.reason import InteractionReasoning, Output
from rmlr.model.remine import GlobalContext, InteractiveRelationEncoder, PoseCue, fully_connected
from rmlr.model.text import TextEmbeddings
from rmlr.model.transformer import Encoder, Layout
from rmlr.model.upt import CompetitiveReasoning, CooperativeDescription
from rmlr.study.settings import Alignment as AlignmentSettings
from rmlr.study.settings import Losses, Network, TransformerSizes, Upt, Variant


class PairDescription(nn.Module):
    """H: the visual description of each pair (paper, equation 9): H = FC(cat(g, s_h, s_o, m)), without parts that are
    None.

    Differs: one FC for all instance tokens, so that a pair's two tokens have the width of the paper. The paper does not
    give the width of H; ours is UPT's width of a pair, 1,024.

    With `attention`, m is its output (equation 11, on the path).
    """

    def __init__(
        self,
        token_dim: int,
        feature_dim: int,
        pair_dim: int,
        context: GlobalContext | None,
        ire: InteractiveRelationEncoder | None,
        pose: PoseCue | None,
        attention: Encoder | None = None,
    ):
        super().__init__()
        self.context = context
        self.project_tokens = fully_connected(token_dim, feature_dim)
        self.ire = ire
        self.pose = pose
        parts = 2 + sum(part is not None for part in (context, ire, pose))
        self.fuse = fully_connected(parts * feature_dim, pair_dim)
        self.attention = attention

    def forward(
        self, batch: Batch, pairs: Pairs, layout: Layout
    ) -> tuple[Float[Tensor, "p d"], Float[Tensor, "p m"] | None]:
        """H and, with IRE or its replacement, m."""
        parts, cues = [], None
        if self.context is not None:
            parts.append(self.context(batch.maps.float(), batch.is_padding)[pairs.image])
        tokens = self.project_tokens(batch.instances.tokens.float())
        parts += [tokens[pairs.human], tokens[pairs.object]]
        cue = self.ire if self.ire is not None else self.pose
        if cue is not None:
            cues = cue(batch, pairs, layout)
            if self.attention is not None:
                cues = self.attention(cues, layout)
            parts.append(cues)
        return self.fuse(torch.cat(parts, dim=1)), cues


class BoxesDescription(nn.Module):
    """A control, not in the paper: H from the layout of the boxes and the object's class, without pixels or tokens."""

    def __init__(self, num_objects: int, feature_dim: int, pair_dim: int):
        super().__init__()
        self.embed_object = nn.Embedding(num_objects, feature_dim)
        self.project_geometry = fully_connected(GEOMETRY_DIM, feature_dim)
        self.fuse = nn.Sequential(fully_connected(2 * feature_dim, pair_dim), fully_connected(pair_dim, pair_dim))

    def forward(self, batch: Batch, pairs: Pairs, layout: Layout) -> tuple[Float[Tensor, "p d"], None]:
        """H; there are no cues."""
        objects = self.embed_object(batch.instances.labels[pairs.object])
        geometry = self.project_geometry(pair_geometry(batch, pairs))
        return self.fuse(torch.cat([geometry, objects], dim=1)), None


class InteractionNetwork(nn.Module):
    """Verb logits of every pair from the frozen detector's output: describe, then reason."""

    def __init__(
        self,
        person: int,
        describe: PairDescription | BoxesDescription | CooperativeDescription,
        reason: InteractionReasoning | CompetitiveReasoning,
    ):
        super().__init__()
        self.person = person
        self.describe = describe
        self.reason = reason

    def forward(self, batch: Batch) -> Output:
        pairs = enumerate_pairs(batch, self.person)
        layout = Layout.of_rows(pairs.image, len(batch.image_ids))
        descriptions, cues = self.describe(batch, pairs, layout)
        reasoned, logits = self.reason(descriptions, layout)
        return Output(pairs, logits, cues, reasoned)


def build(
    variant: Variant,
    network: Network,
    *,
    channels: int,
    token_dim: int,
    vocabulary: Vocabulary,
    pose_channels: int | None = None,
    finer_channels: Sequence[int] = (),
) -> InteractionNetwork:
    """The network of a variant, as needed for prediction.

    `channels` are those of the map, `token_dim` that of instance tokens, `pose_channels` those of a pose network's map,
    if used, `finer_channels` those of the other maps, if IRE reads several.
    """
    if variant.pose and pose_channels is None:
        raise ValueError("this variant reads a pose network's map: give the number of its channels")
    if variant.network == "upt":
        return _build_upt(network.upt, channels, token_dim, vocabulary)
    feature_dim, pair_dim = network.feature_dim, network.pair_dim
    has_cue = variant.ire or variant.pose
    if variant.network == "boxes":
        describe = BoxesDescription(len(vocabulary.objects), feature_dim, pair_dim)
    else:
        describe = PairDescription(
            token_dim,
            feature_dim,
            pair_dim,
            GlobalContext(channels, feature_dim) if variant.global_context else None,
            InteractiveRelationEncoder(
                channels, feature_dim, pool=network.pool, finer_channels=finer_channels, **_numbers(network.ire)
            )
            if variant.ire
            else None,
            PoseCue(pose_channels, feature_dim, pool=network.pool) if variant.pose and pose_channels else None,
            _pair_attention(network, feature_dim) if has_cue else None,
        )
    attention = _pair_attention(network, pair_dim)
    reason = InteractionReasoning(len(vocabulary.verbs), **_numbers(network.irm), attention=attention)
    return InteractionNetwork(vocabulary.person, describe, reason)


def _pair_attention(network: Network, dim: int) -> Encoder | None:
    """The self-attention over pairs that is on the path, for vectors of this width."""
    sizes = network.pair_attention
    return None if sizes is None else Encoder(dim=dim, activation="relu", **sizes.model_dump())


def needed_pose(variant: Variant, pose: Path | None) -> Path | None:
    """The folder of a pose network's maps, for a variant that uses them; ValueError if it is missing."""
    if variant.pose and pose is None:
        raise ValueError("this variant reads a pose network's map: give what `rmlr pose` made, --pose FOLDER")
    return pose if variant.pose else None


def _build_upt(upt: Upt | None, channels: int, token_dim: int, vocabulary: Vocabulary) -> InteractionNetwork:
    if upt is None:
        raise ValueError("variant upt needs its sizes: give network.upt")
    shared = {"heads": upt.heads, "dropout": upt.dropout}
    describe = CooperativeDescription(
        channels, token_dim, code_dims=upt.code_dims, dim=upt.dim, layers=upt.layers, **shared
    )
    reason = CompetitiveReasoning(len(vocabulary.verbs), dim=2 * upt.dim, ffn_dim=upt.ffn_dim, **shared)
    return InteractionNetwork(vocabulary.person, describe, reason)


def build_objective(
    variant: Variant,
    network: Network,
    alignment: AlignmentSettings,
    losses: Losses,
    *,
    vocabulary: Vocabulary,
    text: TextEmbeddings | None,
    phrase_counts: Int[Tensor, " s"] | None,
) -> Objective:
    """The training objective of a variant, with the alignment heads of its switches.

    A variant without alignment needs neither text nor `phrase_counts` (how often training annotates each phrase).
    """
    levels: dict[str, Alignment | None] = {"irm": None, "ire": None}
    targets = None
    if variant.aligns:
        if text is None or phrase_counts is None:
            raise ValueError("this variant learns from text: give the text embeddings and the counts of their phrases")
        targets = phrase_targets(text, phrase_counts, whiten=alignment.whiten, residual=alignment.residual)
        switches = {
            "irm": (network.pair_dim, variant.irm_sentence, variant.irm_word),
            "ire": (network.feature_dim, variant.ire_sentence, variant.ire_word),
        }
        for level, (dim, sentence, word) in switches.items():
            if sentence or word:
                levels[level] = _build_alignment(alignment, dim, text, sentence=sentence, word=word)
    return Objective(
        person=vocabulary.person,
        is_valid_verb=torch.from_numpy(vocabulary.is_valid_verb),
        focal_balance=losses.focal_balance,
        focal_gamma=losses.focal_gamma,
        irm=levels["irm"],
        ire=levels["ire"],
        targets=targets,
    )


def _build_alignment(
    alignment: AlignmentSettings, dim: int, text: TextEmbeddings, *, sentence: bool, word: bool
) -> Alignment:
    """The heads of one level, whose vectors have width `dim`."""
    hidden_dim, project, stack, words = alignment.stack.dim, None, None, None
    if alignment.form == "literal" and alignment.on_path:  # the rows that come here are attended
        words = LiteralWords(dim, alignment.stack.heads, text.word_dim)
    elif alignment.form == "literal":
        project = nn.Linear(dim, hidden_dim) if dim != hidden_dim else None
        stack = Encoder(activation="relu", **_numbers(alignment.stack))
        words = LiteralWords(hidden_dim, alignment.stack.heads, text.word_dim)
        dim = hidden_dim
    else:
        words = AnchoredWords(dim, text.word_dim, attends=alignment.form == "anchored_attention")
    sentences = SentenceAlignment(dim, hidden_dim, text.sentence_dim)
    of_pair = alignment.targets == "mean"
    return Alignment(project, stack, words if word else None, sentences if sentence else None, of_pair)


def _numbers(sizes: TransformerSizes) -> dict:
    return sizes.model_dump()
