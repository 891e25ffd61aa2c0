# SPDX-License-Identifier: Apache-2.0
"""ONNX's own backend tests through the engine ABI: the cases that pass must be those that Python's onnxruntime passes, and
where it departs from ONNX's stored answer, ours departs to the same bits."""
import os

import pytest

import cases


@pytest.fixture(scope="module")
def all_cases(tmp_path_factory):
    if not os.path.exists(cases.ARCHIVE):
        pytest.skip(f"SPILLWAY_ASSETS has no models/onnx_backend_tests.tar.gz ({cases.ASSETS})")
    return cases.extract(tmp_path_factory.mktemp("conformance"))


def test_the_cases_that_pass_are_onnxruntimes_own(all_cases, tmp_path):
    run, skipped = [], {}
    for case in all_cases:
        name = os.path.basename(case)
        inputs, outputs = cases.stored(case, "input"), cases.stored(case, "output")
        if name.startswith(cases.RANDOM) and "zero_ratio" not in name:
            skipped[name] = "random by definition"
        elif not outputs or any(a is None for a in inputs + outputs):
            skipped[name] = "a type that does not cross the ABI"
        else:
            run.append((name, f"{case}/model.onnx", inputs, outputs))
    answers = cases.engine_answers([(model, inputs) for _, model, inputs, _ in run], tmp_path)
    passed, refused, wrong = [], [], []
    for (name, model, inputs, want), got in zip(run, answers):
        if cases.right(got, want):
            passed.append(name)
            continue
        own = cases.own_answer(model, inputs)
        if isinstance(own, Exception) and isinstance(got, Exception):
            refused.append(name)
        elif isinstance(own, Exception) or isinstance(got, Exception) or not all(cases.same(g, o) for g, o in zip(got, own)):
            wrong.append(f"{name}: {got if isinstance(got, Exception) else 'differs'}; onnxruntime: {repr(own)[:200]}")
    departs = len(run) - len(passed) - len(refused) - len(wrong)
    print(f"{len(passed)} cases equal, {len(refused)} that onnxruntime refuses too, {departs} where it departs to the same bits")
    for name, reason in skipped.items():
        print(f"skipped {name}: {reason}")
    assert not wrong, "\n".join(wrong)
    assert len(passed) > len(all_cases) * 2 // 3 and departs < len(all_cases) // 50
