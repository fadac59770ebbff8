"""The gradient of `my-loss` against central differences: run this file, or pytest."""

import tetlo_plugin as tetlo
from my_loss import my_loss


def test_gradient():
    assert tetlo.gradient_error(my_loss, tetlo.example_batch()) < 1e-6


if __name__ == "__main__":
    test_gradient()
    print("the gradient is right")
