"""What every downstream task keeps to, whichever there are."""

import doctest

import pytest
from drawn import draw_example, setting

from mmsalmask.config import load_config
from mmsalmask.downstream import tables
from mmsalmask.downstream import task as tasks
from mmsalmask.downstream.report import published_tables
from mmsalmask.downstream.tables import PUBLISHED, read_table
from mmsalmask.downstream.task import Dataset, Task, known_datasets, registered

EACH = pytest.mark.parametrize("name", registered())


@EACH
def test_a_task_has_an_example_that_its_check_accepts(name, tmp_path):
    draw_example(name, tmp_path)
    shared = setting(tmp_path, schedule="small", train_per_class=5)
    found = [registered()[name](dataset, shared) for dataset in registered()[name].recipes]
    there = [task for task in found if task.root.is_dir()]
    assert there, f"draw_example of {name!r} draws none of its datasets where it looks for them"
    for task in there:
        task.prepare()
        assert task.counts["train_images"] > 0
        assert task.counts["test_images"] > 0


@EACH
@pytest.mark.parametrize(
    ("high_pass", "model"),
    [("true", "mmsalmask.MaskedSimCLR"), ("false", "mmsalmask.MaskedMoCo"), ("unknown", "unknown")],
)
def test_recipes_follow_filter_and_algorithm(name, high_pass, model, tmp_path):
    shared = setting(tmp_path, facts={"high_pass": high_pass, "model": model})
    for dataset in registered()[name].recipes:
        task = registered()[name](dataset, shared)
        assert task.recipe.is_file(), task.job
        assert ("-highpass" in task.recipe.name) == (high_pass == "true")
        if task.recipe.parent.name == "linear":
            assert task.recipe.name.startswith("simclr" if "SimCLR" in model else "mocov2")
        loader = load_config(str(task.recipe)).train_dataloader
        processes = int(task.recipe.stem.split("xb")[0].rpartition("_")[2])
        assert task.fit().train_dataloader.batch_size == loader.batch_size * processes


@EACH
def test_a_task_says_what_the_report_needs(name):
    task = registered()[name]
    assert task.heading
    assert task.recipes.keys() <= set(known_datasets().values())
    if task.published:
        assert task.published.columns.keys() <= published_tables()[task.heading].columns.keys()
        assert read_table(PUBLISHED / task.published.file, task.published.columns)


def test_a_task_registers_itself_and_its_name_is_its_own(monkeypatch):
    monkeypatch.setattr(tasks, "_REGISTERED", dict(tasks._REGISTERED))
    members = {"name": "toy", "heading": "Toys", "recipes": {Dataset("toys", "Toys", "t"): "x"}}
    toy = type("Toy", (Task,), members)
    assert registered()["toy"] is toy
    assert list(registered())[-1] == "toy", "after all that have a position"
    assert known_datasets()["toys"].folder == "t"
    with pytest.raises(TypeError, match="has a task 'knn': give another name"):
        type("Other", (Task,), {**members, "name": "knn"})


def test_a_task_without_a_test_file_fails_a_test_that_names_it(tmp_path):
    with pytest.raises(AssertionError, match=r"the task 'toy' needs .*test_toy_task\.py"):
        draw_example("toy", tmp_path)


def test_the_example_of_a_table_is_what_it_gives():
    found = doctest.testmod(tables)
    assert found.attempted
    assert not found.failed
