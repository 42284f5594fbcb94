"""Download of real data and weights; each has a receipt, which is the input of the rules that read it."""


rule fetch:
    input:
        settings=GRAPH.fetch_settings("{source}"),
    output:
        receipt=f"{GRAPH.raw}/receipts/{{source}}.ok",
    log:
        f"{RESULTS}/logs/fetch/{{source}}.txt",
    wildcard_constraints:
        source="[a-z0-9-]+",
    retries: 2
    localrule: True
    resources:
        download=1,
    params:
        raw=subpath(output.receipt, ancestor=2),
        sources=f" --sources {config['sources']}" if "sources" in config else "",
        have=f" --have {config['have']}" if "have" in config else "",
    shell:
        "HF_HUB_OFFLINE=0 rmlr fetch {wildcards.source} --raw {params.raw}{params.sources}{params.have} &> {log}"


rule receipts:
    input:
        GRAPH.receipts(lambda source: True),
    output:
        "results/{profile}/fetch/receipts.txt",
    log:
        "results/{profile}/logs/fetch.txt",
    localrule: True
    shell:
        "(echo '# what profile {wildcards.profile} reads from outside' | cat - {input} > {output}.part && mv {output}.part {output}) 2> {log}"


rule milestone_fetch:
    input:
        f"{RESULTS}/fetch/receipts.txt",
    localrule: True
