"""The paper's tables beside ours."""


rule table:
    input:
        table_metrics,
        settings="results/{profile}/settings/tables/{table}.yaml",
        paper=ancient("paper/{table}.csv"),  # its content counts, as part of the settings' code digest
    output:
        "results/{profile}/tables/{table}/{table}.csv",
        "results/{profile}/tables/{table}/{table}.md",
        "results/{profile}/tables/{table}/metrics.json",
        "results/{profile}/tables/{table}/settings.yaml",
        run="results/{profile}/tables/{table}/run.json",
    log:
        "results/{profile}/logs/tables/{table}.txt",
    benchmark:
        "results/{profile}/benchmarks/tables/{table}.tsv"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        runs=f"{RESULTS}/runs",
        out=subpath(output.run, parent=True),
    shell:
        "rmlr table --settings {input.settings} --runs {params.runs} --paper {input.paper} --out {params.out} &> {log}"


rule copy:
    input:
        csv=f"{RESULTS}/tables/{{table}}/{{table}}.csv",
        md=f"{RESULTS}/tables/{{table}}/{{table}}.md",
        marker=copy_marker("{table}"),
    output:
        csv=report(
            "results/{table}.csv",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
        md="results/{table}.md",
    log:
        f"{RESULTS}/logs/copies/{{table}}.txt",
    localrule: True
    shell:
        "(cp {input.csv} {output.csv} && cp {input.md} {output.md}) &> {log}"
