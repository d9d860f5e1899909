"""Writes trained weights as the server reads them, in half precision, and says what that changes.

python training/export.py --weights build/pocket/finished.pt --out server/cutout_server/models/builtin/network.onnx
"""

import argparse
import copy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from network import CHANNELS_IN, Network
from onnx import helper, numpy_helper
from torch import Tensor, nn

OPSET = 17


class Served(nn.Module):
    """The network as it is served: IoU in [0, 1]."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """See `Network.forward`."""
        logits, quality = self.network(crops)
        return logits, torch.sigmoid(quality)


def load(path: Path) -> Network:
    """The mean weights of a checkpoint."""
    network = Network()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["mean"])
    return network.eval()


def export(network: Network, path: Path) -> None:
    """Writes one file that needs no other; its large weights are float16 and become float32 when it is loaded."""
    axes = {"crops": {0: "n", 2: "height", 3: "width"}, "logits": {0: "n"}, "quality": {0: "n"}}
    torch.onnx.export(
        Served(copy.deepcopy(network)),
        (torch.zeros(2, CHANNELS_IN, 128, 128),),
        str(path),
        input_names=["crops"],
        output_names=["logits", "quality"],
        dynamic_axes=axes,
        opset_version=OPSET,
        dynamo=False,  # The newer exporter fixes the sizes at those of the example.
    )
    model = onnx.load(path)
    casts = []
    for weights in model.graph.initializer:
        values = numpy_helper.to_array(weights)
        if values.dtype == np.float32 and values.size > 64:
            name = weights.name
            weights.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
            casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)
    model.producer_name = model.producer_version = ""
    for node in model.graph.node:  # Where PyTorch's source lay on the machine that exported.
        node.doc_string = ""
    onnx.checker.check_model(model)
    onnx.save(model, path)


def difference(network: Network, path: Path) -> tuple[float, float]:
    """Largest difference of logits, and the share of them on which side of 0 it makes a difference."""
    crops = torch.from_numpy(np.random.default_rng(0).standard_normal((8, CHANNELS_IN, 128, 128)).astype(np.float32))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    served, _ = session.run(None, {"crops": crops.numpy()})
    with torch.no_grad():
        trained = network(crops)[0].numpy()
    return float(np.abs(served - trained).max()), float(((served > 0) != (trained > 0)).mean())


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="a checkpoint of train.py")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    network = load(arguments.weights)
    export(network, arguments.out)
    most, share = difference(network, arguments.out)
    count = sum(parameter.numel() for parameter in network.parameters())
    size = arguments.out.stat().st_size / 1e6
    print(f"{count} parameters, {size:.2f} MB; logits differ by {most:.3f} at most, masks by {share:.5%}")


if __name__ == "__main__":
    main()
