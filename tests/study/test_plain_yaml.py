"""What is refused of YAML, each by one clear message."""

import pytest

from rmlr.study.plain_yaml import MOST, parse


def test_plain_yaml_is_read_as_ever():
    text = "a: &one {b: 1.0e-3, c: [x, null, true]}\nd: {<<: *one, c: 2}\n"
    assert parse(text, "here") == {"a": {"b": 0.001, "c": ["x", None, True]}, "d": {"b": 0.001, "c": 2}}
    assert parse("", "here") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "here, line 3: key 'a' is a duplicate of line 1"),
        ("a:\n  b: {c: 1, c: 1}\n", "here, line 2: key 'c' is a duplicate of line 2"),
        ("a: &x {p: 1}\nb: {<<: *x, <<: *x}\n", "here, line 2: merge '<<' is a duplicate"),
        ("[" * 1000 + "]" * 1000, "expected at most 50 levels of nesting, found"),
        ("[" * 60 + "]" * 60, "expected at most 50 levels of nesting, found more"),
        ("a: &a [*a]\n", "here, line 1: an alias refers to a value that contains it"),
        ("a: 2024-13-45\n", r"here: a value cannot be read \(month must be in 1..12.*quotes"),
        ("a: 2024-02-30 25:61:61\n", "here: a value cannot be read"),
        ("a: [1, 2\n", "here: not YAML"),
        ("a: !!python/object:os.system 1\n", "here: not YAML: could not determine a constructor"),
        ("a: \x07\n", "here: not YAML"),
        ("? [a]\n: 1\n", "here: not YAML"),
    ],
)
def test_what_a_reader_could_not_oversee_is_refused_by_line(text, said):
    with pytest.raises(ValueError, match=said):
        parse(text, "here")


def test_aliases_that_stand_for_billions_of_values_are_refused_at_once():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(ValueError, match=rf"here, line \d: expected at most {MOST} values"):
        parse("\n".join(lines), "here")
