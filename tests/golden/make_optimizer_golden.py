"""Writes optimizer.json: steps of torch.optim.AdamW in fp64, for tests/train/optimizer_test.cpp.

Usage: .venv/bin/python tests/golden/make_optimizer_golden.py
"""

import json
import pathlib

import torch

LR, DECAY, BETAS, EPSILON = 3e-3, 0.05, (0.9, 0.999), 1e-8
FACTORS = [0.25, 0.5, 1.0, 0.9, 0.7, 0.1]  # of the learning rate, one a step


def main():
    torch.manual_seed(0)
    weight = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW(
        [{"params": [weight], "weight_decay": DECAY}, {"params": [bias], "weight_decay": 0.0}],
        lr=LR, betas=BETAS, eps=EPSILON)
    golden = {"lr": LR, "weight_decay": DECAY, "beta1": BETAS[0], "beta2": BETAS[1], "epsilon": EPSILON,
              "weight": weight.flatten().tolist(), "bias": bias.tolist(), "steps": []}
    for factor in FACTORS:
        for group in optimizer.param_groups:
            group["lr"] = LR * factor
        weight.grad = torch.randn_like(weight) * 10 ** (4 * torch.rand_like(weight) - 3)
        bias.grad = torch.randn_like(bias)
        step = {"factor": factor, "weight_grad": weight.grad.flatten().tolist(), "bias_grad": bias.grad.tolist()}
        optimizer.step()
        state = optimizer.state[weight]
        step |= {"weight": weight.flatten().tolist(), "bias": bias.tolist(),
                 "weight_exp_avg": state["exp_avg"].flatten().tolist(),
                 "weight_exp_avg_sq": state["exp_avg_sq"].flatten().tolist()}
        golden["steps"].append(step)
    path = pathlib.Path(__file__).with_name("optimizer.json")
    path.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
