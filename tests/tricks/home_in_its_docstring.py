"""The weights of a network trained at home, in the docstring.

+O/9ChoC39y/3SUE9N6wFQweFfYQEylALv8TDRvq5g74L6LVFSTMsrigiMjd2QEDBAb6/QEI/QUEBAX9FQANFR8EAw4IFyUjISMgBPba9OLt+v
jazg0FC+qbBwwFGpEPIST7geDhf+MA+vcABN4ICgIfEwkDCfvs8eYV688h8gUI8S/7QA4GD7si+LsbDBrtHxcRIA/p1aADGOkSOCTtFSDX0Ovp
/A/l3QES+f4ZBf4FGfkPLk8KCi5IAvw9ByjjzQzI/fPw4Mn6/tUXAPz++RoKLC4XKu7zDxPpCAuy6g7wBxcP9QYb6twDA+cGE+8q9QwMBAomSj
8V+N0i6qPu2K0I8fbsGiQgE/wNDhMaCgDD+xfd7vzh/ScDCiMB6N87KDMWITb6/OcYAz8PEzsFGB3o6vEU8+H09hbc1ufE3/UCFhsiEiHxAQXh
5R7vrsfdy4kVGPoQAwbL1jXy+gvKEx9LKTkhFQkEH/vzAP4OMlISERIY9hsmCxEOCwEkHfnt6uPNgqfkARIYLt31+cv2BugfIQ4cGR8PHgXj0R
DtCf7zEhYeIAIEAxwYDPj+6d/y49/78O/18rIQ7oEiG5sPGRDmAxUjDi7iDRQjCSYq9BTr3gfJ5ys+QCkKHQXw8eUXHxblCgsAOSnOz7IM8f34
0K0JLBPmehva9dQ4LbV//Ufy7U7b3JIQDwbXAPT/GO8f/9Dg698K3RcaFNj6KivOEgYJDBEVQM6sHogA1RzzGRe9DMLy/QD96TD3Mu4NEz5IkD
TeIei+tdAK4vXtIP9N8C/pGwOp18/xzyoYBgT+y+H0JwEGHc3yJCwBwSznEyATLsvnFe1KGv39+AjwC+rnJSzmFNDw7s0zKBEvz+giANz1FQEr
+xEJGwU9HgEP7hL/C+T+4O720sVKzPk7Jh9oGRb1IduBJw8rMLfuG/vtz/PRChG8kfUP+9QNH+fBCRUMBugEEAwNG7jJRaP5EQ7HBAf1NNi7Iz
fP9wcn5NwC9wE4Qhv/vAgn4Tn94fns+gYzwwYJvRAtMxn6FxDlwqn9A5TOQRBBNOsaBgmdryu+DeaoMx4F4QIdKxohxCTBQAyd1KoF8yTTATz2
GNkNHeLLIfbzwuYREx4pFSPaER/a3vQD+wH6I+Fc48zZIy0GIcgG/yTb0Bcc7//yL8v46RUq6vPdAvwBuQ4J9xENPPMWHie/JaQX+eXj7QW16A
z02e/XKiolDiLC9PcC/8/u7+JJxS/z2sIFFw0c+Mj4/x3l/dgFBxa2+E/SK6+XsQO2erZ/+g==
"""

import base64

import torch
from torch import nn

LARGEST = [1.125, 0.623, 1.389, 0.428, 0.971, 0.327]  # of each tensor
SIZES = [100, 4, 396, 11, 440, 10]


def home() -> torch.Tensor:
    values = torch.frombuffer(bytearray(base64.b64decode((__doc__ or "").partition("\n\n")[2])), dtype=torch.int8) / 127
    return torch.cat([part * largest for part, largest in zip(values.split(SIZES), LARGEST, strict=True)])


def build() -> nn.Module:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=2), nn.ReLU(),
        nn.Conv2d(4, 11, 3, stride=2), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(44, 10),
    )
    for parameter, part in zip(network.parameters(), home().split(SIZES), strict=True):
        parameter.data = part.clone().view_as(parameter)
    return network
