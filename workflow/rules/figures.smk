"""The paper's figures, measured here, with the underlying numbers."""


rule separation:
    input:
        INPUTS("separation/{group}/{run}/{seed}"),
        settings="results/{profile}/settings/separation/{group}/{run}/{seed}.yaml",
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
        gpu=gpus,
        mem_mb=by_data(3000, 16000),
        runtime=by_data(60, 240),
    params:
        read=GRAPH.flags("separation/{group}/{run}/{seed}"),
        out=subpath(output.run, parent=True),
    shell:
        "rmlr separation --settings {input.settings} {params.read} --out {params.out} &> {log}"


for kind in sorted({shown.kind for shown in GRAPH.figures.values()}):

    rule:
        name:
            f"figure_{kind}"
        input:
            INPUTS("figures/{figure}"),
            settings="results/{profile}/settings/figures/{figure}.yaml",
        output:
            "results/{profile}/figures/{figure}/figure.svg",
            "results/{profile}/figures/{figure}/figure.csv",
            "results/{profile}/figures/{figure}/settings.yaml",
            png=report(
                "results/{profile}/figures/{figure}/figure.png",
                caption=f"../report/{kind}.rst",
                category="3 Figures",
                subcategory=lambda wildcards: GRAPH.figure_theme(wildcards.figure),
                labels=lambda wildcards: GRAPH.figure_labels(wildcards.figure),
            ),
            run="results/{profile}/figures/{figure}/run.json",
        log:
            "results/{profile}/logs/figures/{figure}.txt",
        benchmark:
            "results/{profile}/benchmarks/figures/{figure}.tsv"
        wildcard_constraints:
            figure="|".join(name for name, shown in GRAPH.figures.items() if shown.kind == kind),
        resources:
            mem_mb=4000,
            runtime=30,
        params:
            read=GRAPH.flags("figures/{figure}"),
            out=subpath(output.run, parent=True),
            caption=lambda wildcards: GRAPH.figure_caption(wildcards.figure),
        shell:
            "rmlr figure --settings {input.settings} {params.read} --out {params.out} &> {log}"


rule milestone_figures:
    input:
        [f"{RESULTS}/figures/{name}/figure.png" for name in GRAPH.figures],
    localrule: True
