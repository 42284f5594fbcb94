"""`rmlr trace`: a row of a table, followed to everything that it was made from."""

import json
import re
import shutil
from pathlib import Path

import pytest

from rmlr.commands.trace import trace
from rmlr.stages.table import table
from rmlr.study import provenance
from rmlr.study.identity import identified
from rmlr.study.plan import Study
from rmlr.study.run import run
from rmlr.study.source import PACKAGE

CHECKOUT = PACKAGE.parent
ROOT = Path("results/tiny")
RUN = Path("runs/shared/rmlr/0")
TABLE = Path("results/table2.csv")
COMMIT = "0123456789abcdef"
ALL_AS_IT_WAS = "inputs, settings, code and numbers are as they were"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A checkout with Table 2 of profile tiny; the chain of its row RmLR is whole, of other rows only the numbers."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copy(CHECKOUT / "params.yaml", folder)
    shutil.copytree(CHECKOUT / "paper", folder / "paper")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(provenance, "commit", lambda: {"commit": COMMIT, "dirty": False})
        planned = identified(Study.load(Path("params.yaml")), "tiny", Path("paper"))
        _make(planned)
    return folder, planned


def _make(planned):
    def stage(name, node, *inputs, seed=None, file="made.txt", content="made"):
        with run(
            name, planned[node], settings=None, out=ROOT / node, inputs=[ROOT / one for one in inputs], seed=seed
        ) as record:
            (record.folder / file).parent.mkdir(exist_ok=True)
            (record.folder / file).write_text(content)

    def scores(one):
        return json.dumps({"vcoco_ap_role_1": one, "vcoco_ap_role_2": 0.6})

    stage("draw", "world/draw", seed=0, file="vcoco/test.json")
    stage("prepare", "vcoco/prepare", "world/draw/vcoco")
    stage("detector", "detector/base", "vcoco/prepare", seed=0)
    for split in ("train", "test"):
        stage("features", f"vcoco/features/base/{split}", "vcoco/prepare", "detector/base")
    stage("text", "vcoco/text/main", "vcoco/prepare")
    stage("train", f"{RUN}/train", "vcoco/prepare", "vcoco/text/main", "vcoco/features/base/train", seed=0)
    stage("predict", f"{RUN}/predict", "vcoco/prepare", "vcoco/features/base/test", f"{RUN}/train")
    predicted = f"{RUN}/predict/made.txt"
    stage("evaluate", f"{RUN}/evaluate", "vcoco/prepare", predicted, file="metrics.json", content=scores(0.5))
    for row in (*planned["tables/table2"].rows, *planned["tables/table2"].controls):
        folder = ROOT / "runs" / row.sources[0].run / "0/evaluate"
        if not folder.exists():
            folder.mkdir(parents=True)
            (folder / "metrics.json").write_text(scores(0.4))
    Path("table2.yaml").write_text(planned["tables/table2"].dump())
    paper = {"paper": Path("paper/table2.csv"), "notes": Path("paper/notes.yaml")}
    table(settings=Path("table2.yaml"), runs=ROOT / "runs", out=ROOT / "tables/table2", **paper)
    shutil.copy(ROOT / "tables/table2/table2.csv", TABLE)


@pytest.fixture
def copied(finished, tmp_path, monkeypatch):
    folder = tmp_path / "checkout"
    shutil.copytree(finished[0], folder)
    monkeypatch.chdir(folder)


@pytest.fixture
def study(copied, finished, monkeypatch):
    """The same, with the plan that it was made by, which takes seconds to make anew."""
    monkeypatch.setattr("rmlr.commands.trace.Study.load", lambda path: None)
    monkeypatch.setattr("rmlr.commands.trace.identified", lambda *of: finished[1])


def told(capsys, *arguments, **flags):
    trace(*arguments, **flags)
    return capsys.readouterr().out.splitlines()


def edited(path, change):
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))


