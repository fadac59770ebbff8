"""The transfer loss `my-loss`: the squared difference of the models' mean features."""

import numpy as np
import tetlo_plugin as tetlo

OPTIONS = {"offset": tetlo.number(0.0, about="The difference of the means that costs nothing.")}


@tetlo.transfer_loss("my-loss", version="0.1.0", options=OPTIONS, invariances=("order",))
def my_loss(batch, options):
    """squared gap of the mean features"""
    # The formula: its value, and its gradient in the features of both models.
    gap = batch.main.mean() - batch.aux.mean() - options["offset"]
    return gap**2, {
        "main": np.full_like(batch.main, 2.0 * gap / batch.main.size),
        "aux": np.full_like(batch.aux, -2.0 * gap / batch.aux.size),
    }


if __name__ == "__main__":
    tetlo.serve()
