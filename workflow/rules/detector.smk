"""A DETR, fitted and frozen, and what it sees in every picture; beside it what a pose network does."""


rule detector:
    input:
        images_mark,
        detector_weights,
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
        coco=coco_flag,
        out=subpath(output.run, parent=True),
    shell:
        "rmlr detector --settings {input.settings} --annotations {params.annotations} --images {params.images}"
        " --seed {params.seed} --out {params.out}{params.coco} &> {log}"


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


rule joints:
    input:
        lambda wildcards: images_mark(wildcards) or real_files("vcoco"),
        settings="results/{profile}/settings/pose/joints.yaml",
    output:
        "results/{profile}/pose/joints/weights.pth",
        "results/{profile}/pose/joints/metrics.json",
        "results/{profile}/pose/joints/settings.yaml",
        run="results/{profile}/pose/joints/run.json",
    log:
        "results/{profile}/logs/pose/joints.txt",
    benchmark:
        "results/{profile}/benchmarks/pose/joints.tsv"
    resources:
        gpu=1,
        mem_mb=8000,
        runtime=720,
    params:
        annotations=f"{RAW}/coco",
        images=f"{RAW}/images",
        seed=CHOSEN.detector_seed,
        out=subpath(output.run, parent=True),
    shell:
        "rmlr joints --settings {input.settings} --annotations {params.annotations} --images {params.images}"
        " --seed {params.seed} --out {params.out} &> {log}"


rule given_pose:
    input:
        pose_weights,
    output:
        "results/{profile}/pose/given.txt",
    log:
        "results/{profile}/logs/pose/given.txt",
    localrule: True
    params:
        weights=CHOSEN.pose.weights if CHOSEN.pose else None,
    shell:
        "(sha256sum {params.weights} > {output}.part && mv {output}.part {output}) 2> {log}"


rule pose:
    input:
        images_mark,
        pose_weights,
        settings="results/{profile}/settings/pose/{dataset}/{backbone}/{split}.yaml",
        annotations="results/{profile}/{dataset}/prepare/run.json",
        features="results/{profile}/{dataset}/features/{backbone}/{split}/run.json",
    output:
        "results/{profile}/pose/{dataset}/{backbone}/{split}/index.json",
        "results/{profile}/pose/{dataset}/{backbone}/{split}/settings.yaml",
        run="results/{profile}/pose/{dataset}/{backbone}/{split}/run.json",
    log:
        "results/{profile}/logs/pose/{dataset}/{backbone}/{split}.txt",
    benchmark:
        "results/{profile}/benchmarks/pose/{dataset}/{backbone}/{split}.tsv"
    threads: 2
    resources:
        gpu=1,
        mem_mb=16000,
        runtime=720,
    params:
        annotations=subpath(input.annotations, parent=True),
        images=f"{RAW}/images",
        features=subpath(input.features, ancestor=2),
        joints=f" --joints {RESULTS}/pose/joints" if TRAINS_JOINTS else "",
        out=subpath(output.run, parent=True),
    shell:
        "rmlr pose --settings {input.settings} --annotations {params.annotations} --split {wildcards.split}"
        " --images {params.images} --features {params.features} --out {params.out}{params.joints} &> {log}"


for backbone in CHOSEN.backbones:

    rule:
        name:
            f"milestone_detector_{backbone}"
        input:
            {f"{detector_of(dataset, backbone)}/run.json" for dataset in CHOSEN.train},
        localrule: True

    for dataset in CHOSEN.train:

        rule:
            name:
                f"milestone_features_{dataset}_{backbone}"
            input:
                [f"{RESULTS}/{dataset}/features/{backbone}/{split}/run.json" for split in CHOSEN.cached_views(dataset)],
            localrule: True


POSE_RUNS = [run for run in ALL_RUNS.values() if STUDY.variants[run.variant].pose]


rule milestone_pose:
    input:
        [f"{RESULTS}/pose/{'joints/run.json' if TRAINS_JOINTS else 'given.txt'}"] if POSE_RUNS else [],
        [
            f"{RESULTS}/pose/{run.dataset}/{run.backbone}/{split}/run.json"
            for run in POSE_RUNS
            for split in CHOSEN.cached_views(run.dataset)
        ],
    localrule: True
