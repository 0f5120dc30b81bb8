"""The model index, the metafiles, the configs, their READMEs and the published tables agree.

A metafile follows the OpenMMLab model index. Each of its results states its ``Source``: a file
below benchmarks/results, for what was measured with this code, or ``paper``. A result of the paper
says where it stands, and has to be the number that stands there::

    Results:
      - Task: Linear Evaluation
        Dataset: ImageNet-100
        Metrics: {Top 1 Accuracy: 68.22}
        Source: paper
        Published:
          Table: table1_linear.csv                      # below mmsalmask/downstream/published
          Row: {framework: MoCov2, method: baseline}    # selects exactly one row
          Columns: {Top 1 Accuracy: imagenet100_top1}   # of each metric
"""

from pathlib import Path

import pytest
import yaml
from recipes import published

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
INDEX = yaml.safe_load((ROOT / "model-index.yml").read_text())["Import"]
METAFILES = sorted(path.relative_to(ROOT).as_posix() for path in CONFIGS.rglob("metafile.yml"))
every_metafile = pytest.mark.parametrize("metafile", METAFILES)


def models(metafile: str) -> list[dict]:
    return yaml.safe_load((ROOT / metafile).read_text())["Models"]


def recipes() -> set[str]:
    """Configs to run: all but the building blocks."""
    paths = (path.relative_to(ROOT) for path in CONFIGS.rglob("*.py"))
    return {path.as_posix() for path in paths if "_base_" not in path.parts}


def results(metafile: str) -> list[dict]:
    return [result for model in models(metafile) for result in model.get("Results") or []]


def test_there_are_recipes_metafiles_and_published_numbers_to_check():
    assert recipes()
    assert METAFILES
    assert any(result["Source"] == "paper" for name in METAFILES for result in results(name))


def test_model_index_names_every_metafile_once():
    assert sorted(INDEX) == METAFILES


def test_every_recipe_is_in_the_metafile_of_its_folder_and_the_reverse():
    entries = [(name, model["Config"]) for name in METAFILES for model in models(name)]
    assert {config for _, config in entries} == recipes()
    for metafile, config in entries:
        assert Path(config).parent == Path(metafile).parent


def test_model_names_are_the_names_of_their_configs():
    for metafile in METAFILES:
        for model in models(metafile):
            assert model["Name"] == Path(model["Config"]).stem


@every_metafile
def test_models_belong_to_a_collection_their_metafile_declares(metafile):
    content = yaml.safe_load((ROOT / metafile).read_text())
    collections = {collection["Name"]: collection for collection in content["Collections"]}
    assert {model["In Collection"] for model in content["Models"]} == set(collections)
    for collection in collections.values():
        assert collection["README"] == Path(metafile).with_name("README.md").as_posix()


@every_metafile
def test_readme_of_a_folder_names_each_of_its_configs(metafile):
    readme = (ROOT / metafile).with_name("README.md").read_text()
    missing = [model["Name"] for model in models(metafile) if model["Name"] not in readme]
    assert missing == []


@every_metafile
def test_every_result_states_a_source_that_exists(metafile):
    for result in results(metafile):
        source = result["Source"]
        assert source == "paper" or (ROOT / "benchmarks/results" / source).is_file(), result


@every_metafile
def test_results_of_the_paper_are_the_published_numbers(metafile):
    for result in results(metafile):
        if result["Source"] != "paper":
            continue
        numbers = published(result["Published"]).items()
        assert result["Metrics"] == {metric: float(number) for metric, number in numbers}, result


def test_model_index_parses_with_the_model_index_package():
    modelindex = pytest.importorskip("modelindex")
    index = modelindex.load(str(ROOT / "model-index.yml"))
    index.build_models_with_collections()
    parsed = {model.name for model in index.models}
    assert parsed == {model["Name"] for name in METAFILES for model in models(name)}
    # It looks for a README beside the metafile; the family, and a test above, from the top folder.
    complaints = index.check(silent=True) or []
    assert [line for line in complaints if "README" not in line] == []
