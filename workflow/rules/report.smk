"""The paper's tables beside ours, and what of the paper stands."""


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
        html=report(
            "results/{profile}/tables/{table}/{table}.html",
            caption="../report/table.rst",
            category="2 Tables",
            labels=table_labels,
        ),
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
        csv="results/{table}.csv",
        md="results/{table}.md",
        tex="results/{table}.tex",
    log:
        f"{RESULTS}/logs/copies/{{table}}.txt",
    localrule: True
    params:
        made=subpath(input.csv, strip_suffix=".csv"),
    shell:
        "(for kind in csv md tex; do cp {params.made}.$kind results/{wildcards.table}.$kind; done) &> {log}"


rule statement:
    input:
        statement_runs,
        statement_annotations,
        [f"{RESULTS}/tables/{table}/run.json" for table in STUDY.tables],  # so that the times are of
        [f"{RESULTS}/figures/{figure}/run.json" for figure in FIGURES],  # all that there is to time
        settings="results/{profile}/settings/statement.yaml",
        paper=ancient([f"paper/{table}.csv" for table in STUDY.tables]),  # as in rule table
    output:
        "results/{profile}/statement/statement.md",
        "results/{profile}/statement/brief.html",
        "results/{profile}/statement/statement.csv",
        "results/{profile}/statement/orders.csv",
        "results/{profile}/statement/metrics.json",
        "results/{profile}/statement/settings.yaml",
        statement=report(
            "results/{profile}/statement/statement.html",
            caption="../report/statement.rst",
            category="1 What stands",
            labels={"page": "Statement"},
        ),
        used=report(
            "results/{profile}/statement/settings.html",
            caption="../report/settings.rst",
            category="4 How it was made",
            labels={"page": "Settings"},
        ),
        times=report(
            "results/{profile}/statement/times.html",
            caption="../report/times.rst",
            category="4 How it was made",
            labels={"page": "Times"},
        ),
        run="results/{profile}/statement/run.json",
    log:
        "results/{profile}/logs/statement.txt",
    benchmark:
        "results/{profile}/benchmarks/statement.tsv"
    resources:
        mem_mb=8000,
        runtime=120,
    params:
        results=subpath(output.run, ancestor=2),
        paper=lambda wildcards, input: Path(input.paper[0]).parent,
        out=subpath(output.run, parent=True),
    shell:
        "rmlr statement --settings {input.settings} --results {params.results} --paper {params.paper}"
        " --out {params.out} &> {log}"


rule copy_statement:
    input:
        md=f"{RESULTS}/statement/statement.md",
        marker=copy_marker("statement"),
    output:
        "results/statement.md",
    log:
        f"{RESULTS}/logs/copies/statement.txt",
    localrule: True
    shell:
        "cp {input.md} {output} &> {log}"
