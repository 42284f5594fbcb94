"""The study: `snakemake` without a target makes every run, table and figure of the profile that params.yaml names."""

from snakemake.utils import min_version

min_version("9.0")


report: "workflow/report/study.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/fetch.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/detector.smk"
include: "workflow/rules/runs.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/figures.smk"


ALL = [
    *rules.milestone_fetch.input,
    *rules.milestone_data.input,
    *rules.milestone_pose.input,
    *[f"{RESULTS}/runs/{name}/{seed}/evaluate/run.json" for name in GRAPH.runs for seed in CHOSEN.seeds],
    *[file for name in GRAPH.tables for file in GRAPH.copies(name)],
    *rules.milestone_figures.input,
    *GRAPH.copies("statement"),
]


rule all:
    default_target: True
    input:
        REPORTED or ALL,  # a report shows the results that exist


include: "workflow/rules/together.smk"
