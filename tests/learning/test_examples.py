"""Which images are learnt from. What they give is tested by the stage (tests/stages/test_train.py, test_views.py)."""

from itertools import pairwise

from rmlr.learning.examples import choose_share


def test_a_share_is_of_that_many_images_and_part_of_every_larger_one():
    ids = list(range(1000, 1500))
    shares = {share: {ids[at] for at in choose_share(ids, share)} for share in (0.001, 0.1, 0.25, 0.5, 1.0)}
    assert [len(chosen) for chosen in shares.values()] == [1, 50, 125, 250, 500]
    chosen = list(shares.values())
    assert all(smaller <= larger for smaller, larger in pairwise(chosen))
    assert 10 < len(shares[0.1] & set(ids[:250])) < 40  # from everywhere


def test_a_share_depends_on_the_ids_alone_and_keeps_their_order():
    ids = list(range(100, 160))
    positions = choose_share(ids, 0.3)
    assert positions == sorted(positions)
    assert {ids[at] for at in positions} == {ids[::-1][at] for at in choose_share(ids[::-1], 0.3)}
    assert choose_share(ids, 1.0) == list(range(60))
    assert choose_share([], 0.5) == []
