"""The named runs: trained, let loose on the test split, and scored; one thread each, side by side."""


rule train:
    input:
        settings="results/{profile}/settings/runs/{group}/{run}/{seed}/train.yaml",
        annotations=run_annotations,
        features=train_views,
        photos=train_photos,
        pose=train_poses,
        text=run_text,
    output:
        "results/{profile}/runs/{group}/{run}/{seed}/train/weights.safetensors",
        "results/{profile}/runs/{group}/{run}/{seed}/train/checkpoint.json",
        "results/{profile}/runs/{group}/{run}/{seed}/train/curves.csv",
        "results/{profile}/runs/{group}/{run}/{seed}/train/settings.yaml",
        run="results/{profile}/runs/{group}/{run}/{seed}/train/run.json",
    log:
        "results/{profile}/logs/runs/{group}/{run}/{seed}/train.txt",
    benchmark:
        "results/{profile}/benchmarks/runs/{group}/{run}/{seed}/train.tsv"
    resources:
        gpu=1,
        mem_mb=16000,
        runtime=2880,
    params:
        annotations=subpath(input.annotations, parent=True),
        seen=train_flags,
        text=subpath(input.text, parent=True),
        out=subpath(output.run, parent=True),
    shell:
        "rmlr train --settings {input.settings} --annotations {params.annotations}{params.seen}"
        " --text {params.text} --seed {wildcards.seed} --out {params.out} &> {log}"


rule predict:
    input:
        settings="results/{profile}/settings/runs/{group}/{run}/{seed}/predict.yaml",
        annotations=run_annotations,
        features=predict_views,
        pose=predict_poses,
        weights="results/{profile}/runs/{group}/{run}/{seed}/train/run.json",
    output:
        "results/{profile}/runs/{group}/{run}/{seed}/predict/triplets.parquet",
        "results/{profile}/runs/{group}/{run}/{seed}/predict/settings.yaml",
        run="results/{profile}/runs/{group}/{run}/{seed}/predict/run.json",
    log:
        "results/{profile}/logs/runs/{group}/{run}/{seed}/predict.txt",
    benchmark:
        "results/{profile}/benchmarks/runs/{group}/{run}/{seed}/predict.tsv"
    resources:
        gpu=1,
        mem_mb=16000,
        runtime=240,
    params:
        annotations=subpath(input.annotations, parent=True),
        features=run_views,
        pose=pose_flag,
        weights=subpath(input.weights, parent=True),
        out=subpath(output.run, parent=True),
    shell:
        "rmlr predict --settings {input.settings} --annotations {params.annotations} --features {params.features}"
        " --weights {params.weights} --out {params.out}{params.pose} &> {log}"


rule evaluate:
    input:
        settings="results/{profile}/settings/runs/{group}/{run}/{seed}/evaluate.yaml",
        annotations=run_annotations,
        triplets="results/{profile}/runs/{group}/{run}/{seed}/predict/triplets.parquet",
    output:
        "results/{profile}/runs/{group}/{run}/{seed}/evaluate/metrics.json",
        "results/{profile}/runs/{group}/{run}/{seed}/evaluate/settings.yaml",
        run="results/{profile}/runs/{group}/{run}/{seed}/evaluate/run.json",
    log:
        "results/{profile}/logs/runs/{group}/{run}/{seed}/evaluate.txt",
    benchmark:
        "results/{profile}/benchmarks/runs/{group}/{run}/{seed}/evaluate.tsv"
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        annotations=subpath(input.annotations, parent=True),
        out=subpath(output.run, parent=True),
    shell:
        "rmlr evaluate --settings {input.settings} --annotations {params.annotations} --triplets {input.triplets}"
        " --out {params.out} &> {log}"


for group in STUDY.runs:

    rule:
        name:
            f"milestone_runs_{group}"
        input:
            [
                f"{RESULTS}/runs/{group}/{run}/{seed}/evaluate/run.json"
                for run in STUDY.runs[group]
                if f"{group}/{run}" in ALL_RUNS
                for seed in CHOSEN.seeds
            ],
        localrule: True
