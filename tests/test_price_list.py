"""The price list sets the paper's times beside the methods that they are of."""

import copy
import json
from pathlib import Path

import pretrain_cost
import pytest
import render

RESULTS = json.loads(
    (Path(render.ROOT) / "benchmarks" / "results" / "pretrain_cost_cpu.json").read_text()
)


def table(data: dict) -> dict[str, list[str]]:
    lines = render.price_rows(data).splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    return {name: cells for name, *cells in rows}


def test_the_published_time_of_adios_is_that_of_the_variant_with_one_slot():
    assert render.paper_ratio("ADIOS-s") == 1.82
    assert render.paper_ratio("ADIOS") is None
    data = copy.deepcopy(RESULTS)
    data["results"].pop("ADIOS-s", None)
    rows = table(data)
    assert rows["ADIOS-s"][:4] == ["–", "1.82", "–", "–"]
    assert rows["ADIOS"][1] == ""
    assert rows["ADIOS"][0] == f"{RESULTS['results']['ADIOS']['ratio']:.2f}"
    assert list(rows)[:4] == ["plain", "MSCN", "ADIOS-s", "ADIOS"]
    # Measured, it has its own figure.
    data["results"]["ADIOS-s"] = {**data["results"]["ADIOS"], "ratio": 1.9}
    assert table(data)["ADIOS-s"][:2] == ["1.90", "1.82"]


def test_the_price_list_measures_both_variants_by_configs_that_differ_in_the_slots_encoded():
    methods = pretrain_cost.methods()
    assert methods["ADIOS-s"][0] == "adios-s-mocov2"
    assert methods["ADIOS"][0] == "adios-mocov2"
    published = {name for name in methods if render.paper_ratio(name) is not None}
    assert {name.split(",")[0] for name in published} == set(render.published_cost())


@pytest.mark.parametrize(
    "name", ["mean, online, no hard negative", "low-pass, cached", "ADIOS-s, simultaneous"]
)
def test_rows_that_the_paper_does_not_have_have_no_published_time(name):
    assert render.paper_ratio(name) is None
