"""The paper's tables next to ours, and which claims of the paper hold."""


rule cost:
    input:
        INPUTS("cost"),
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
    threads: lambda wildcards: workflow.cores if workflow.local_exec else 2  # alone, since it measures time
    resources:
        gpu=gpus,
        mem_mb=by_data(4000, 8000),
        runtime=60,
    params:
        out=subpath(output.run, parent=True),
    shell:
        "rmlr cost --settings {input.settings} --paper {input.paper} --out {params.out} &> {log}"


rule table:
    input:
        INPUTS("tables/{table}"),
        settings="results/{profile}/settings/tables/{table}.yaml",
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
            labels=lambda wildcards: GRAPH.table_labels(wildcards.table),
        ),
        run="results/{profile}/tables/{table}/run.json",
    log:
        "results/{profile}/logs/tables/{table}.txt",
    benchmark:
        "results/{profile}/benchmarks/tables/{table}.tsv"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        read=GRAPH.flags("tables/{table}"),
        out=subpath(output.run, parent=True),
    shell:
        "rmlr table --settings {input.settings} {params.read} --out {params.out} &> {log}"


for name in [*GRAPH.tables, "statement"]:

    rule:
        name:
            f"copy_{name}"
        input:
            WANTED.copied(name),
            marker=GRAPH.marker(name),
        output:
            GRAPH.copies(name),
        log:
            f"{RESULTS}/logs/copies/{name}.txt",
        localrule: True
        params:
            made=GRAPH.made(name),
            folder=subpath(output[0], parent=True),
        shell:
            "cp {params.made} {params.folder} &> {log}"

    rule:
        name:
            f"milestone_{name}" if name == "statement" else name
        input:
            GRAPH.copies(name),
        localrule: True


if GRAPH.profile != GRAPH.study.profile:

    rule of_another_profile:
        input:
            GRAPH.refuse,
        output:
            "results/{place}",
        wildcard_constraints:
            place="[^/]+",
        localrule: True


rule statement:
    input:
        INPUTS("statement"),
        settings="results/{profile}/settings/statement.yaml",
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
        mem_mb=by_data(3000, 8000),
        runtime=by_data(60, 120),
    params:
        results=subpath(output.run, ancestor=2),
        out=subpath(output.run, parent=True),
    shell:
        "rmlr statement --settings {input.settings} --results {params.results} --paper paper"
        " --out {params.out} &> {log}"
