"""Training runs with the same photos as one job; it takes precedence over one job for each."""

import math

import cohorts

COHORTS = cohorts.read(GRAPH)
if MAY_WRITE:
    ASKED = cohorts.targets() if CHOSEN.together > 1 else None
    NEEDED = cohorts.trainings(GRAPH, cohorts.files_of(workflow, ASKED), WANTED.is_stale) if ASKED else []
    COHORTS = cohorts.form(GRAPH, NEEDED, CHOSEN.together)
    cohorts.write(GRAPH, COHORTS)
    study_log.members = {one.name: len(one.calls) for one in COHORTS}


for cohort in COHORTS:
    workflow.ruleorder(cohort.name, "train")

    rule:
        name:
            cohort.name
        input:
            *[INPUTS(node) for node in cohort.nodes(RESULTS)],
            settings=[call.settings for call in cohort.calls],
        output:
            [
                f"{call.out}/{file}"
                for call in cohort.calls
                for file in ("weights.safetensors", "checkpoint.json", "curves.csv", "settings.yaml", "run.json")
            ],
        log:
            f"{RESULTS}/logs/together/{cohort.name}.txt",
        benchmark:
            f"{RESULTS}/benchmarks/together/{cohort.name}.tsv"
        resources:
            gpu=gpus,
            mem_mb=by_data(3000, 16000)({"dataset": cohort.dataset}) + 500 * len(cohort.calls),
            runtime=math.ceil(cohort.effort * by_data(60, 720, 2880)({"dataset": cohort.dataset})),
        params:
            file=cohort.file,
        shell:
            "rmlr together {params.file} --keep-aside &> {log}"
