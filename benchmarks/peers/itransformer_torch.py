"""The iTransformer forecaster with RevIN in PyTorch, as two engineers would write it: like its authors, and lean."""

import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.peers.worker import serve


class Forecaster(nn.Module):
    """RevIN^-1(Linear(D -> H)(encoder(RevIN(x)))) on (B, T, N) series, (B, H, N) out; no dropout.

    Args:
        steps: T.
        metrics: N.
        horizon: H.
        width: D; also the FFN's.
        layers: Encoder layers.
        heads: Attention heads.
        lean: Whether queries, keys and values come from one product, attention is `scaled_dot_product_attention` and
            the FFN is of linear maps. Else it is built like the authors' code: three products, attention by two
            einsums and a softmax, the FFN of two convolutions of width one over the transposed tokens.
    """

    def __init__(
        self,
        steps: int = 20,
        metrics: int = 12,
        horizon: int = 5,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        lean: bool = True,
    ) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(metrics))
        self.offset = nn.Parameter(torch.zeros(metrics))
        self.embedding = nn.Linear(steps, width)
        self.layers = nn.ModuleList((_LeanLayer if lean else _AuthorsLayer)(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, horizon)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        mean = series.mean(dim=1, keepdim=True).detach()
        deviation = torch.sqrt(series.var(dim=1, keepdim=True, unbiased=False) + 1e-5).detach()
        tokens = self.embedding(((series - mean) / deviation * self.scale + self.offset).transpose(1, 2))
        for layer in self.layers:
            tokens = layer(tokens)
        forecast = self.projection(self.norm(tokens)).transpose(1, 2)
        return (forecast - self.offset) / self.scale * deviation + mean


class _LeanLayer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.projection = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.hidden = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, metrics, width = x.shape
        projected = self.projection(x).view(batch, metrics, 3, self.heads, width // self.heads)
        queries, keys, values = projected.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(queries, keys, values)
        x = self.norm1(x + self.attention_output(mixed.transpose(1, 2).reshape(batch, metrics, width)))
        return self.norm2(x + self.output(functional.gelu(self.hidden(x))))


class _AuthorsLayer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries = nn.Linear(width, width)
        self.keys = nn.Linear(width, width)
        self.values = nn.Linear(width, width)
        self.attention_output = nn.Linear(width, width)
        self.hidden = nn.Conv1d(width, width, kernel_size=1)
        self.output = nn.Conv1d(width, width, kernel_size=1)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, metrics, width = x.shape
        shape = (batch, metrics, self.heads, width // self.heads)
        queries, keys, values = (linear(x).view(shape) for linear in (self.queries, self.keys, self.values))
        scores = torch.einsum("blhe,bshe->bhls", queries, keys)
        weights = torch.softmax(scores * (width // self.heads) ** -0.5, dim=-1)
        mixed = torch.einsum("bhls,bshd->blhd", weights, values).contiguous().view(batch, metrics, width)
        x = self.norm1(x + self.attention_output(mixed))
        hidden = functional.gelu(self.hidden(x.transpose(-1, 1)))
        return self.norm2(x + self.output(hidden).transpose(-1, 1))


def load(model: Forecaster, weights: dict[str, np.ndarray]) -> dict[str, list[torch.Tensor]]:
    """Copies weights named as in `benchmarks.layers.weights`; returns each name's parameters, in order of outputs."""
    parameters: dict[str, list[torch.Tensor]] = {"scale": [model.scale], "offset": [model.offset]}

    def linear(name: str, *modules: nn.Module) -> None:
        parameters[f"{name}/kernel"] = [module.weight for module in modules]
        parameters[f"{name}/bias"] = [module.bias for module in modules]

    def norm(name: str, module: nn.LayerNorm) -> None:
        parameters[f"{name}/gamma"], parameters[f"{name}/beta"] = [module.weight], [module.bias]

    linear("embedding", model.embedding)
    for i, layer in enumerate(model.layers):
        projections = [layer.projection] if isinstance(layer, _LeanLayer) else [layer.queries, layer.keys, layer.values]
        linear(f"{i}/projection", *projections)
        linear(f"{i}/attention_output", layer.attention_output)
        linear(f"{i}/hidden", layer.hidden)
        linear(f"{i}/output", layer.output)
        norm(f"{i}/norm1", layer.norm1)
        norm(f"{i}/norm2", layer.norm2)
    norm("norm", model.norm)
    linear("projection", model.projection)
    with torch.no_grad():
        for name, pieces in parameters.items():
            for piece, value in zip(pieces, np.split(weights[name], len(pieces), axis=-1), strict=True):
                piece.copy_(torch.from_numpy(value.T.copy()).reshape(piece.shape))
    return parameters


def gradients(parameters: dict[str, list[torch.Tensor]]) -> dict[str, np.ndarray]:
    """The parameters' gradients under the names and in the layout of the weights that `load` took."""
    found = {}
    for name, pieces in parameters.items():
        arrays = [piece.grad.reshape(piece.shape[0], -1).numpy().T for piece in pieces]
        joined = np.concatenate(arrays, axis=-1)
        found[name] = joined if name.endswith("kernel") else joined[0]
    return found


def _serve(path: str) -> None:
    from benchmarks import layers

    torch.set_num_threads(1)
    reference = dict(np.load(path))
    series, target = torch.from_numpy(reference["series"]), torch.from_numpy(reference["target"])
    candidates = series[: layers.CANDIDATES]
    variants = {}
    for label, lean in (("authors' style", False), ("lean", True)):
        model = Forecaster(
            layers.STEPS, layers.METRICS, layers.HORIZON, layers.WIDTH, layers.LAYERS, layers.HEADS, lean=lean
        )
        parameters = load(model, reference)
        for mode, module in (("eager", model), ("torch.compile", torch.compile(model))):

            def step(module: nn.Module = module) -> float:
                module.zero_grad(set_to_none=True)
                loss = functional.mse_loss(module(series), target)
                loss.backward()
                return loss.item()

            def forward(module: nn.Module = module) -> torch.Tensor:
                with torch.inference_mode():
                    return module(candidates)

            step()
            layers.check(f"PyTorch, {label}, {mode}", forward().numpy(), gradients(parameters))
            variants[f"step PyTorch, {label}, {mode}"] = step
            variants[f"forward PyTorch, {label}, {mode}"] = forward
    serve(variants)


if __name__ == "__main__":
    _serve(sys.argv[1])
