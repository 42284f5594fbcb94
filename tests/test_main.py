"""The command line."""

import subprocess
import sys

import pytest

import rmlr
from rmlr.__main__ import STAGES, main
from rmlr.study.source import PACKAGE


def rmlr_command(*arguments, **more):
    command = [sys.executable, *more.pop("python", ()), "-m", "rmlr", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **more)


def test_every_stage_has_a_command():
    assert set(STAGES) == {path.stem for path in (PACKAGE / "stages").glob("*.py")} - {"__init__"}


def test_help_names_every_stage_and_loads_none():
    done = rmlr_command("--help", python=["-X", "importtime"])
    assert done.returncode == 0
    assert all(f" {stage} " in done.stdout for stage in STAGES)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"torch", "transformers", "mlflow", "snakemake", "dvc", "numpy", "pydantic"}


def test_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert not ended.value.code
    assert capsys.readouterr().out.strip() == rmlr.__version__


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "fetch"])  # which is no node of one output
def test_the_help_of_a_stage_says_what_it_writes(stage, capsys):
    with pytest.raises(SystemExit) as ended:
        main([stage, "--help"])
    assert not ended.value.code
    said = capsys.readouterr().out
    assert "--settings" in said
    assert "--out" in said


def test_a_misspelt_stage_is_answered_with_the_list():
    done = rmlr_command("trian")
    assert done.returncode == 1
    assert "'trian'" in done.stderr
    assert "train" in done.stderr.split("There are")[1]


def test_a_wrong_value_is_one_message_and_no_traceback(tmp_path):
    settings = tmp_path / "evaluate.yaml"
    settings.write_text("code: abc\nsplitt: test\n")
    flags = [
        "evaluate",
        "--settings",
        settings,
        "--annotations",
        tmp_path,
        "--triplets",
        "t",
        "--out",
        tmp_path / "out",
    ]
    done = rmlr_command(*flags)
    assert done.returncode == 1
    assert str(settings) in done.stderr
    assert "splitt" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_debugging_shows_where_it_was_found(tmp_path, monkeypatch):
    monkeypatch.setenv("RMLR_DEBUG", "1")
    done = rmlr_command(
        "table", "--settings", tmp_path / "no", "--runs", "r", "--paper", "p", "--notes", "n", "--out", tmp_path / "out"
    )
    assert "Traceback" in done.stderr


def test_a_missing_flag_is_named():
    done = rmlr_command("table", "--runs", "somewhere")
    assert done.returncode != 0
    assert "--settings" in done.stdout + done.stderr


def test_the_command_line_needs_neither_snakemake_nor_dvc_nor_mlflow(tmp_path):
    hidden = "import sys\nfor name in ('snakemake', 'dvc', 'mlflow'): sys.modules[name] = None\n"
    code = hidden + "from rmlr.__main__ import main; main(['table', '--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
