"""What of a method decides its choice."""

import pytest

from mig_selector.selection.method import method
from mig_selector.selection.registry import METHODS, load_method


def test_another_version_of_a_method_is_another_choice():
    def choose(pool, budget):
        return range(budget)

    first, same, second = (
        load_method(method(needs=[], **more)(choose)).identity({}) for more in ({}, {"version": 1}, {"version": 2})
    )
    assert first == same
    assert first != second
    assert first == {**second, "version": 1}


@pytest.mark.parametrize("name", METHODS)
def test_methods_that_choose_otherwise_than_they_once_did_say_so(name):
    method_ = load_method(name)
    options = {key.option: key.default for key in method_.keys.values()}
    assert method_.identity(options)["version"] == {"car": 2, "zip": 2}.get(name, 1)
