"""Where MLflow's store is."""

from pathlib import Path

import pytest

from rmlr.study.store import checkout, tracking_uri


@pytest.mark.parametrize("workspace", [".dvc/tmp/exps/standalone/tmpx1", ".dvc/tmp/exps/tmpx2", ".dvc/tmp/exps/a/b/c"])
def test_an_experiment_in_a_workspace_of_dvc_is_tracked_in_the_checkout(workspace, tmp_path, monkeypatch):
    (tmp_path / workspace).mkdir(parents=True)
    assert checkout(tmp_path / workspace) == tmp_path
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path / workspace)
    assert tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert tracking_uri() == "http://127.0.0.1:1"


@pytest.mark.parametrize("folder", ["study", "exps/study", "tmp/exps/study"])
def test_any_other_folder_is_a_checkout(folder, tmp_path):
    (tmp_path / folder).mkdir(parents=True)
    assert checkout(tmp_path / folder) == tmp_path / folder
    assert checkout(Path("/")) == Path("/")
