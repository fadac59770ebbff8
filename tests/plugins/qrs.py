"""Quadruple relative similarities in Python, by NumPy with the gradient by hand and by PyTorch."""

import numpy as np
import tetlo_plugin as tetlo

OPTIONS = {"temperature": tetlo.number(0.1, above=0.0, about="τ, in units of the similarity.")}
SAME = ["scale", "rotation"]


def quadruples(n, draws):
    """4 n ordered pairs of different pairs of images, as the built-in `qrs` draws them."""
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    chosen = []
    for _ in range(4 * n if len(pairs) > 1 else 0):
        first, second = draws.below(len(pairs)), draws.below(len(pairs) - 1)
        chosen.append((*pairs[first], *pairs[len(pairs) - 1 if second == first else second]))
    return np.array(chosen, dtype=np.int64).reshape(-1, 4).T


def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


@tetlo.transfer_loss("qrs-numpy", summary="quadruple relative similarities, by NumPy", version="1.0.0",
                     options=OPTIONS, min_batch=2, invariances=SAME)
def qrs_numpy(batch, options):
    tau, n = options["temperature"], batch.n
    i, j, k, l = quadruples(n, batch.draws)
    if len(i) == 0:
        return 0.0, {"main": np.zeros_like(batch.main), "aux": np.zeros_like(batch.aux)}
    norms = [np.sqrt(np.maximum((x**2).sum(1, keepdims=True), 1e-16)) for x in (batch.main, batch.aux)]
    units = [batch.main / norms[0], batch.aux / norms[1]]
    d_main, d_aux = [((z @ z.T)[i, j] - (z @ z.T)[k, l]) / tau for z in units]
    p_main, p_aux = 1 / (1 + np.exp(-d_main)), 1 / (1 + np.exp(-d_aux))
    loss = np.mean(p_main * softplus(-d_aux) + (1 - p_main) * softplus(d_aux))
    slopes = [-d_aux * p_main * (1 - p_main), p_aux - p_main]
    gradients = []
    for z, norm, slope in zip(units, norms, slopes):
        g = np.zeros((n, n))
        np.add.at(g, (i, j), slope / (tau * len(i)))
        np.add.at(g, (k, l), -slope / (tau * len(i)))
        g = (g + g.T) @ z
        gradients.append((g - (g * z).sum(1, keepdims=True) * z) / norm)
    return loss, {"main": gradients[0], "aux": gradients[1]}


@tetlo.transfer_loss("qrs-torch", summary="quadruple relative similarities, by PyTorch", version="1.0.0",
                     options=OPTIONS, min_batch=2, invariances=SAME, autograd="torch")
def qrs_torch(batch, options):
    import torch.nn.functional as F

    i, j, k, l = quadruples(batch.n, batch.draws)
    if len(i) == 0:
        return (batch.main.sum() + batch.aux.sum()) * 0.0
    units = [F.normalize(x, dim=1, eps=1e-8) for x in (batch.main, batch.aux)]
    d_main, d_aux = [((z @ z.T)[i, j] - (z @ z.T)[k, l]) / options["temperature"] for z in units]
    return F.binary_cross_entropy_with_logits(d_aux, d_main.sigmoid())


if __name__ == "__main__":
    tetlo.serve()
