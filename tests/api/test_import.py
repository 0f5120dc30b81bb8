"""The package's public names: there at once, imported late, documented, typed."""

import inspect
import subprocess
import sys

import pytest

import mmsalmask as sm

PUBLIC = [name for name in sm.__all__ if name != "__version__"]


def test_importing_the_package_is_quick_and_imports_no_torch():
    code = (
        "import sys, time; start = time.perf_counter(); import mmsalmask; dir(mmsalmask);"
        "print(time.perf_counter() - start);"
        "print([name for name in ('torch', 'mmengine', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, imported = done.stdout.splitlines()
    assert imported == "[]"
    assert float(seconds) < 0.5


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_documented_and_typed(name):
    thing = getattr(sm, name)
    assert thing.__name__ == name
    assert inspect.getdoc(thing)
    assert name in dir(sm)
    if inspect.isfunction(thing):
        signature = inspect.signature(thing)
        assert signature.return_annotation is not inspect.Signature.empty
        for parameter in signature.parameters.values():
            assert parameter.annotation is not inspect.Parameter.empty
            assert parameter.name in thing.__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'pretrian'"):
        sm.pretrian  # noqa: B018
