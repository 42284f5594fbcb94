"""What a model says of a picture, as lists that can be drawn, printed and made tables; and what it may be asked."""

import copy
import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rmlr.learning.answers import COLUMNS, Answer, Trace, Traces, Triplet, check_limits, upright

PICTURE = np.full((240, 360, 3), 9, dtype=np.uint8)


def triplet(score: float = 0.5, right: float = 200.0) -> Triplet:
    return Triplet(
        human_box=(20.0, 30.0, 90.0, 200.0),
        object_box=(100.0, 40.0, right, 90.0),
        object="ball",
        verb="throw obj",
        phrase="person throw ball",
        score=score,
        human_score=0.9,
        object_score=0.8,
    )


def shown(page: Image.Image) -> set[tuple[int, ...]]:
    return {colour for _, colour in page.getcolors(maxcolors=1_000_000)}


# ---- answers


def test_an_answer_is_a_list_and_reads_as_a_line_for_each_triplet():
    answer = Answer([triplet(0.5), triplet(0.25)], PICTURE, 0.1)
    assert answer == [triplet(0.5), triplet(0.25)]
    assert str(answer).splitlines() == [str(triplet(0.5)), str(triplet(0.25))]
    assert copy.copy(answer).picture is PICTURE
    assert str(Answer([], PICTURE, 0.1)) == "nothing of score 0.1 or more"


@pytest.mark.parametrize("as_given", [Path, str, np.asarray, Image.fromarray])
def test_an_answer_draws_its_strongest_triplets_on_the_picture(tmp_path, as_given):
    path = tmp_path / "photo.png"
    Image.fromarray(PICTURE).save(path)
    given = as_given(path) if as_given in (Path, str) else as_given(PICTURE)
    answer = Answer([triplet(), triplet(0.25, right=300.0)], given, 0.1)
    one, both = shown(answer.draw(top=1)), shown(answer.draw())
    assert {(0, 114, 178), (230, 159, 0)} <= one  # the person, the first pair
    assert (0, 158, 115) in both - one  # the second pair
    assert (9, 9, 9) in one
    np.testing.assert_array_equal(np.asarray(answer.draw()), Image.open(io.BytesIO(answer._repr_png_())))


def test_an_answer_without_triplets_is_drawn_and_says_so():
    nothing, titled = Answer([], PICTURE, 0.1).draw(), Answer([], PICTURE, 0.1).draw(title="x.jpg")
    assert (9, 9, 9) in shown(nothing)
    assert np.asarray(nothing).tolist() != np.asarray(titled).tolist()


def test_an_answer_becomes_a_table():
    frame = Answer([triplet(0.5), triplet(0.25)], PICTURE, 0.1).frame()
    assert list(frame.columns) == list(COLUMNS)
    assert frame["score"].tolist() == [0.5, 0.25]
    assert frame["object_x2"].tolist() == [200.0, 200.0]
    empty = Answer([], PICTURE, 0.1).frame()
    assert (len(empty), empty.dtypes.tolist()) == (0, frame.dtypes.tolist())


def test_traces_are_drawn_with_one_row_for_each_pair():
    def trace(right: float) -> Trace:
        weights = np.full((6, 9), 1 / 54, dtype=np.float32)
        return Trace(triplet(right=right), weights, weights, (40.0, 40.0))

    rows = ([150.0], [150.0, 200.0], [150.0, 150.0])
    one, two, shared = (Traces(list(map(trace, rights)), PICTURE, 0.1) for rights in rows)
    assert one.draw().height == shared.draw().height == two.draw().height / 2
    assert str(two).splitlines() == [str(triplet(right=150.0)), str(triplet(right=200.0))]
    with pytest.raises(ValueError, match=r"nothing of score 0\.3 or more, so there is no map to draw"):
        Traces([], PICTURE, 0.3).draw()


# ---- what is asked


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            PICTURE.astype(np.float32) / 255,
            r"picture 3 is an array of float32 of shape \(240, 360, 3\)\. Expected uint8",
        ),
        (PICTURE[..., 0], r"of uint8 of shape \(240, 360\)"),
        (PICTURE.transpose(2, 0, 1), r"of shape \(3, 240, 360\)"),
        (np.stack([PICTURE, PICTURE]), r"of shape \(2, 240, 360, 3\)"),
        (PICTURE[:0], r"of shape \(0, 360, 3\)"),
        (torch.from_numpy(PICTURE), r"picture 3 is of type torch\.Tensor\. Expected a path"),
        (b"photo.jpg", r"is of type builtins\.bytes"),
        (None, r"is of type builtins\.NoneType"),
        (Image.new("RGB", (0, 5)), r"picture 3 is a Pillow image of 5 x 0 pixels"),
    ],
)
def test_an_input_that_is_not_a_picture_is_refused_and_described(wrong, message):
    with pytest.raises(ValueError, match=message):
        upright(wrong, "picture 3")


def test_an_array_is_the_picture_that_it_was_read_from():
    turned = PICTURE.copy()
    turned[0, 1] = (1, 2, 3)
    assert upright(turned).getpixel((1, 0)) == (1, 2, 3)
    assert upright(turned[..., ::-1]).getpixel((1, 0)) == (3, 2, 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"min_score": 1.5}, r"min_score \(--min-score\) is 1\.5: expected a number from 0 to 1"),
        ({"min_score": -0.1}, "min_score"),
        ({"min_score": math.nan}, "min_score"),
        ({"top": 0}, r"top \(--top\) is 0: expected a whole number of at least 1"),
        ({"top": -3}, "top"),
        ({"prior_power": -5.0}, r"prior_power \(--prior-power\) is -5\.0: expected a number above 0"),
        ({"prior_power": 0.0}, "prior_power"),
        ({"prior_power": math.nan}, "prior_power"),
        ({"prior_power": math.inf}, "prior_power"),
    ],
)
def test_numbers_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        check_limits(**wrong)


def test_numbers_at_the_ends_of_their_range_are_taken():
    for good in ({"min_score": 0.0}, {"min_score": 1.0}, {"top": 1}, {"top": None}, {"prior_power": 1e-3}):
        check_limits(**good)
