"""The digest of the code that a stage runs."""

import pytest

from rmlr.study import source
from rmlr.study.source import code_digest, stage_files


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of two stages, of which one imports a module that imports another."""
    folder = tmp_path / "rmlr"
    for name, text in {
        "__init__.py": "",
        "stages/__init__.py": "",
        "stages/learn.py": "from rmlr.model import network\nfrom rmlr.study.run import run\n",
        "stages/score.py": "def score():\n    from rmlr.score import mean\n    return mean\n",
        "model/__init__.py": "",
        "model/network.py": '"""Doc."""\nfrom rmlr.hoi.boxes import area\nSIZE = 3\n',
        "hoi/__init__.py": "",
        "hoi/boxes.py": "def area(box):\n    return 1\n",
        "score.py": "def mean():\n    return 2\n",
        "study/__init__.py": "",
        "study/run.py": "",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(source, "PACKAGE", folder)
    source._read.cache_clear()
    yield folder
    source._read.cache_clear()


def changed(package, name, old, new):
    """The stages whose digest a change of a file changes."""
    before = {stage: code_digest(stage) for stage in ("learn", "score")}
    path = package / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    source._read.cache_clear()
    return {stage for stage, digest in before.items() if digest != code_digest(stage)}


def test_what_a_stage_imports_through_others_counts(package):
    assert changed(package, "hoi/boxes.py", "return 1", "return 4") == {"learn"}


def test_an_import_inside_a_function_counts(package):
    assert changed(package, "score.py", "return 2", "return 3") == {"score"}


@pytest.mark.parametrize(
    "block",
    [
        "try:\n    {}\nexcept OSError:\n    pass",
        "try:\n    pass\nexcept OSError:\n    {}",
        "try:\n    pass\nfinally:\n    {}",
        "for _ in ():\n    pass\nelse:\n    {}",
        "with open('x'):\n    if True:\n        {}",
        "match 1:\n    case _:\n        {}",
        "class Late:\n    async def load(self):\n        {}",
    ],
)
def test_an_import_in_any_block_counts(block, package):
    (package / "stages/score.py").write_text(block.format("import rmlr.hoi.boxes") + "\n")
    assert changed(package, "hoi/boxes.py", "return 1", "return 4") == {"learn", "score"}


def test_comments_docstrings_and_blank_lines_do_not_count(package):
    assert changed(package, "model/network.py", "SIZE = 3", "\nSIZE = 3  # a # comment") == set()
    assert changed(package, "model/network.py", '"""Doc."""', '"""Other\n\nwords."""') == set()


def test_a_string_that_is_no_docstring_counts(package):
    assert changed(package, "hoi/boxes.py", "return 1", 'return """1  # no comment"""') == {"learn"}


def test_what_surrounds_a_stage_does_not_count(package):
    (package / "study/run.py").write_text("X = 1\n")
    assert changed(package, "study/run.py", "X = 1", "X = 2") == set()


def test_a_module_that_is_not_there_is_named(package):
    (package / "stages/learn.py").write_text("import rmlr.nothing\n")
    source._read.cache_clear()
    with pytest.raises(ValueError, match=r"rmlr\.nothing"):
        stage_files("learn")
