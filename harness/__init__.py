"""Train submitted MNIST networks under one fixed budget and say, with evidence, which is better."""

__version__ = "0.2.0"
