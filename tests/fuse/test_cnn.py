"""From a float CNN to one int8_cnn: networks as they are written, and how close they stay."""

import pytest
import torch
from torch import nn

from pyprod.fuse import fuse
from pyprod.nn import static_quantspec
from pyprod.workloads._resnet import ResNet


def randomized(model):
    """Batch norms as training leaves them: no statistic at its default, some factors negative."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight, 1, 0.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return model.eval()


class Stem(nn.Module):
    """ResNet-18's beginning and end: a pooled stem, an in-place ReLU, an adaptive mean."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 20, 7, 2, 3, bias=False), nn.BatchNorm2d(20)
        self.pool, self.relu = nn.MaxPool2d(3, 2, 1), nn.ReLU(inplace=True)
        self.next, self.mean, self.fc = nn.Conv2d(20, 20, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Linear(20, 5)

    def forward(self, x):
        x = self.pool(self.relu(self.norm(self.conv(x))))
        return self.fc(torch.flatten(self.mean(self.relu(self.next(x) + x)), 1))


@pytest.mark.parametrize(
    ("make", "sizes"), [(lambda: ResNet((16, 32)), (1, 8, 8)), (Stem, (3, 33, 30)), (lambda: ResNet((8,)), (1, 7, 5))]
)
def test_a_network_becomes_one_call(make, sizes):
    model = randomized(make())
    x = torch.randn(4, *sizes)
    with torch.inference_mode():
        fused = fuse(model, static_quantspec(model, (x,)), (x,))
        got, want = fused(x), model(x)
    assert [n.target for n in fused.graph.nodes if n.op == "call_function"] == [torch.ops.pyprod.int8_cnn.default]
    # 8 bits leave 1/255 of the range per value, a few layers deep; a wrong fold is off by tens of percent.
    assert ((got - want).norm() / want.norm()) < 0.1


def test_ranges_hold_zero():
    """An activation that is never near 0 must still represent the padding's 0 exactly."""
    model = nn.Conv2d(1, 1, 3, padding=1)
    quant = static_quantspec(model, (torch.rand(2, 1, 4, 4) + 3,)).activations[""]
    assert quant.zero_point == (-128,)
    assert 3 / 255 < quant.scale[0] <= 4 / 255
