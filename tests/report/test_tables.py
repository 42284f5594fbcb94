"""Tables as text."""

import pytest

from rmlr.report.tables import escaped


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a_b & 50% of #1 ~ {x} ^ $", r"a\_b \& 50\% of \#1 \textasciitilde{} \{x\} \textasciicircum{} \$"),
        ("-1.50", "$-$1.50"),
        ("+1.50", "$+$1.50"),
        ("w/o IRE-KT", "w/o IRE-KT"),
        ("23.81 † [a]", r"23.81\textsuperscript{\dag}\textsuperscript{a}"),
        ("of `demo`", r"of \texttt{demo}"),
        ("\\", r"\textbackslash{}"),
        ("", ""),
    ],
)
def test_whatever_text_can_be_set(text, said):
    assert escaped(text) == said
