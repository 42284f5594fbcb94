"""Verdicts and orders."""

import pytest

from rmlr.report.verdicts import order_of


def test_the_order_of_rows_is_counted_pair_by_pair():
    same = order_of("table2", "vcoco_ap_role_1", [(1.0, 0.1), (2.0, 0.2), (3.0, 0.3)])
    assert (same.alike, same.pairs, same.tau) == (3, 3, pytest.approx(1))
    other = order_of("table2", "vcoco_ap_role_1", [(1.0, 0.3), (2.0, 0.2), (2.0, 0.1)])
    assert (other.alike, other.pairs) == (0, 2), "of two rows that the paper has equal nothing is said"
    assert other.tau < 0