def test_a_row_is_followed_through_the_whole_chain(copied, capsys):
    lines = told(capsys, TABLE, row="RmLR")
    assert lines[:3] == [
        f"{TABLE}, row RmLR",
        "  vcoco_ap_role_1 50.00: shared/rmlr, seed 0 50.00",
        "  vcoco_ap_role_2 60.00: shared/rmlr, seed 0 60.00",
    ]
    stages = re.findall(r"^( *)(?:from )?(\w+): (\S+)", "\n".join(lines[3:]), re.MULTILINE)
    assert [(len(indent) // 2, stage, place) for indent, stage, place in stages] == [
        (0, "table", f"{ROOT}/tables/table2"),
        (1, "evaluate", f"{ROOT}/{RUN}/evaluate/metrics.json"),
        (2, "prepare", f"{ROOT}/vcoco/prepare"),
        (3, "draw", f"{ROOT}/world/draw/vcoco"),
        (2, "predict", f"{ROOT}/{RUN}/predict/made.txt"),
        (3, "features", f"{ROOT}/vcoco/features/base/test"),
        (4, "detector", f"{ROOT}/detector/base"),
        (3, "train", f"{ROOT}/{RUN}/train"),
        (4, "text", f"{ROOT}/vcoco/text/main"),
        (4, "features", f"{ROOT}/vcoco/features/base/train"),
    ]
    assert lines[-1] == ALL_AS_IT_WAS


def test_a_stage_is_told_with_all_that_its_run_json_records(study, capsys):
    lines = told(capsys, TABLE, row="rmlr")
    about = json.loads((ROOT / RUN / "train/run.json").read_text())
    first = next(number for number, line in enumerate(lines) if line.lstrip().startswith("from train:"))
    made, settings, machine = (line.strip() for line in lines[first + 1 : first + 4])
    assert made == f"made {about['began']}, commit {COMMIT[:12]}, code {about['settings']['code']}"
    assert settings == f"settings {ROOT / RUN}/train/settings.yaml, seed 0"
    assert all(f"{name} {version}" in machine for name, version in about["versions"].items())
    assert machine.endswith(about["host"].get("instructions") or about["host"]["processor"])
    digests = [entry["sha256"][:12] for entry in about["inputs"].values()]
    assert len(digests) == 3
    assert all(any(f"from {path}" in line or f": {path}" in line for line in lines) for path in about["inputs"])
    assert all(any(digest in line for line in lines[first:]) for digest in digests)


def test_inputs_of_other_rows_are_left_out(study, capsys):
    assert not [line for line in told(capsys, TABLE, row="RmLR") if "runs/table2" in line]


def other_settings(folder):
    path = folder / "settings.yaml"
    path.write_text(re.sub(r"min_score: .*", "min_score: 0.625", path.read_text()))


def append(path):
    path.write_text(path.read_text() + " ")


def dirty(about):
    about["code"]["dirty"] = True


def other_code(about):
    about["settings"]["code"] = "another"


@pytest.mark.parametrize(
    ("change", "place", "line", "remark"),
    [
        (append, ROOT / "world/draw/vcoco/test.json", "from draw:", r"has changed since, now [0-9a-f]{12}"),
        (append, ROOT / "vcoco/text/main/made.txt", "from text:", r"has changed since, now [0-9a-f]{12}"),
        (append, Path("paper/table2.csv"), "from paper/table2.csv", r"has changed since, now [0-9a-f]{12}"),
        (other_settings, ROOT / RUN / "predict", "settings", r"params.yaml now plans .*min_score: 0\.625 -> "),
        (dirty, ROOT / RUN / "predict/run.json", "made", "the checkout had uncommitted changes"),
        (other_code, ROOT / RUN / "predict/run.json", "made", r"the present code has another digest, [0-9a-f]{16}"),
        (shutil.rmtree, ROOT / "detector/base", "from", r"is absent now  ! results/tiny/detector/base: is absent, so"),
        (Path.unlink, ROOT / "vcoco/text/main/run.json", "from", r"results/\S+/text/main/run.json: cannot be read"),
    ],
)  # fmt: skip
def test_what_differs_now_is_marked_in_its_line(study, capsys, change, place, line, remark):
    if change in (dirty, other_code):
        edited(place, change)
    else:
        change(place)
    lines = told(capsys, TABLE, row="RmLR")
    marked = [text.strip() for text in lines if "  ! " in text]
    assert marked[0].startswith(line)
    assert re.search(f"  ! {remark}", marked[0])
    assert re.fullmatch(r"\d+ marked with '!'", lines[-1])


def test_the_numbers_that_params_yaml_plans_now_are_compared(copied, capsys):
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(re.sub(r"(prior_power: )[0-9.]+", r"\g<1>1.25", text))
    marked = [line for line in told(capsys, TABLE, row="RmLR") if "  ! " in line]
    assert [line.split()[1] for line in marked] == [f"{ROOT / RUN}/predict/settings.yaml"]
    assert re.search(r"params.yaml now plans other settings: prediction.prior_power: \S+ -> 1.25$", marked[0])


def test_an_accepted_change_of_code_is_told_and_not_marked(study, capsys):
    def accept(about):
        new, about["settings"]["code"] = about["settings"]["code"], "old"
        about["accepted"] = [{"who": "ann", "when": "2026-12-01", "because": "names only", "from": "old", "to": new}]

    edited(ROOT / RUN / "predict/run.json", accept)
    lines = told(capsys, TABLE, row="RmLR")
    assert any(
        ", code old, accepted as " in line and line.endswith(" by ann on 2026-12-01: names only") for line in lines
    )
    assert lines[-1] == ALL_AS_IT_WAS


def test_a_number_that_metrics_json_does_not_give_is_marked(study, capsys):
    edited(ROOT / RUN / "evaluate/metrics.json", lambda metrics: metrics.update(vcoco_ap_role_1=0.25))
    lines = told(capsys, TABLE, row="RmLR")
    assert lines[1] == "  vcoco_ap_role_1 50.00: shared/rmlr, seed 0 25.00  ! metrics.json now gives 25.00"
    assert "!" not in lines[2]
    (ROOT / RUN / "evaluate/metrics.json").unlink()
    assert "metrics.json: cannot be read" in told(capsys, TABLE, row="RmLR")[1]


def test_a_copy_that_differs_from_the_tables_folder_is_marked(study, capsys):
    TABLE.write_text(TABLE.read_text().replace("50.00", "51.00"))
    lines = told(capsys, TABLE, row="RmLR")
    assert lines[0].endswith("  ! differs from results/tiny/tables/table2/table2.csv")
    assert lines[1].endswith("  ! metrics.json now gives 50.00")
    assert told(capsys, ROOT / "tables/table2", row="RmLR")[-1] == ALL_AS_IT_WAS


def test_a_row_is_named_by_its_label_or_its_run_and_a_table_by_its_folder_or_a_copy(study, capsys):
    shutil.copy(TABLE, ROOT)
    expected = told(capsys, TABLE, row="RmLR")[1:]
    for name in ("shared/rmlr", "rmlr"):
        assert told(capsys, TABLE, row=name)[1:] == expected
    for path in (ROOT / "table2.csv", ROOT / "tables/table2", ROOT / "tables/table2/table2.csv"):
        assert told(capsys, path, row="RmLR")[1:] == expected


def test_one_column_is_followed_alone(study, capsys):
    lines = told(capsys, TABLE, row="RmLR", column="vcoco_ap_role_2")
    assert [line for line in lines if "vcoco_ap_role" in line] == ["  vcoco_ap_role_2 60.00: shared/rmlr, seed 0 60.00"]
    with pytest.raises(ValueError, match=r"--column ap: row 'RmLR' has no .* It has: vcoco_ap_role_1, vcoco_ap_role_2"):
        trace(TABLE, row="RmLR", column="ap")


def test_an_unknown_row_is_answered_with_the_list(study):
    with pytest.raises(
        ValueError, match=r"(?s)--row nobody: .*no such row or run.*w/o CL: table2/wo_cl.*RmLR: shared/rmlr"
    ):
        trace(TABLE, row="nobody")


def test_a_row_without_measurement_and_an_ambiguous_name_say_so(study):
    text = TABLE.read_text()
    plain = next(line for line in text.splitlines() if line.startswith("Plain model"))
    reported = plain.replace("Plain model", "PPDM").replace("table2/plain", "")
    TABLE.write_text(f"{text}{reported}\n")
    with pytest.raises(ValueError, match="--row PPDM: only the paper's numbers, nothing was measured"):
        trace(TABLE, row="PPDM")
    with pytest.raises(
        ValueError, match=r"--row 1: \d rows fit. Give one of these names or runs:\n  w/o CL: table2/wo_cl"
    ):
        trace(TABLE, row="1")


def test_a_table_that_does_not_say_how_it_was_made_is_one_clear_message(study, tmp_path, monkeypatch):
    (ROOT / "tables/table2/run.json").unlink()
    with pytest.raises(
        ValueError, match=r"tables/table2/run\.json: cannot be read .*It records how the folder was made"
    ):
        trace(TABLE, row="RmLR")
    shutil.rmtree(ROOT / "tables")
    with pytest.raises(ValueError, match=r"results/tiny/tables/table2: does not exist; .*Pull it, or make the table"):
        trace(TABLE, row="RmLR")
    with pytest.raises(
        ValueError, match=r"paper/table2\.csv: has no column 'runs'. Expected a table that `rmlr table`"
    ):
        trace(Path("paper/table2.csv"), row="RmLR")
    outside = Path(TABLE).absolute()
    monkeypatch.chdir(tmp_path / "checkout/paper")
    with pytest.raises(ValueError, match=r"is outside of .*Call this in the checkout in which the table was made"):
        trace(outside, row="RmLR")
