"""From the drawn world, or real data in the same layout, to our records and the text embeddings."""


rule draw:
    input:
        INPUTS("world/draw"),
        settings="results/{profile}/settings/world/draw.yaml",
    output:
        "results/{profile}/world/draw/settings.yaml",
        run="results/{profile}/world/draw/run.json",
    log:
        "results/{profile}/logs/world/draw.txt",
    benchmark:
        "results/{profile}/benchmarks/world/draw.tsv"
    threads: 2
    resources:
        mem_mb=3000,
        runtime=30,
    params:
        out=subpath(output.run, parent=True),
    shell:
        "rmlr draw --settings {input.settings} --out {params.out} &> {log}"


rule raw:
    input:
        GRAPH.receipts(lambda source: bool(source.serves)),
        [file for dataset in ("vcoco", "hicodet") for file in GRAPH.real_files(dataset)],
    output:
        "results/{profile}/world/raw.txt",
    log:
        "results/{profile}/logs/world/raw.txt",
    localrule: True
    params:
        raw=GRAPH.raw,
    shell:
        "(find -L {params.raw} -name '.?*' -prune -o -type f -printf '%s %P\\n' | sort -k 2 > {output}.part && mv {output}.part {output}) 2> {log}"


rule prepare:
    input:
        INPUTS("{dataset}/prepare"),
        settings="results/{profile}/settings/{dataset}/prepare.yaml",
    output:
        "results/{profile}/{dataset}/prepare/vocabulary.json",
        expand("results/{{profile}}/{{dataset}}/prepare/{split}.json", split=["train", "val", "test"]),
        "results/{profile}/{dataset}/prepare/settings.yaml",
        run="results/{profile}/{dataset}/prepare/run.json",
    log:
        "results/{profile}/logs/{dataset}/prepare.txt",
    benchmark:
        "results/{profile}/benchmarks/{dataset}/prepare.tsv"
    resources:
        mem_mb=by_data(2000, 8000),
        runtime=by_data(10, 30),
    params:
        read=GRAPH.flags("{dataset}/prepare"),
        out=subpath(output.run, parent=True),
    shell:
        "rmlr prepare --settings {input.settings} {params.read} --out {params.out} &> {log}"


rule text:
    input:
        INPUTS("{dataset}/text/{encoder}{fold}"),
        settings="results/{profile}/settings/{dataset}/text/{encoder}{fold}.yaml",
    output:
        "results/{profile}/{dataset}/text/{encoder}{fold}/embeddings.safetensors",
        "results/{profile}/{dataset}/text/{encoder}{fold}/index.json",
        "results/{profile}/{dataset}/text/{encoder}{fold}/settings.yaml",
        run="results/{profile}/{dataset}/text/{encoder}{fold}/run.json",
    log:
        "results/{profile}/logs/{dataset}/text/{encoder}{fold}.txt",
    benchmark:
        "results/{profile}/benchmarks/{dataset}/text/{encoder}{fold}.tsv"
    resources:
        gpu=gpus,
        mem_mb=by_data(2000, 8000),
        runtime=by_data(30, 60),
    params:
        read=GRAPH.flags("{dataset}/text/{encoder}{fold}"),
        out=subpath(output.run, parent=True),
    shell:
        "rmlr text --settings {input.settings} {params.read} --out {params.out} &> {log}"


rule milestone_data:
    input:
        f"{RESULTS}/world/{'draw/run.json' if CHOSEN.world else 'raw.txt'}",
        [f"{RESULTS}/{dataset}/prepare/run.json" for dataset in CHOSEN.train],
    localrule: True


for dataset in CHOSEN.train:

    rule:
        name:
            f"milestone_text_{dataset}"
        input:
            {
                f"{RESULTS}/{dataset}/text/{run.encoder}{fold}/run.json"
                for run in GRAPH.runs.values()
                for fold in CHOSEN.fold_names
                if run.dataset == dataset
            },
        localrule: True
