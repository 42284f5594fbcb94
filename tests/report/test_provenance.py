"""The pages on how the study was made."""

from rmlr.report.provenance import times_page


def test_times_are_summed_by_stage(tmp_path):
    for seed, seconds in enumerate((60, 65.4)):
        file = tmp_path / f"runs/shared/rmlr/{seed}/train.tsv"
        file.parent.mkdir(parents=True)
        file.write_text(f"s\th:m:s\tmax_rss\tcpu_time\n{seconds}\t-\t{100 + seed}\tNA\n")
    views = tmp_path / "vcoco/features/base/train.tsv"
    views.parent.mkdir(parents=True)
    views.write_text("s\tmax_rss\tcpu_time\n7.0\t1\t1\n")
    page = times_page(tmp_path)
    assert '<td class="name short">train</td><td class="figure">2</td>' in page
    assert '<td class="name short">features</td><td class="figure">1</td>' in page
    assert "2 min 05 s" in page
    assert "Nothing was timed here" in times_page(tmp_path / "nothing")
