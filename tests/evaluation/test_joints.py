"""The percentage of correct key points."""

import numpy as np
import pytest

from rmlr.evaluation.joints import pck


def test_a_joint_counts_up_to_its_share_of_the_box():
    true = np.zeros((2, 3, 2))
    found = true.copy()
    found[0, 0] = (3, 4)  # 5 pixels off
    found[1, 1] = (0, 5.1)
    found[1, 2] = 100
    is_known = np.array([[True, True, False], [True, True, False]])
    assert pck(found, true, is_known, np.array([50.0, 50.0]), 0.1) == 3 / 4
    assert pck(found, true, is_known, np.array([50.0, 51.0]), 0.1) == 1
    assert pck(found, true, is_known, np.array([49.0, 50.0]), 0.1) == 2 / 4


@pytest.mark.parametrize("people", [0, 2])
def test_without_a_known_joint_there_is_no_score(people):
    points, known = np.zeros((people, 3, 2)), np.zeros((people, 3), bool)
    assert pck(points, points, known, np.ones(people), 0.1) is None
