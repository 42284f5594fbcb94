"""A DETR, trained and frozen, and its features of every picture; likewise for a pose network."""


rule detector:
    input:
        INPUTS("detector/{detector}"),
        settings="results/{profile}/settings/detector/{detector}.yaml",
    output:
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
        gpu=gpus,
        mem_mb=by_data(4000, 16000),
        runtime=by_data(120, 2880),
    params:
        read=GRAPH.flags("detector/{detector}"),
        seed=CHOSEN.detector_seed,
        out=subpath(output.run, parent=True),
    shell:
        "rmlr detector --settings {input.settings} {params.read} --seed {params.seed} --out {params.out} &> {log}"


rule features:
    input:
        INPUTS("{dataset}/features/{backbone}/{split}"),
        settings="results/{profile}/settings/{dataset}/features/{backbone}/{split}.yaml",
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
        gpu=gpus,
        mem_mb=by_data(4000, 16000),
        runtime=by_data(60, 240, 720),
    params:
        read=GRAPH.flags("{dataset}/features/{backbone}/{split}"),
        out=subpath(output.run, parent=True),
    shell:
        "rmlr features --settings {input.settings} {params.read} --out {params.out} &> {log}"


rule joints:
    input:
        INPUTS("pose/joints"),
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
        gpu=gpus,
        mem_mb=by_data(3000, 8000),
        runtime=by_data(120, 720),
    params:
        read=GRAPH.flags("pose/joints"),
        seed=CHOSEN.detector_seed,
        out=subpath(output.run, parent=True),
    shell:
        "rmlr joints --settings {input.settings} {params.read} --seed {params.seed} --out {params.out} &> {log}"


rule given_pose:
    input:
        GRAPH.pose_weights(),
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
        INPUTS("pose/{dataset}/{backbone}/{split}"),
        settings="results/{profile}/settings/pose/{dataset}/{backbone}/{split}.yaml",
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
        gpu=gpus,
        mem_mb=by_data(4000, 16000),
        runtime=by_data(60, 240, 720),
    params:
        read=GRAPH.flags("pose/{dataset}/{backbone}/{split}"),
        out=subpath(output.run, parent=True),
    shell:
        "rmlr pose --settings {input.settings} {params.read} --out {params.out} &> {log}"


for backbone in CHOSEN.backbones:

    rule:
        name:
            f"milestone_detector_{backbone}"
        input:
            {f"{RESULTS}/{GRAPH.detector_of(dataset, backbone)}/run.json" for dataset in CHOSEN.train},
        localrule: True

    for dataset in CHOSEN.train:

        rule:
            name:
                f"milestone_features_{dataset}_{backbone}"
            input:
                [f"{RESULTS}/{dataset}/features/{backbone}/{split}/run.json" for split in CHOSEN.cached_views(dataset)],
            localrule: True


rule milestone_pose:
    input:
        [f"{RESULTS}/pose/{'joints/run.json' if GRAPH.trains_joints else 'given.txt'}"] if GRAPH.pose_runs() else [],
        [
            f"{RESULTS}/pose/{run.dataset}/{run.backbone}/{split}/run.json"
            for run in GRAPH.pose_runs()
            for split in CHOSEN.cached_views(run.dataset)
        ],
    localrule: True
