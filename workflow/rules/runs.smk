"""The named runs: training, prediction on the test split and evaluation; one thread each, in parallel."""

# On a cluster, the stages of a run are one job. Training on real photos is a job of its own: Snakemake repeats a whole
# group if one of its stages fails, and that takes hours.
RUN = "run_{group}_{run}_{seed}"


rule train:
    input:
        INPUTS("runs/{group}/{run}/{seed}{fold}/train"),
        settings="results/{profile}/settings/runs/{group}/{run}/{seed}{fold}/train.yaml",
    output:
        "results/{profile}/runs/{group}/{run}/{seed}{fold}/train/weights.safetensors",
        "results/{profile}/runs/{group}/{run}/{seed}{fold}/train/checkpoint.json",
        "results/{profile}/runs/{group}/{run}/{seed}{fold}/train/curves.csv",
        "results/{profile}/runs/{group}/{run}/{seed}{fold}/train/settings.yaml",
        run="results/{profile}/runs/{group}/{run}/{seed}{fold}/train/run.json",
    log:
        "results/{profile}/logs/runs/{group}/{run}/{seed}{fold}/train.txt",
    benchmark:
        "results/{profile}/benchmarks/runs/{group}/{run}/{seed}{fold}/train.tsv"
    group:
        RUN if CHOSEN.world else None
    resources:
        gpu=gpus,
        mem_mb=by_data(3000, 16000),
        runtime=by_data(60, 720, 2880),
    params:
        read=GRAPH.flags("runs/{group}/{run}/{seed}{fold}/train"),
        out=subpath(output.run, parent=True),
    shell:
        "rmlr train --settings {input.settings} {params.read} --seed {wildcards.seed} --out {params.out} &> {log}"


rule predict:
    input:
        INPUTS("runs/{group}/{run}/{seed}/predict"),
        settings="results/{profile}/settings/runs/{group}/{run}/{seed}/predict.yaml",
    output:
        "results/{profile}/runs/{group}/{run}/{seed}/predict/triplets.parquet",
        "results/{profile}/runs/{group}/{run}/{seed}/predict/settings.yaml",
        run="results/{profile}/runs/{group}/{run}/{seed}/predict/run.json",
    log:
        "results/{profile}/logs/runs/{group}/{run}/{seed}/predict.txt",
    benchmark:
        "results/{profile}/benchmarks/runs/{group}/{run}/{seed}/predict.tsv"
    group:
        RUN
    resources:
        gpu=gpus,
        mem_mb=by_data(3000, 16000),
        runtime=by_data(30, 60, 240),
    params:
        read=GRAPH.flags("runs/{group}/{run}/{seed}/predict"),
        out=subpath(output.run, parent=True),
    shell:
        "rmlr predict --settings {input.settings} {params.read} --out {params.out} &> {log}"


rule evaluate:
    input:
        INPUTS("runs/{group}/{run}/{seed}/evaluate"),
        settings="results/{profile}/settings/runs/{group}/{run}/{seed}/evaluate.yaml",
    output:
        "results/{profile}/runs/{group}/{run}/{seed}/evaluate/metrics.json",
        "results/{profile}/runs/{group}/{run}/{seed}/evaluate/settings.yaml",
        run="results/{profile}/runs/{group}/{run}/{seed}/evaluate/run.json",
    log:
        "results/{profile}/logs/runs/{group}/{run}/{seed}/evaluate.txt",
    benchmark:
        "results/{profile}/benchmarks/runs/{group}/{run}/{seed}/evaluate.tsv"
    group:
        RUN
    resources:
        mem_mb=by_data(3000, 8000),
        runtime=by_data(30, 60),
    params:
        read=GRAPH.flags("runs/{group}/{run}/{seed}/evaluate"),
        out=subpath(output.run, parent=True),
    shell:
        "rmlr evaluate --settings {input.settings} {params.read} --out {params.out} &> {log}"


for group in GRAPH.study.runs:

    rule:
        name:
            f"milestone_runs_{group}"
        input:
            [f"{RESULTS}/runs/{name}/{seed}/evaluate/run.json" for name in GRAPH.group(group) for seed in CHOSEN.seeds],
        localrule: True
