"""Functions called on plain data in a confined process, because they execute code that is not trusted.

`call` runs a function of this package in a child, and returns its result, a JSON value. On Linux a child is a fork of
the *nursery*, a process that has imported torch and this package and holds nothing else: no data and no environment of
the user. Before the function is called the child gives up, for good, all files but Python's and an empty folder, the
network, new processes and signals to others, and accepts limits on memory and time. `isolation` says what of this the
system enforces. What comes back is parsed as JSON and believed in nothing: code in the child can send what it likes.

The caller's side is `caller`: it launches a child (`launch`) by an order to the nursery (`orders`), speaks with it
(`messages`), and reads what it prints (`printed`). The other side is the `nursery`, which forks each `child`; `places`
says which files a child may read, and `kernel` makes it give up all others.
"""

from harness.confine.caller import call, limit_time, prepare
from harness.confine.kernel import LEVELS, Isolation, isolation
from harness.confine.warm import warm_up

__all__ = ["LEVELS", "Isolation", "call", "isolation", "limit_time", "prepare", "warm_up"]
