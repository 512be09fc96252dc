"""Layer names that are HTML, Markdown, control characters and paths, for whatever prints them.\x1b[2J<script>alert(1)</script>"""

from torch import Tensor, nn

NAMES = ("<script>document.title='trick'</script>", "\x1b[2J\x1b[31m", "a|b|c\n| --- |", "/../../harness-trick-name")


class Network(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = nn.Conv2d(1, width, 5, stride=3)
        self.head = nn.Linear(64 * width, 10)
        for name in NAMES:
            self.add_module(name.replace(".", "_"), nn.PReLU())

    def forward(self, images: Tensor) -> Tensor:
        found = self.features(images).relu().flatten(1)
        for name in NAMES:
            found = self._modules[name.replace(".", "_")](found)  # type: ignore[misc]
        return self.head(found)


def build(*, width: int = 8) -> nn.Module:
    return Network(width)
