"""A DETR, fitted and frozen, and what it sees in every picture."""


rule detector:
    input:
        images_mark,
        settings="results/{profile}/settings/detector/{detector}.yaml",
        annotations=detector_annotations,
    output:
        "results/{profile}/detector/{detector}/model.safetensors",
        "results/{profile}/detector/{detector}/config.json",
        "results/{profile}/detector/{detector}/metrics.json",
        "results/{profile}/detector/{detector}/settings.yaml",
        run="results/{profile}/detector/{detector}/run.json",
    log:
        "results/{profile}/logs/detector/{detector}.txt",
    benchmark:
        "results/{profile}/benchmarks/detector/{detector}.tsv"
    threads: 2
    resources:
        gpu=1,
        mem_mb=16000,
        runtime=2880,
    params:
        annotations=subpath(input.annotations, parent=True),
        images=f"{RAW}/images",
        seed=CHOSEN.detector_seed,
        out=subpath(output.run, parent=True),
    shell:
        "rmlr detector --settings {input.settings} --annotations {params.annotations} --images {params.images}"
        " --seed {params.seed} --out {params.out} &> {log}"


rule features:
    input:
        images_mark,
        settings="results/{profile}/settings/{dataset}/features/{backbone}/{split}.yaml",
        annotations="results/{profile}/{dataset}/prepare/run.json",
        detector=serving_detector,
    output:
        "results/{profile}/{dataset}/features/{backbone}/{split}/index.json",
        "results/{profile}/{dataset}/features/{backbone}/{split}/settings.yaml",
        run="results/{profile}/{dataset}/features/{backbone}/{split}/run.json",
    log:
        "results/{profile}/logs/{dataset}/features/{backbone}/{split}.txt",
    benchmark:
        "results/{profile}/benchmarks/{dataset}/features/{backbone}/{split}.tsv"
    threads: 2
    resources:
        gpu=1,
        mem_mb=16000,
        runtime=720,
    params:
        annotations=subpath(input.annotations, parent=True),
        images=f"{RAW}/images",
        detector=subpath(input.detector, parent=True),
        out=subpath(output.run, parent=True),
    shell:
        "rmlr features --settings {input.settings} --annotations {params.annotations} --split {wildcards.split}"
        " --images {params.images} --detector {params.detector} --out {params.out} &> {log}"


rule pose:
    input:
        images_mark,
        pose_weights,
        settings="results/{profile}/settings/{dataset}/pose/{backbone}/{split}.yaml",
        annotations="results/{profile}/{dataset}/prepare/run.json",
        features="results/{profile}/{dataset}/features/{backbone}/{split}/run.json",
    output:
        "results/{profile}/{dataset}/pose/{backbone}/{split}/index.json",
        "results/{profile}/{dataset}/pose/{backbone}/{split}/settings.yaml",
        run="results/{profile}/{dataset}/pose/{backbone}/{split}/run.json",
    log:
        "results/{profile}/logs/{dataset}/pose/{backbone}/{split}.txt",
    benchmark:
        "results/{profile}/benchmarks/{dataset}/pose/{backbone}/{split}.tsv"
    threads: 2
    resources:
        gpu=1,
        mem_mb=16000,
        runtime=720,
    params:
        annotations=subpath(input.annotations, parent=True),
        images=f"{RAW}/images",
        features=subpath(input.features, ancestor=2),
        out=subpath(output.run, parent=True),
    shell:
        "rmlr pose --settings {input.settings} --annotations {params.annotations} --split {wildcards.split}"
        " --images {params.images} --features {params.features} --out {params.out} &> {log}"


rule milestone_detector:
    input:
        [f"{detector_of(run.dataset, run.backbone)}/run.json" for run in ALL_RUNS.values()],
    localrule: True


rule milestone_features:
    input:
        [
            f"{RESULTS}/{run.dataset}/features/{run.backbone}/{split}/run.json"
            for run in ALL_RUNS.values()
            for split in ("train", "val", "test")
        ],
    localrule: True
