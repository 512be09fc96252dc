"""A network where the function belongs."""

build = 7
