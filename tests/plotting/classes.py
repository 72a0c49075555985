"""Class labels of the staged probabilities that are drawn."""

import numpy as np

CLASSES = np.array(["ant", "bee", "cow"])
