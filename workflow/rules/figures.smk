"""The paper's figures, measured here, with the numbers behind each."""


rule figure:
    input:
        images_mark,
        settings="results/{profile}/settings/figures/{figure}.yaml",
        annotations=figure_annotations,
        triplets=figure_input("predict/triplets.parquet"),
    output:
        report(
            "results/{profile}/figures/{figure}/figure.png",
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
        "results/{profile}/figures/{figure}/settings.yaml",
        run="results/{profile}/figures/{figure}/run.json",
    log:
        "results/{profile}/logs/figures/{figure}.txt",
    benchmark:
        "results/{profile}/benchmarks/figures/{figure}.tsv"
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        annotations=subpath(input.annotations, parent=True),
        images=f"{RAW}/images",
        out=subpath(output.run, parent=True),
    shell:
        "rmlr figure --settings {input.settings} --annotations {params.annotations} --images {params.images}"
        " --triplets {input.triplets} --out {params.out} &> {log}"


rule milestone_figures:
    input:
        [f"{RESULTS}/figures/{name}/figure.png" for name in STUDY.figures],
    localrule: True
