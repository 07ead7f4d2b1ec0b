"""Ground truths of programs: a wrong test specification is refused with the reason."""

import json

import pytest

from gopd_jax.rewards.spec import check_ground_truth, names_under_test

TESTS = {"tests": ["f(2) == 7"]}
ASSERTS = {"asserts": "assert f()"}


def functions(**changes):
    return {"functions": {"name": "f", "inputs": [[1]], "outputs": [1]} | changes}


def functions_without(key, **changes):
    cases = functions(**changes)["functions"]
    del cases[key]
    return {"functions": cases}


def script(inputs, outputs, **changes):
    return {"stdin_stdout": {"inputs": inputs, "outputs": outputs} | changes}


@pytest.mark.parametrize(
    "ground_truth, message",
    [
        ("f(2) == 7", "expected JSON"),
        ("[]", "list"),
        ({"entry_point": "f"}, "entry_point"),
        ({"test": ["f(2) == 7"]}, "test"),
        ({"tests": []}, "non-empty list"),
        ({"tests": "f(2) == 7"}, "non-empty list"),
        ({"tests": ["f(2) = 7"]}, r"f\(2\) = 7"),
        ({"asserts": "f(2) == 7"}, "expected source with an assert"),
        ({"asserts": "assert f(2 == 7"}, "Python source"),
        (TESTS | {"names": "f"}, "names 'f': expected a list of Python names"),
        ({"tests": ["isclose(f(2), 7)"]}, r"\['f', 'isclose'\] and do not define them: expected"),
        ({"asserts": "from os import *\nassert same(f())"}, r"\['f', 'same'\] and do not"),
        (TESTS | {"entry_point": "f()"}, "expected a Python name"),
        (script(["1"], []), "of one length"),
        (script(["1", "2"], ["1"]), "of one length"),
        ({"stdin_stdout": [["1"], ["1"]]}, "expected inputs and outputs"),
        (script(["1"], ["1"], tolerance=2), "tolerance in"),
        ({"check": "def check(candidate): assert candidate()"}, "and an entry_point"),
        ({"check": "assert f()", "entry_point": "f"}, r"def check\(candidate\)"),
        ({"check": "def check(c): pass", "entry_point": "f"}, "expected source with an assert"),
        (ASSERTS | {"prelude": "import"}, "prelude 'import': expected Python source"),
        (ASSERTS | {"seconds": 6}, "seconds 6: expected a number above 0, beside one of"),
        (script(["1"], ["1"]) | {"seconds": 0}, "seconds 0: expected a number above 0"),
        (ASSERTS | {"copies": 2}, "copies 2: expected true or false"),
        (functions_without("name"), "expected an object with name, inputs"),
        (functions(name="A.f"), "expected a Python name, or Solution.NAME"),
        (functions(inputs=[1]), "list of lists of arguments"),
        (functions(outputs=[1, 2]), "a list as long as inputs"),
        (functions_without("outputs"), "a list as long as inputs, or a reference"),
        (functions_without("outputs", reference="def g(): 1"), "expected source that defines f"),
        (
            functions(inputs="[[g()]]", outputs="[1]", literals=True),
            "expected a Python literal",
        ),
        (functions(compare="about"), "expected one of"),
        (functions(atol=-1), "expected a number >= 0"),
    ],
)
def test_bad_ground_truth(ground_truth, message):
    text = ground_truth if isinstance(ground_truth, str) else json.dumps(ground_truth)
    with pytest.raises(ValueError, match=message):
        check_ground_truth(text)


@pytest.mark.parametrize(
    "spec, names",
    [
        (TESTS, {"f"}),
        ({"tests": ["math.isclose(f(2), 7)", "abs(f(2)) == 7"]}, {"f"}),
        ({"tests": ["f(lambda x: x + 1, [i for i in 'ab']) == 3"]}, {"f"}),
        ({"asserts": "from math import *\nassert isclose(f(2), 7)"}, {"f"}),
        ({"asserts": "import os.path as p, re\nassert p.join(re.escape(f()))"}, {"f"}),
        ({"asserts": "def check(g):\n    assert g()\ncheck(f)"}, {"f"}),
        ({"asserts": "try:\n    f()\nexcept KeyError as e:\n    assert e"}, {"f"}),
        ({"tests": ["f(P(1)) == 1"], "names": ["P", "f"]}, {"f", "P"}),
        ({"tests": ["max(g(1)) == 1"], "entry_point": "max"}, {"max"}),
        ({"stdin_stdout": {}}, set()),
    ],
)
def test_which_names_are_looked_up_in_the_program(spec, names):
    assert names_under_test(spec) == names
