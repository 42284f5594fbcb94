"""How MLflow's pages show a study: saved views with charts, descriptions, and the links that open them."""

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

NOTE = "mlflow.note.content"  # how MLflow keeps a description: a tag of the experiment or run
WRITTEN = "mlflow.rmlr.note"  # digest of the description that we wrote last; a different description is the user's
VIEW = "mlflow.sharedViewState."  # how MLflow's pages keep a saved view: a tag of the experiment
TABLE = "mlflow.rmlr."  # prefix of a table's name: the tag of the run `study` with its text
CONTROL = "control: "  # prefix of the name of its row
EVERY = "runs"  # the saved view of all runs
LONGEST_NOTE = 8000  # characters that MLflow allows in a tag's value
COMPARED = 10  # runs on a page that compares them
CURVE, HELD_OUT = "train/", "val/"  # sections of what training logs on MLflow's charts
PAPER = r"vcoco_ap_role_[12]|hicodet_(default|known_object)_(full|rare|nonrare|seen|unseen)"
CONSTANT = (
    r"vcoco_(all_)?roles|vcoco_actions|hicodet_(rare_)?classes(_with_positives)?|hicodet_known_object_image_level"
)
WORKFLOW = "workflowType=machine_learning"  # without it MLflow opens its pages for language models


def is_headline(metric: str) -> bool:
    """Whether the paper's tables have such a column."""
    return bool(re.fullmatch(PAPER, metric))


def is_constant(metric: str) -> bool:
    """Whether a metric of evaluation describes the data, not the run."""
    return bool(re.fullmatch(CONSTANT, metric))


# ---- saved views


def save_list(client: Any, place: str) -> None:
    """Save the view of all runs, with the paper's columns; without a view, MLflow's columns are fixed."""
    runs = client.search_runs([place], max_results=1000)
    metrics = sorted({key for run in runs for key in run.data.metrics if is_headline(key)})
    _save(client, place, EVERY, "All runs", _state(metrics, "", None, []))


def save_table(client: Any, place: str, table: str, title: str, runs: Sequence[str]) -> None:
    """Save the view of a table: its runs, seeds averaged by row, a bar chart for each of the paper's columns."""
    known = {key for run_id in runs for key in client.get_run(run_id).data.metrics}
    metrics = sorted(filter(is_headline, known))
    results, curves = f"{table}-results", f"{table}-curves"
    charts = [_chart(f"{table}-{metric}", results, metric, type="BAR", metricKey=metric) for metric in metrics]
    charts.append(_curve(f"{table}-loss", curves, "loss by epoch", f"{CURVE}loss"))
    validated = sorted(key for key in known if key.startswith(HELD_OUT) and is_headline(key.removeprefix(HELD_OUT)))
    charts += [_curve(f"{table}-{key}", curves, f"{key} by epoch", key) for key in validated]
    sections = ((results, title), (curves, "Training"))
    state = _state(metrics, f"tags.{table} LIKE '%'", table, charts) | {
        "compareRunSections": [
            {"uuid": uuid, "name": name, "display": True, "isReordered": True, "deleted": False, "isGenerated": False}
            for uuid, name in sections
        ],
    }
    _save(client, place, table, table_name(table), state)


def table_name(table: str) -> str:
    """`table2` -> `Table 2`; another name as it is."""
    return f"Table {number}" if (number := table.removeprefix("table")) != table else table


def _save(client: Any, place: str, key: str, name: str, state: Mapping[str, Any]) -> None:
    now = time.time_ns() // 1_000_000
    view = {"name": name, "createdAt": now, "updatedAt": now, "state": json.dumps(state)}
    client.set_experiment_tag(place, f"{VIEW}{key}", json.dumps(view))


