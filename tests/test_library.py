"""`rmlr` as a library: what can be imported from it, typed and documented, at no cost before it is used."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import rmlr

SOURCE = Path(rmlr.__file__)


def test_the_package_imports_nothing_heavy_before_a_name_is_used():
    code = (
        "import sys, rmlr; heavy = {'torch', 'numpy', 'PIL', 'pydantic', 'pandas'} & set(sys.modules); "
        "print(sorted(heavy)); from rmlr import load; print(load.__name__, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "load True"]


def test_every_name_is_listed_and_has_a_docstring():
    assert sorted(rmlr.__all__) == rmlr.__all__
    assert set(rmlr.__all__) <= set(dir(rmlr))
    for name in rmlr.__all__:
        found = getattr(rmlr, name)
        assert found.__name__ == name
        doc = found.__doc__ or ""
        assert len(doc) > 40, name
        assert not doc.startswith(f"{name}("), f"{name} has the docstring that dataclasses write"
        for method, function in inspect.getmembers(found, inspect.isfunction):
            if not method.startswith("_") or method == "__call__":
                assert function.__doc__, f"{name}.{method}"


def test_type_checkers_see_the_names_where_they_are_found():
    imports = [node for node in ast.walk(ast.parse(SOURCE.read_text())) if isinstance(node, ast.ImportFrom)]
    seen = {(node.module, name.name) for node in imports for name in node.names if node.module.startswith("rmlr")}
    assert seen == {(module, name) for module, names in rmlr._MODULES.items() for name in names}
    assert {name for _, name in seen} == set(rmlr.__all__)
    assert (SOURCE.parent / "py.typed").is_file()


def test_the_mark_of_types_is_part_of_the_package():
    import tomllib

    project = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text())
    assert "py.typed" in project["tool"]["setuptools"]["package-data"]["rmlr"]


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        rmlr.lode  # noqa: B018
    with pytest.raises(ImportError, match="lode"):
        from rmlr import lode  # noqa: F401
