"""The paper's tables beside ours."""


rule cost:
    input:
        settings="results/{profile}/settings/cost.yaml",
        paper=ancient("paper/table4.csv"),
    output:
        "results/{profile}/cost/cost.csv",
        "results/{profile}/cost/metrics.json",
        "results/{profile}/cost/settings.yaml",
        run="results/{profile}/cost/run.json",
    log:
        "results/{profile}/logs/cost.txt",
    benchmark:
        "results/{profile}/benchmarks/cost.tsv"
    threads: workflow.cores  # alone: it looks at the clock
    resources:
        gpu=1,
        mem_mb=8000,
        runtime=60,
    params:
        out=subpath(output.run, parent=True),
    shell:
        "rmlr cost --settings {input.settings} --paper {input.paper} --out {params.out} &> {log}"


rule table:
    input:
        table_metrics,
        table_cost,
        settings="results/{profile}/settings/tables/{table}.yaml",
        paper=ancient("paper/{table}.csv"),  # its content counts, as part of the settings' code digest
        notes=ancient("paper/notes.yaml"),
    output:
        "results/{profile}/tables/{table}/{table}.csv",
        "results/{profile}/tables/{table}/{table}.md",
        "results/{profile}/tables/{table}/{table}.tex",
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
        cost=cost_flag,
        out=subpath(output.run, parent=True),
    shell:
        "rmlr table --settings {input.settings} --runs {params.runs} --paper {input.paper} --notes {input.notes}"
        " --out {params.out}{params.cost} &> {log}"


rule copy:
    input:
        csv=f"{RESULTS}/tables/{{table}}/{{table}}.csv",
        md=f"{RESULTS}/tables/{{table}}/{{table}}.md",
        tex=f"{RESULTS}/tables/{{table}}/{{table}}.tex",
        marker=copy_marker("{table}"),
    output:
        csv=report(
            "results/{table}.csv",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
        md="results/{table}.md",
        tex="results/{table}.tex",
    log:
        f"{RESULTS}/logs/copies/{{table}}.txt",
    localrule: True
    params:
        made=f"{RESULTS}/tables/{{table}}/{{table}}",
    shell:
        "(for kind in csv md tex; do cp {params.made}.$kind results/{wildcards.table}.$kind; done) &> {log}"
