"""The distances of tensors, logits and answers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from blip2_export.verification.metrics import LogitsAgreement, TensorErrors, common_prefix, kl_divergence, margin


def test_a_nan_is_an_infinite_error() -> None:
    errors = TensorErrors()
    errors.add(np.array([[1.0, np.nan]]), np.array([[1.0, 2.0]]))
    assert (errors.max_abs, errors.min_cosine, errors.mean_cosine) == (math.inf, -1, -1)


def test_errors_gather_over_all_pairs() -> None:
    errors = TensorErrors()
    errors.add(np.array([[1.0, 0.0]]), np.array([[1.0, 0.5]]))
    errors.add(np.array([[0.0, 4.0]]), np.array([[0.0, 4.0]]))
    report = errors.report()
    assert (report["max_abs_error"], report["mean_abs_error"], report["relative_error"]) == (
        0.5,
        0.125,
        0.125,
    )
    assert report["min_cosine"] == pytest.approx(1 / math.sqrt(1.25))


def test_tensors_of_different_shape_are_not_broadcast() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        TensorErrors().add(np.zeros((2, 3)), np.zeros((1, 3)))


def test_divergence_is_zero_for_shifted_logits_and_known_otherwise() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.25]]))
    other = np.log(np.array([[0.25, 0.5, 0.25]]))
    np.testing.assert_allclose(kl_divergence(logits, logits + 3), [0], atol=1e-12)
    np.testing.assert_allclose(kl_divergence(logits, other), [0.25 * math.log(2)])


def test_top_1_agreement_counts_positions() -> None:
    agreement = LogitsAgreement()
    agreement.add(np.array([[1.0, 2, 0], [5, 2, 1]]), np.array([[1.0, 2, 0], [2, 5, 1]]))
    assert agreement.report()["top1_agreement"] == 0.5


def test_the_margin_is_the_closest_decision() -> None:
    assert margin(np.array([[1.0, 4.0, 2.5], [7.0, 0.0, 6.75]])) == 0.25


def test_the_common_prefix_ends_at_the_first_difference() -> None:
    assert common_prefix([1, 2, 3], [1, 2, 4]) == 2
    assert common_prefix([1, 2], [1, 2, 4]) == 2
