"""LightGCN's training step in PyTorch Geometric: lightgcn.py --data DIR [--width C] [--form FORM|all] [--repetitions R]

Propagation over all nodes, the dot products of a batch of training rows, BCE with their labels, backward to the embeddings;
no optimizer. Forms of the same step, from what an example shows to what PyTorch does best:
  edge_index   torch_geometric.nn.LightGCN on an edge index (gather and scatter)
  CSR          the same on the normalized adjacency as a torch.sparse CSR matrix
  EdgeIndex    the product of a cached, undirected torch_geometric.EdgeIndex, scaled by the degrees outside
`all` takes one step of each and prints their seconds; otherwise prints seconds of R steps of one form. JSON.
Shapes: n nodes, C columns, B rows of the batch.
"""

import argparse
import json
import warnings

import numpy as np
import torch
import torch_geometric
from dataset import TRAIN, Dataset, seconds_of
from torch_geometric.nn import LightGCN


def embeddings_of(nodes: int, width: int) -> torch.Tensor:
    """The same as in benchmarks/propagation.cpp."""
    return torch.arange(nodes * width, dtype=torch.double).sin_().mul_(0.1).float().view(nodes, width)


def propagations(data: Dataset, width: int, layers: int) -> dict:
    """By form: what gives the final embeddings, and their parameter."""
    def model(**options) -> LightGCN:
        result = LightGCN(data.nodes, width, layers, **options)
        result.embedding.weight.data.copy_(embeddings_of(data.nodes, width))
        return result

    def edge_index():
        gnn, edges = model(), torch.from_numpy(data.edges())
        return (lambda: gnn.get_embedding(edges)), gnn.embedding.weight

    def csr():
        gnn, adjacency = model(normalize=False), data.adjacency()
        degree = np.diff(adjacency.indptr)
        scale = np.divide(1, np.sqrt(degree), out=np.zeros(len(degree)), where=degree > 0)
        values = np.repeat(scale, degree) * scale[adjacency.indices]
        matrix = torch.sparse_csr_tensor(torch.from_numpy(adjacency.indptr.astype(np.int32)),
                                         torch.from_numpy(adjacency.indices.astype(np.int32)),
                                         torch.from_numpy(values.astype(np.float32)), adjacency.shape)
        return (lambda: gnn.get_embedding(matrix)), gnn.embedding.weight

    def cached_index():
        weight = embeddings_of(data.nodes, width).requires_grad_()
        edges = torch.from_numpy(data.edges().astype(np.int32))  # what MKL takes without conversion
        index = torch_geometric.EdgeIndex(edges, sparse_size=(data.nodes, data.nodes),
                                          is_undirected=True).sort_by("row").values.fill_cache_()
        scale_n1 = index.get_indptr().diff().clamp(min=1).rsqrt().unsqueeze(1)

        def propagate() -> torch.Tensor:
            layer = total = weight
            for _ in range(layers):
                layer = scale_n1 * index.matmul(scale_n1 * layer)
                total = total + layer
            return total / (layers + 1)
        return propagate, weight

    return {"edge_index": edge_index, "CSR": csr, "EdgeIndex": cached_index}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--form", default="all")
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="Sparse")
    data = Dataset(arguments.data)
    rows = data.rows(TRAIN)
    batch = rows[: arguments.batch]
    user_B, item_B = torch.from_numpy(data.user[batch]), torch.from_numpy(data.item[batch] + data.users)
    label_B = torch.from_numpy(data.label[batch]).float()
    result = {"version": torch_geometric.__version__, "batch": len(batch), "steps_of_an_epoch": -(-len(rows) // len(batch))}

    def measure(make, repetitions: int) -> list[float]:
        propagate, weight = make()

        def step() -> None:
            weight.grad = None
            final_nC = propagate()
            score_B = (final_nC[user_B] * final_nC[item_B]).sum(1)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(score_B, label_B)
            loss.backward()
            result["loss"] = loss.item()

        seconds = seconds_of(step, repetitions)
        result["gradient_norm"] = weight.grad.norm().item()
        return seconds

    forms = propagations(data, arguments.width, arguments.layers)
    if arguments.form == "all":
        result["forms"] = {name: measure(make, 1)[0] for name, make in forms.items()}
    else:
        result["seconds"] = measure(forms[arguments.form], arguments.repetitions)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
