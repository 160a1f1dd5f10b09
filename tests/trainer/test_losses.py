import math

import pytest
import torch
from torch.testing import assert_close

from trainer.losses import clip, clip_unless_far

BOUNDS = {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": 3.0}


def loss_and_gradient(loss, ratio, advantage, **bounds):
    """Loss of one token, and its derivative by the log-probability."""
    new = torch.tensor([[ratio]]).log().requires_grad_()
    found = loss(new, torch.zeros(1, 1), torch.tensor([[advantage]]), torch.ones(1, 1), **bounds)
    found.sum().backward()
    return found.item(), new.grad.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.0, 1.0, -1.0, -1.0),  # more of what is good lowers the loss
        (1.0, -1.0, 1.0, 1.0),
        (1.27, 1.0, -1.27, -1.27),  # below 1 + clip_high: still pushed
        (1.5, 1.0, -1.28, 0.0),  # above: no longer
        (0.5, 1.0, -0.5, -0.5),  # the lower clip does not hold back what is good
        (0.7, -1.0, 0.8, 0.0),  # below 1 - clip_low: what is bad is pushed down no longer
        (2.0, -1.0, 2.0, 2.0),
        (9.0, -1.0, 3.0, 0.0),  # dual clip
        (1.2, 0.5, -0.6, -0.6),  # which holds for what is bad alone
    ],
)
def test_each_side_of_the_clip_has_its_bound(ratio, advantage, loss, gradient):
    found = loss_and_gradient(clip, ratio, advantage, **BOUNDS)
    assert found == pytest.approx((loss, gradient), abs=1e-6)


def test_without_a_dual_clip_a_bad_token_is_pushed_down_however_likely():
    found = loss_and_gradient(clip, 9.0, -1.0, **(BOUNDS | {"dual_clip": None}))
    assert found == pytest.approx((9.0, 9.0), rel=1e-5)


def test_a_ratio_beyond_all_bounds_is_finite():
    found = clip(torch.tensor([[60.0]]), torch.zeros(1, 1), -torch.ones(1, 1), torch.ones(1, 1),
                 **(BOUNDS | {"dual_clip": None}))  # fmt: skip
    assert found.item() == pytest.approx(math.exp(20), rel=1e-5)  # verl's bound


def test_a_policy_that_went_too_far_is_not_trained():
    near = loss_and_gradient(clip_unless_far, 4.9, -1.0, **(BOUNDS | {"dual_clip": None}))
    assert near == pytest.approx((4.9, 4.9), rel=1e-5)
    assert loss_and_gradient(clip_unless_far, 5.1, -1.0, **BOUNDS) == (0.0, 0.0)


def test_how_far_is_told_by_the_tokens_of_the_response_alone():
    new = torch.tensor([[1.0, 100.0]]).log()
    rest = (torch.zeros(1, 2), -torch.ones(1, 2))
    found = clip_unless_far(new, *rest, torch.tensor([[1.0, 0.0]]), **BOUNDS)
    assert_close(found, torch.tensor([[1.0, 3.0]]))
    assert (clip_unless_far(new, *rest, torch.ones(1, 2), **BOUNDS) == 0).all()
    mean_of_four = torch.tensor([[7.0, 1.0]]).log()  # of which one alone is too far
    assert (clip_unless_far(mean_of_four, *rest, torch.ones(1, 2), **BOUNDS) != 0).all()
