"""Every seam with the outside: mmcv's operators, and how mmengine finds and marks configs.

The seams are finders on ``sys.meta_path``, so that nothing is imported before somebody asks for it:
installing them costs no import of torch, mmengine or mmcv, and needs none of them.
"""

import os
import sys
import warnings
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, version
from importlib.util import spec_from_file_location
from logging import DEBUG, INFO
from pathlib import Path
from types import ModuleType


def prepare_lookup(config_utils) -> None:
    """Name scopes, and read a library's metafiles once.

    For every ``_base_ = 'mmdet::…'`` mmengine reads all of mmdet's metafiles, a second's work.
    """
    # mmengine looks 'mmseg' up as 'mmsegmentation', which the OneDL line calls otherwise, and then
    # reports it as not installed; a name that is no distribution it looks up as a module.
    config_utils.MODULE2PACKAGE.update({"mmsalmask": "mmsalmask", "mmseg": "mmseg"})
    if not hasattr(config_utils.load, "cache_info"):
        config_utils.load = cache(config_utils.load)


def leave_own_configs_unmarked(config) -> None:
    """Let ``_base_ = 'mmsalmask::…'`` inherit as if the file lay beside the config.

    mmengine marks what comes from another package with that package's scope. Our configs name
    mmpretrain's parts without a prefix, which under the scope ``mmsalmask`` nobody would find.
    """
    marked = config.Config._get_cfg_path
    if getattr(marked, "leaves_own_unmarked", False):
        return

    def unmarked(cfg_path, filename):
        path, scope = marked(cfg_path, filename)
        return path, None if scope == "mmsalmask" else scope

    unmarked.leaves_own_unmarked = True
    config.Config._get_cfg_path = staticmethod(unmarked)


def unmark_collate_functions(runner) -> None:
    """Let a dataloader that a config inherits from another package be built.

    mmengine marks its ``collate_fn``, too, and then hands the mark on to the function.
    """
    build = runner.Runner.build_dataloader
    if getattr(build, "unmarks_collate_functions", False):
        return

    def build_unmarked(dataloader, *args, **options):
        collate = dataloader.get("collate_fn") if isinstance(dataloader, dict) else None
        if isinstance(collate, dict):
            unmarked = {key: value for key, value in collate.items() if key != "_scope_"}
            dataloader = {**dataloader, "collate_fn": unmarked}
        return build(dataloader, *args, **options)

    build_unmarked.unmarks_collate_functions = True
    runner.Runner.build_dataloader = staticmethod(build_unmarked)


def silence_pillow_backend(photometric) -> None:
    """mmcv warns about arguments that nobody gave, in every worker and at every colour jitter."""
    warnings.filterwarnings("ignore", message="Only use 'alpha' for pillow backend")


# What mmengine says of itself in every run.
_OWN_AFFAIRS = ('"FileClient" will be deprecated', '"HardDiskBackend" is the alias')


def print_no_own_affairs(logging) -> None:
    """mmengine warns of its own classes, and prints debugging: "Could not import OneDL"."""
    print_log = logging.print_log
    if getattr(print_log, "prints_no_own_affairs", False):
        return

    def print_others(msg, logger=None, level=INFO) -> None:
        debugging = logger is None and level <= DEBUG
        if not debugging and not str(msg).startswith(_OWN_AFFAIRS):
            print_log(msg, logger, level)

    print_others.prints_no_own_affairs = True
    logging.print_log = print_others


def leave_multimodal_models_out(dependency) -> None:
    """Beside transformers 5, mmpretrain's multimodal models fail at their import."""
    try:
        newest = int(version("transformers").split(".")[0])
    except PackageNotFoundError:
        return
    if newest >= 5:
        dependency.WITH_MULTIMODAL = False


def import_optimizers_quietly(dist) -> None:
    """mmengine imports torch's functional optimizers next, and torch 2.4 and 2.5 warn of them.

    They warn regardless of the filters, although nothing here uses these optimizers.
    """
    with warnings.catch_warnings(record=True), suppress(ImportError):
        import_module("torch.distributed.optim")


