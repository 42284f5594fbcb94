"""The paper's figures, measured here, with the numbers behind each."""


rule separation:
    input:
        settings="results/{profile}/settings/separation/{group}/{run}/{seed}.yaml",
        annotations=run_annotations,
        features=predict_views,
        weights="results/{profile}/runs/{group}/{run}/{seed}/train/run.json",
    output:
        "results/{profile}/separation/{group}/{run}/{seed}/interactions.parquet",
        "results/{profile}/separation/{group}/{run}/{seed}/pairs.parquet",
        "results/{profile}/separation/{group}/{run}/{seed}/separation.csv",
        "results/{profile}/separation/{group}/{run}/{seed}/metrics.json",
        "results/{profile}/separation/{group}/{run}/{seed}/settings.yaml",
        run="results/{profile}/separation/{group}/{run}/{seed}/run.json",
    log:
        "results/{profile}/logs/separation/{group}/{run}/{seed}.txt",
    benchmark:
        "results/{profile}/benchmarks/separation/{group}/{run}/{seed}.tsv"
    resources:
        gpu=1,
        mem_mb=16000,
        runtime=240,
    params:
        annotations=subpath(input.annotations, parent=True),
        features=run_views,
        weights=subpath(input.weights, parent=True),
        out=subpath(output.run, parent=True),
    shell:
        "rmlr separation --settings {input.settings} --annotations {params.annotations} --features {params.features}"
        " --weights {params.weights} --out {params.out} &> {log}"


for kind in sorted({shown.kind for shown in FIGURES.values()}):

    rule:
        name:
            f"figure_{kind}"
        input:
            images_mark,
            figure_files,
            settings="results/{profile}/settings/figures/{figure}.yaml",
            annotations=figure_annotations,
        output:
            "results/{profile}/figures/{figure}/figure.svg",
            "results/{profile}/figures/{figure}/figure.csv",
            "results/{profile}/figures/{figure}/settings.yaml",
            png=report(
                "results/{profile}/figures/{figure}/figure.png",
                caption=f"../report/{kind}.rst",
                category="3 Figures",
                subcategory=figure_theme,
                labels=figure_labels,
            ),
            run="results/{profile}/figures/{figure}/run.json",
        log:
            "results/{profile}/logs/figures/{figure}.txt",
        benchmark:
            "results/{profile}/benchmarks/figures/{figure}.tsv"
        wildcard_constraints:
            figure="|".join(name for name, shown in FIGURES.items() if shown.kind == kind),
        resources:
            mem_mb=4000,
            runtime=30,
        params:
            annotations=subpath(input.annotations, parent=True),
            images=f"{RAW}/images",
            results=subpath(output.run, ancestor=3),
            out=subpath(output.run, parent=True),
            caption=figure_caption,
        shell:
            "rmlr figure --settings {input.settings} --annotations {params.annotations} --images {params.images}"
            " --results {params.results} --out {params.out} &> {log}"


rule milestone_figures:
    input:
        [f"{RESULTS}/figures/{name}/figure.png" for name in FIGURES],
    localrule: True