def _state(metrics: Sequence[str], runs: str, grouped_by: str | None, charts: list[dict]) -> dict[str, Any]:
    """As MLflow's page of an experiment writes it."""
    groups = {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": grouped_by}]}
    return {
        "searchFilter": runs,
        "orderByKey": f"metrics.`{metrics[0]}`" if metrics else "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [f"metrics.`{metric}`" for metric in metrics] + ["tags.`seed`", "tags.`suite`"],
        "groupBy": groups if grouped_by else None,
        "useGroupedValuesInCharts": True,
        "runsHiddenMode": "SHOW_ALL",
        "hideEmptyCharts": True,
        "isAccordionReordered": True,
        **({"compareRunCharts": charts} if charts else {}),
    }


def _chart(uuid: str, section: str, title: str, **more: Any) -> dict[str, Any]:
    of_all = {"deleted": False, "isGenerated": False, "runsCountToCompare": 50}
    return {"uuid": uuid, "metricSectionId": section, "displayName": title, **of_all, **more}


def _curve(uuid: str, section: str, title: str, metric: str) -> dict[str, Any]:
    return _chart(
        uuid,
        section,
        title,
        type="LINE",
        metricKey=metric,
        selectedMetricKeys=[metric],
        lineSmoothness=0,
        scaleType="linear",
        xAxisKey="step",
        xAxisScaleType="linear",
        selectedXAxisMetricKey="",
        yAxisKey="metric",
        yAxisExpressions=[],
        range={},
        ignoreOutliers=False,
        useGlobalXaxisKey=False,
        useGlobalLineSmoothing=False,
    )


def mark(client: Any, place: str, table: str, marks: Mapping[str, str]) -> None:
    """Tag the runs of a table with their row, and remove the tag from all other runs of the experiment."""
    for run in client.search_runs([place], filter_string=f"tags.{table} LIKE '%'", max_results=50_000):
        if run.info.run_id not in marks:
            client.delete_tag(run.info.run_id, table)
    for run_id, row in marks.items():
        client.set_tag(run_id, table, row)


# ---- links


def links(client: Any, place: str) -> dict[str, dict[str, str]]:
    """The links of an experiment: for all runs, and for each table, the title and address of each link.

    Addresses are relative to MLflow's pages, from `#` on.
    """
    page = f"#/experiments/{place}/runs?"
    found = {"Runs": {"list": f"{page}{WORKFLOW}"}}
    tags = client.get_experiment(place).tags
    if f"{VIEW}{EVERY}" in tags:
        found["Runs"]["list"] = f"{page}viewStateShareKey={EVERY}&{WORKFLOW}"
    for table in sorted(tag.removeprefix(VIEW) for tag in tags if tag.startswith(VIEW)):
        ids = [] if table == EVERY else _one_of_each_row(client, place, table)
        if not ids:
            continue  # the user's own view, or that of a table whose runs were deleted
        view = f"{page}viewStateShareKey={table}"
        found[table_name(table)] = {
            "charts": f"{view}&compareRunsMode=CHART&{WORKFLOW}",
            "list": f"{view}&{WORKFLOW}",
        }
        if 1 < len(ids) <= COMPARED:
            runs, places = (quote(json.dumps(values, separators=(",", ":"))) for values in (ids, [place]))
            address = f"#/compare-runs?runs={runs}&experiments={places}&{WORKFLOW}"
            found[table_name(table)][f"its {len(ids)} rows compared"] = address
    return found


def _one_of_each_row(client: Any, place: str, table: str) -> list[str]:
    """The run with the smallest seed for each row of a table, without controls."""
    rows: dict[str, tuple[int, str]] = {}
    for run in client.search_runs([place], filter_string=f"tags.{table} LIKE '%'", max_results=50_000):
        seed = run.data.tags.get("seed", "")
        one = (int(seed) if seed.isdecimal() else 0, run.info.run_id)
        row = run.data.tags[table]
        if row.startswith(CONTROL):
            continue
        rows[row] = min(rows.get(row, one), one)
    return [run_id for _, run_id in rows.values()]


# ---- descriptions


def describe_run(client: Any, run_id: str) -> None:
    """Write the description of a run: what it is, the rows that use it, its scores and the path of its files."""
    data = client.get_run(run_id).data
    tags, params = data.tags, data.params
    where = f"results/{tags['profile']}/runs/{tags['suite']}/{tags['run']}/{tags['seed']}"
    where += f"/fold{tags['fold']}" if "fold" in tags else ""
    switches = [key.removeprefix("variant.") for key, value in params.items() if key.startswith("variant.")
                and value == "True"]  # fmt: skip
    lines = [
        f"One training run of variant `{tags['variant']}` on {tags['dataset']}, seed {tags['seed']}, profile "
        f"`{tags['profile']}`: {params.get('train.epochs', '?')} epochs on {params.get('train.split', '?')}; "
        f"switched on: {', '.join(f'`{name}`' for name in switches) or 'nothing'}."
    ]
    rows = [f"{table_name(key)}, {value}" for key, value in sorted(tags.items()) if re.fullmatch(r"table\d+", key)]
    if rows:
        lines.append(f"Feeds {'; '.join(rows)}.")
    scores = {key: value for key, value in data.metrics.items() if is_headline(key)}
    if scores:
        said = [f"| {key} | {100 * value:.2f} |" for key, value in sorted(scores.items())]
        lines.append("\n".join(["| on test | points |", "| --- | --: |", *said]))
    lines.append(f"Files: `{where}`. To use it: `rmlr photo FOLDER --run {where} --out OUT`.")
    _describe(client.set_tag, run_id, tags, "\n\n".join(lines))


def describe_study(client: Any, place: str, study: str) -> None:
    """Write the description of the experiment and of its run `study`: tables, and their links."""
    of_study, of_place = client.get_run(study).data.tags, client.get_experiment(place)
    profile = of_study.get("profile", "")
    intro = (
        f"RmLR (Cao et al., ICCV 2023) reproduced, profile `{profile}`. A run is one variant and one seed; the run "
        "`study` holds tables and figures as artifacts. Metrics are fractions on the test split."
    )
    lines = [
        f"- {what}: {', '.join(f'[{name}]({address})' for name, address in addresses.items())}"
        for what, addresses in links(client, place).items()
    ]
    note = "\n\n".join([intro, "\n".join(lines)])
    tables = {tag.removeprefix(TABLE): text for tag, text in of_study.items() if tag.startswith(f"{TABLE}table")}
    for table in sorted(tables, key=lambda name: (name != "table2", name)):  # the main one first, then as many as fit
        part = f"\n\n## {table_name(table)}\n\n{tables[table].strip()}"
        if len(note) + len(part) <= LONGEST_NOTE:
            note += part
    _describe(client.set_experiment_tag, place, of_place.tags, note)
    _describe(client.set_tag, study, of_study, note)


def keep_table(client: Any, study: str, table: str, text: str) -> None:
    """Store a table's text for descriptions, unless it is too long for MLflow."""
    if len(text) <= LONGEST_NOTE:
        client.set_tag(study, f"{TABLE}{table}", text)


def _describe(set_tag: Any, whom: str, tags: Mapping[str, str], note: str) -> None:
    """Write a description, unless the user has written one."""
    found = tags.get(NOTE, "")
    if not found or _digest(found) == tags.get(WRITTEN):
        set_tag(whom, NOTE, note)
        set_tag(whom, WRITTEN, _digest(note))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
