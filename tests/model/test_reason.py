import torch

from rmlr.model.reason import InteractionReasoning
from rmlr.model.transformer import Layout


def module() -> InteractionReasoning:
    torch.manual_seed(0)
    return InteractionReasoning(3, layers=1, dim=8, heads=2, ffn_dim=16, dropout=0.0)


def test_pairs_of_another_image_never_matter():
    reason, rows = module(), torch.randn(5, 8)
    layout = Layout.of_rows(torch.tensor([0, 0, 2, 2, 2]), 3)
    changed = rows.clone()
    changed[3] += 1
    (before, logits_before), (after, logits_after) = reason(rows, layout), reason(changed, layout)
    assert torch.equal(before[:2], after[:2])
    assert torch.equal(logits_before[:2], logits_after[:2])
    assert (before[2] != after[2]).any()  # but one of the same image does


def test_an_image_is_reasoned_about_as_if_it_were_alone():
    reason, rows = module(), torch.randn(5, 8)
    together, _ = reason(rows, Layout.of_rows(torch.tensor([0, 0, 1, 1, 1]), 2))
    alone, _ = reason(rows[2:], Layout.of_rows(torch.zeros(3, dtype=torch.long), 1))
    torch.testing.assert_close(together[2:], alone, atol=1e-5, rtol=1e-5)


def test_no_pairs_give_no_logits():
    reasoned, logits = module()(torch.zeros(0, 8), Layout.of_rows(torch.zeros(0, dtype=torch.long), 2))
    assert reasoned.shape == (0, 8)
    assert logits.shape == (0, 3)
