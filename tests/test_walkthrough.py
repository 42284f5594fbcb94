"""The page that walks from a photo to a triplet: its code runs, on a tiny study, and what it shows is of that code."""

import importlib
import re
from codeop import compile_command
from pathlib import Path

import pytest

from rmlr.__main__ import STAGES
from rmlr.stages import predict, text, train
from rmlr.study.plan import Study

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "walkthrough.md").read_text()
SMALL = 150_000  # bytes


@pytest.fixture
def walkthrough(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "workflow")
    return importlib.import_module("walkthrough")


@pytest.fixture
def study(photo_run, tmp_path, monkeypatch) -> Path:
    """A folder in which results/demo is a study of the tiny profile, trained with all that the page shows."""
    demo = tmp_path / "results" / "demo"
    nodes = Study.load(ROOT / "params.yaml").nodes("tiny", dict.fromkeys([*STAGES, "cost"], "digest"))

    def settings(name: str) -> Path:
        path = tmp_path / "settings.yaml"
        path.write_text(nodes[name].dump())
        return path

    made = photo_run.root / "results"
    places = {
        "world/draw": photo_run.root / "raw",
        "vcoco/prepare": made / "prepare",
        "detector/base": made / "detector",
    }
    for place, target in places.items():
        (demo / place).parent.mkdir(parents=True, exist_ok=True)
        (demo / place).symlink_to(target)
    annotations, words, run = demo / "vcoco/prepare", demo / "vcoco/text/main", demo / "runs/shared/rmlr/0"
    text.text(settings=settings("vcoco/text/main"), annotations=annotations, out=words)
    given = {"annotations": annotations, "features": made / "features"}
    train.train(settings=settings("runs/shared/rmlr/0/train"), **given, text=words, seed=0, out=run / "train")
    predict.predict(
        settings=settings("runs/shared/rmlr/0/predict"), **given, weights=run / "train", out=run / "predict"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_block_runs_and_prints_where_the_page_shows_output(walkthrough, study):
    printed = walkthrough.run(PAGE, "walkthrough.md")
    shown = [block[2] for block in walkthrough.BLOCK.finditer(PAGE)]
    assert len(printed) > 5
    assert [bool(said) for said in printed] == [bool(said) for said in shown]
    assert printed[0].splitlines()[1:3] == shown[0].splitlines()[1:3]  # the classes: both are the drawn world
    assert "as the network has it: True" in "".join(printed)
    assert "as the network has it: False" not in "".join(printed)
    for picture in walkthrough.PICTURE.findall(PAGE):
        assert (study / "results" / picture).is_file()


def test_what_the_page_shows_is_of_its_code(walkthrough):
    mark = walkthrough.MARK.search(PAGE)
    assert mark
    assert mark[1] == walkthrough.digest(PAGE), "the code has changed: `make walkthrough` runs it anew"
    folder = ROOT / "docs" / "walkthrough"
    assert {f"walkthrough/{path.name}" for path in folder.iterdir()} == set(walkthrough.PICTURE.findall(PAGE))
    assert max(path.stat().st_size for path in folder.iterdir()) < SMALL


def test_the_code_that_the_page_names_exists():
    named = re.findall(r"`(rmlr/[\w/]+)\.py`:\s((?:`\w+`(?:,\s)?)+)", PAGE)
    assert len(named) > 10
    for path, names in named:
        module = importlib.import_module(path.replace("/", "."))
        assert not [name for name in re.findall(r"\w+", names) if not hasattr(module, name)], path


def test_every_block_can_be_pasted_into_a_session(walkthrough):
    for block in walkthrough.BLOCK.finditer(PAGE):
        waiting: list[str] = []
        for line in [*block[1].splitlines(), ""]:  # as a session reads it: a blank line ends what is indented
            waiting.append(line)
            if compile_command("\n".join(waiting)) is not None:
                waiting = []
        assert not waiting


# ---- how a page is run


HAND = """a
```python
x = 1
print(x)
```
b
```python
x += 1
```

```text
old
```
c
<!-- what is printed is of code  -->
"""


def test_blocks_share_their_names_and_get_what_they_print(walkthrough):
    assert walkthrough.run(HAND, "page") == ["1\n", ""]
    done = walkthrough.rewritten(HAND, ["1\n", ""])
    assert "```python\nx = 1\nprint(x)\n```\n\n```text\n1\n```\nb" in done
    assert "old" not in done
    assert walkthrough.digest(done) in done
    assert walkthrough.rewritten(done, ["1\n", ""]) == done
    assert walkthrough.digest(done) == walkthrough.digest(HAND) != walkthrough.digest(done.replace("x = 1", "x = 2"))


def test_a_block_that_fails_names_the_line_of_the_page(walkthrough):
    with pytest.raises(ZeroDivisionError) as caught:
        walkthrough.run("one\n\n```python\nx = 0\n1 / x\n```\n", "page.md")
    assert (str(caught.traceback[-1].path).endswith("page.md"), caught.traceback[-1].lineno + 1) == (True, 5)


def test_a_page_without_code_has_nothing_to_run(walkthrough):
    assert walkthrough.run("no code\n", "page") == []
    with pytest.raises(ValueError, match="as its last line"):
        walkthrough.rewritten("no code\n", [])
