"""Each caller gets its own answer, for any number of callers in a batch."""

import numpy as np
import pytest

import samples
from concurrently import infer_all


@pytest.mark.parametrize("model", ["echo_fp32", "slow"])
def test_two_hundred_callers_at_once_each_get_their_own_answer(address, model):
    requests = [np.array([[n, n * n, -n]], dtype=np.float32) for n in range(200)]
    for sent, received in zip(requests, infer_all(address, model, requests), strict=True):
        assert samples.same(received, sent)


def test_callers_with_differing_shapes_each_get_their_own_answer(address):
    requests = [np.full([1 + n % 5, 1 + n % 7], n, dtype=np.float32) for n in range(200)]
    for sent, received in zip(requests, infer_all(address, "echo_fp32", requests), strict=True):
        assert samples.same(received, sent)


def test_b32_a_thousand_callers_with_the_same_id_each_get_their_own_answer(address):
    requests = [np.array([[n, n + 0.5]], dtype=np.float32) for n in range(1000)]
    answers = infer_all(address, "echo_fp32", requests, request_id="the same")
    for sent, received in zip(requests, answers, strict=True):
        assert samples.same(received, sent)