def format_texts_once(yapf_api) -> None:
    """mmengine formats a run's config text half a dozen times, for seconds each if it is long."""
    format_code, known = yapf_api.FormatCode, {}
    if getattr(format_code, "formats_once", False):
        return

    def format_once(source, *arguments, **options):
        key = repr((source, arguments, options))
        if key not in known:
            if len(known) > 10:
                known.clear()
            known[key] = format_code(source, *arguments, **options)
        return known[key]

    format_once.formats_once = True
    yapf_api.FormatCode = format_once
    config = sys.modules.get("mmengine.config.config")
    if hasattr(config, "FormatCode"):  # mmengine 0.10.7 has imported it by name
        config.FormatCode = format_once


EXTRA_NORM = "mmpretrain.models.utils.res_layer_extra_norm"


def leave_mmdet_alone(registry) -> None:
    """mmpretrain imports all of mmdet for one layer of its own, a third of the time to start.

    The layer, ``ResLayerExtraNorm`` of detectors, comes with mmdet (:func:`bring_extra_norm`).
    """
    if "mmdet.models" not in sys.modules:
        absent = ModuleType(EXTRA_NORM)
        absent.ResLayerExtraNorm = None  # as where mmdet is not installed
        sys.modules.setdefault(EXTRA_NORM, absent)


def bring_extra_norm(detectors) -> None:
    """Register what :func:`leave_mmdet_alone` has left out."""
    absent = sys.modules.get(EXTRA_NORM)
    if absent is not None and absent.ResLayerExtraNorm is None:
        del sys.modules[EXTRA_NORM]
        layer = import_module(EXTRA_NORM).ResLayerExtraNorm
        import_module("mmpretrain.models.utils").ResLayerExtraNorm = layer


AMENDMENTS = {
    "mmcv.image.photometric": silence_pillow_backend,
    "mmengine.config.utils": prepare_lookup,
    "mmengine.dist": import_optimizers_quietly,
    "mmengine.logging": print_no_own_affairs,
    "mmengine.config.config": leave_own_configs_unmarked,
    "mmpretrain.utils.dependency": leave_multimodal_models_out,
    "mmpretrain.registry": leave_mmdet_alone,
    "mmdet.models": bring_extra_norm,
    "mmengine.runner.runner": unmark_collate_functions,
    "yapf.yapflib.yapf_api": format_texts_once,
}


class OperatorFinder(MetaPathFinder):
    """Finds ``mmcv._ext`` in :mod:`mmsalmask.compat.mmcv_ext` when nobody else has found it."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != "mmcv._ext":
            return None
        return spec_from_file_location(fullname, Path(__file__).with_name("mmcv_ext.py"))


class AmendingFinder(MetaPathFinder):
    """Amends the modules of ``AMENDMENTS`` at the moment they are imported."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname not in AMENDMENTS:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None:
            execute = spec.loader.exec_module

            def execute_and_amend(module):
                execute(module)
                AMENDMENTS[fullname](module)

            spec.loader.exec_module = execute_and_amend
        return spec


def install() -> None:
    """Install all seams; idempotent, and without effect where mmcv or mmengine is absent."""
    # OpenMP's threads spin while they wait for each other. Where loader workers or another job
    # share the cores, that made a training step seven times slower; torch reads this at its import.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # mmdet says so at its import, to all who do not want it, and torch in every run on a CPU.
    warnings.filterwarnings("ignore", message="faster_coco_eval is not installed")
    warnings.filterwarnings("ignore", message="'pin_memory' argument is set as true but no")
    # Compared by name, because a reloaded package brings new classes of the same name.
    present = {type(finder).__qualname__ for finder in sys.meta_path}
    if OperatorFinder.__qualname__ not in present:
        sys.meta_path.append(OperatorFinder())  # last, so that compiled operators always win
    if AmendingFinder.__qualname__ not in present:
        sys.meta_path.insert(0, AmendingFinder())  # first, or the ordinary finder answers
    for name, amend in AMENDMENTS.items():
        if name in sys.modules:
            amend(sys.modules[name])
