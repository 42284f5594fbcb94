"""How similar the texts of two verbs are, by the frozen text encoder."""

import numpy as np
import torch
from jaxtyping import Float

from rmlr.model.text import TextEmbeddings


def verb_cosines(text: TextEmbeddings) -> Float[np.ndarray, "v v"]:
    """Cosines of the verbs' texts. A verb's text is the mean over its phrases' sentences, less the mean over all verbs.

    A verb without a phrase has the cosine 0 with every other one.
    """
    counts = text.sentence_counts or [1] * len(text.phrases)
    owner = torch.arange(len(text.phrases)).repeat_interleave(torch.tensor(counts, dtype=torch.long))
    sums = torch.zeros(len(text.phrases), text.sentence_dim).index_add_(0, owner, text.sentences)
    phrases = (sums / torch.tensor(counts)[:, None]).double().numpy()
    has_phrase = (text.phrase_of >= 0).numpy()
    rows = zip(text.phrase_of.numpy(), has_phrase, strict=True)
    of_verb = [phrases[row[has]].mean(0) for row, has in rows if has.any()]
    vectors = np.zeros((len(has_phrase), text.sentence_dim))
    is_said = has_phrase.any(1)
    if of_verb:
        vectors[is_said] = np.stack(of_verb) - np.mean(of_verb, axis=0)
    lengths = np.linalg.norm(vectors, axis=1)
    vectors /= np.where(lengths > 0, lengths, 1.0)[:, None]
    return vectors @ vectors.T
