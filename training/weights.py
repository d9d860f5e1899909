"""The weights that are served, back in the network that is trained: training can go on where its checkpoint is gone."""

from pathlib import Path

import numpy as np
import onnx
import torch
from network import Convolution, Network
from onnx import numpy_helper
from torch import Tensor, nn

_HALF = "_half"


def of_onnx(path: Path) -> Network:
    """The network of a file that export.py wrote; it answers as the file does until its norms are `restored`.

    Convolutions there hold their norms, which are left with nothing to do. Layers are told apart by their order.
    """
    graph = onnx.load(path).graph
    values = {
        each.name.removesuffix(_HALF): torch.from_numpy(numpy_helper.to_array(each).astype(np.float32))
        for each in graph.initializer
    }
    # What was neither folded nor transposed kept its name.
    state = {name.removeprefix("network."): value for name, value in values.items() if name.startswith("network.")}
    network = Network().eval()
    folded, transposed = (
        [
            [values[name] for name in node.input if name in values and not name.startswith("network.")]
            for node in graph.node
            if node.op_type == kind
        ]
        for kind in ("Conv", "MatMul")
    )
    linear = [name for name, layer in network.whole.named_modules(prefix="whole") if isinstance(layer, nn.Linear)]
    for name, (weight,) in zip(linear, filter(None, transposed), strict=True):
        state[f"{name}.weight"] = weight.T
    for (name, layer), (weight, bias) in zip(_convolutions(network), filter(None, folded), strict=True):
        norm = layer[1]
        state |= {f"{name}.0.weight": weight, f"{name}.1.weight": torch.ones_like(bias), f"{name}.1.bias": bias}
        state |= {f"{name}.1.running_mean": torch.zeros_like(bias)}
        state |= {f"{name}.1.running_var": torch.full_like(bias, 1 - norm.eps)}
        state |= {f"{name}.1.num_batches_tracked": torch.tensor(0)}
    network.load_state_dict(state)
    return network


@torch.no_grad()
def restore(network: Network, crops: Tensor) -> None:
    """Gives the norms of a network their work again, as (N, 7, S, S) crops show it; answers stay as they are."""
    norms = [layer[1] for _, layer in _convolutions(network)]

    def measure(norm: nn.BatchNorm2d, given: tuple[Tensor]) -> None:
        variance, mean = torch.var_mean(given[0], (0, 2, 3))
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        norm.bias += scale * (mean - norm.running_mean)
        norm.weight.copy_(scale * (variance + norm.eps).sqrt())
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)

    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    network.eval()(crops)
    for hook in hooks:
        hook.remove()


def _convolutions(network: Network) -> list[tuple[str, Convolution]]:
    """Those with a norm, in the order in which they run."""
    order: list[tuple[str, Convolution]] = []
    hooks = [
        layer.register_forward_pre_hook(lambda each, _, name=name: order.append((name, each)))
        for name, layer in network.named_modules()
        if isinstance(layer, Convolution)
    ]
    with torch.no_grad():
        network(torch.zeros(1, network.stem[0].in_channels, 32, 32))
    for hook in hooks:
        hook.remove()
    return order
