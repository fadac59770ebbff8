"""The transfer loss `my-loss`: the squared difference of the models' mean features."""

import tetlo_plugin as tetlo

OPTIONS = {"offset": tetlo.number(0.0, about="The difference of the means that costs nothing.")}


@tetlo.transfer_loss(
    "my-loss", version="0.1.0", options=OPTIONS, invariances=("order",), autograd="torch"
)
def my_loss(batch, options):
    """squared gap of the mean features"""
    # The formula on PyTorch's tensors; autograd gives the gradient.
    return (batch.main.mean() - batch.aux.mean() - options["offset"]) ** 2


if __name__ == "__main__":
    tetlo.serve()
