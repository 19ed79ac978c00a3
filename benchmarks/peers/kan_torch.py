"""The PyTorch sides of `kan.py`: each runs in its own environment, by name.

It is started by that script and answers its commands (`_torch.serve`).
"""

import functools
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

# Last, since pykan's module has the name of a script there.
sys.path.append(str(Path(__file__).resolve().parents[1]))


def _set(tensor, array):
    import torch

    with torch.no_grad():
        tensor.copy_(torch.from_numpy(array))


def pykan(spec, layers):
    """The network of the KAN paper's authors, in their fast mode."""
    import kan

    width = list(spec["sizes"])
    net = kan.KAN(width, spec["num_intervals"], spec["degree"], auto_save=False)
    net.speed()  # no symbolic branch, no record of activations
    for layer, params in zip(net.act_fun, layers, strict=True):
        _set(layer.coef, params["coefficients"].transpose(1, 2, 0))
        _set(layer.scale_base, params["residual"])
        layer.scale_sp.data.fill_(1)
    return net, [
        parameter
        for layer in net.act_fun
        for parameter in (layer.coef, layer.scale_base, layer.scale_sp)
    ]


def efficient_kan(spec, layers):
    """efficient-kan's layer, which the package `ikan` contains."""
    import torch

    # Importing the package as a whole wants a GPU's compiler.
    folder = importlib.util.find_spec("ikan").submodule_search_locations[0]
    found = importlib.util.spec_from_file_location("ikan_kan", f"{folder}/KAN.py")
    module = sys.modules[found.name] = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    net = torch.nn.Sequential()
    for params in layers:
        num_in, num_out = params["residual"].shape
        layer = module.KANLinear(num_in, num_out, spec["num_intervals"], spec["degree"])
        _set(layer.spline_weight, params["coefficients"].transpose(2, 1, 0))
        _set(layer.base_weight, params["residual"].T)
        layer.spline_scaler.data.fill_(1)
        net.append(layer)
    return net, list(net.parameters())


def efficient_kan_compiled(spec, layers):
    """The same by `torch.compile`, which its users do not get unasked."""
    import torch

    net, parameters = efficient_kan(spec, layers)
    return torch.compile(net), parameters


def inkan(spec, layers):
    """InKAN, which evaluates closed forms where they are not zero."""
    import inkan

    net = inkan.KANNetwork(list(spec["sizes"]), spec["num_intervals"], spec["degree"])
    for layer, params in zip(net.layers, layers, strict=True):
        _set(layer.spline_weight, params["coefficients"].transpose(2, 1, 0))
        _set(layer.base_weight, params["residual"].T)
    return net, list(net.parameters())


def flashkan(spec, layers):
    """FlashKAN, InKAN's predecessor: truncated powers, compiled."""
    import flashkan

    net = flashkan.KANNetwork(
        list(spec["sizes"]), spec["num_intervals"], spec["degree"]
    )
    for layer, params in zip(net.layers, layers, strict=True):
        _set(layer.spline_weight, params["coefficients"].transpose(2, 1, 0))
        _set(layer.base_weight, params["residual"].T)
    return net, list(net.parameters())


def fast_kan(spec, layers):
    """FastKAN's formula, which no package has: Gaussians after a layer norm."""
    import torch

    class Layer(torch.nn.Module):
        def __init__(self, num_in, num_out, num_grids):
            super().__init__()
            self.norm = torch.nn.LayerNorm(num_in)
            self.register_buffer("centers", torch.linspace(-2, 2, num_grids))
            self.width = 4 / (num_grids - 1)
            self.spline = torch.nn.Linear(num_in * num_grids, num_out, bias=False)
            self.base = torch.nn.Linear(num_in, num_out)

        def forward(self, x):
            distance = (self.norm(x)[..., None] - self.centers) / self.width
            basis = torch.exp(-(distance**2)).flatten(1)
            return self.spline(basis) + self.base(torch.nn.functional.silu(x))

    net = torch.nn.Sequential()
    for params in layers:
        layer = Layer(*params["residual"].shape, len(params["coefficients"]))
        spline = params["coefficients"].transpose(2, 1, 0)
        _set(layer.spline.weight, spline.reshape(len(spline), -1))
        _set(layer.base.weight, params["residual"].T)
        layer.base.bias.data.fill_(0)
        net.append(layer)
    return net, list(net.parameters())


class Model(NamedTuple):
    """A network, and what makes its parameters comparable.

    `make(spec, layers)` returns the module and its trained parameters; `ours` takes the
    gradients of one layer's to those of our coefficients and residual.
    """

    make: Callable
    package: str | None
    ours: Callable | None


def _ours(spline, base):
    return spline.transpose(2, 1, 0), base.T


def _ours_of_inkan(weight, num_in):
    """InKAN has one matrix: functions of each input in turn, then the residual."""
    splines, base = weight[:, :-num_in], weight[:, -num_in:]
    return _ours(splines.reshape(len(weight), num_in, -1), base)


MODELS = {
    "pykan": Model(pykan, "pykan", lambda c, b, s: (c.transpose(2, 0, 1), b)),
    "efficient-kan": Model(efficient_kan, "ikan", lambda b, c, s: _ours(c, b)),
    "efficient-kan-compiled": Model(
        efficient_kan_compiled, "ikan", lambda b, c, s: _ours(c, b)
    ),
    "inkan": Model(inkan, "inkan", _ours_of_inkan),
    "flashkan": Model(flashkan, "flashkan", _ours),
    "fast-kan": Model(fast_kan, None, None),
}


def build(model, spec, device):
    """The function of a batch that is timed."""
    import _kan
    import torch

    net, parameters = model.make(spec, _kan.load(spec))
    net.to(device)

    def forward(x):
        with torch.no_grad():
            return net(x)

    def both(x):
        x = x.detach().requires_grad_()
        loss = (net(x) ** 2).mean()
        return loss.detach(), torch.autograd.grad(loss, [*parameters, x])

    return both if spec["gradient"] else forward


def read(model, spec, result):
    """The output, or the gradients in our layout."""
    if not spec["gradient"]:
        return {"y": result.numpy(force=True)}
    *gradients, x = [g.numpy(force=True) for g in result[1]]
    found = {"x": x}
    sizes = spec["sizes"]
    count = len(gradients) // (len(sizes) - 1)
    for number, num_in in enumerate(sizes[:-1] if model.ours else ()):
        own = gradients[count * number : count * (number + 1)]
        extra = (num_in,) if model.make is inkan else ()
        coefficients, residual = model.ours(*own, *extra)
        found |= {f"coefficients{number}": coefficients, f"residual{number}": residual}
    return found


def main():
    import _torch

    model = MODELS[sys.argv[1]]
    _torch.serve(
        functools.partial(build, model),
        (model.package,) if model.package else (),
        functools.partial(read, model),
    )


if __name__ == "__main__":
    main()
