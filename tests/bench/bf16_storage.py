#!/usr/bin/env python3
"""What storing the raw outputs of convolutions and pools in bfloat16 would cost in accuracy.

    python tests/bench/bf16_storage.py

Gradients of a 3-cell DARTS supernet (C = 16, batch 8, 16x16) in PyTorch, against f64: in f32, and in f32 with the input of
every batch normalisation rounded to bfloat16. Prints relative errors (2-norm) of the gradients of alpha and of the weights.
"""
import copy
import pathlib
import sys

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "fixtures/scripts"))
from darts_reference import SearchNetwork, cross_entropy  # noqa: E402


class Rounded(torch.autograd.Function):
    """Rounds to bfloat16; the gradient passes."""

    @staticmethod
    def forward(ctx, x):
        return x.to(torch.bfloat16).to(x.dtype)

    @staticmethod
    def backward(ctx, g):
        return g


def gradients(network, images, labels, dtype, rounded):
    network = copy.deepcopy(network).to(dtype).train()
    if rounded:
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.register_forward_pre_hook(lambda _, inputs: (Rounded.apply(inputs[0]),))
    names, parameters = zip(*network.named_parameters())
    found = torch.autograd.grad(cross_entropy(network(images.to(dtype))[0], labels), parameters)
    of_alphas = {alphas: [g.flatten().double() for n, g in zip(names, found) if ("alpha" in n) == alphas] for alphas in (True, False)}
    return [torch.cat(of_alphas[alphas]) for alphas in (True, False)]


def main():
    for seed in range(3):
        torch.manual_seed(seed)
        network = SearchNetwork(16, 10, 3)
        images, labels = torch.randn(8, 3, 16, 16), torch.randint(0, 10, (8,))
        exact = gradients(network, images, labels, torch.float64, False)
        for name, rounded in (("f32", False), ("f32, stored as bf16", True)):
            errors = [float((a - b).norm() / b.norm()) for a, b in zip(gradients(network, images, labels, torch.float32, rounded), exact)]
            print(f"seed {seed}  {name:<20} alpha {errors[0]:.1e}  weights {errors[1]:.1e}")


if __name__ == "__main__":
    main()
