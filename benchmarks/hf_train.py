"""Trains LoRA adapters with Hugging Face transformers and PEFT, and prints tokens per second.

usage: hf_train.py --model HF_DIR --examples FILE [--steps N] [--batch-size B] [--threads T]

FILE holds the JSON lines of `graphlora inspect … --json`; anchors (token -1) become token 0, since only
the cost counts here. The setting is the one of graphlora's run: LoRA r 8 on q and v, bf16, AdamW, binary
cross-entropy on the Yes and No logits of the last token. Batches are padded on the left, so that the head
is computed at one position; padding costs time but is not counted as tokens. Prints one JSON object.
Shapes: B examples, T tokens with padding, V vocabulary.
"""

import argparse
import json
import statistics
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

WARM_UP_STEPS = 2
YES, NO = 9230, 2838


def matrix_rate() -> float:
    """GFLOP/s of a bf16 product of this model's shapes, so that machines can be compared."""
    rows, inner, columns = 2048, 576, 1536
    a, b = torch.randn(rows, inner).bfloat16(), torch.randn(inner, columns).bfloat16()
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        torch.matmul(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * rows * inner * columns / best / 1e9


def batches(path: str, size: int):
    with open(path, encoding="utf-8") as file:
        examples = [json.loads(line) for line in file]
    if len(examples) < size:
        sys.exit(f"{path}: {len(examples)} examples, fewer than a batch of {size}")
    while True:
        for start in range(0, len(examples) - size + 1, size):
            chosen = examples[start : start + size]
            longest = max(len(example["tokens"]) for example in chosen)
            ids_BT = torch.zeros(size, longest, dtype=torch.long)
            mask_BT = torch.zeros(size, longest, dtype=torch.long)
            for row, example in enumerate(chosen):
                tokens = torch.tensor(example["tokens"]).clamp(min=0)
                ids_BT[row, longest - len(tokens) :] = tokens
                mask_BT[row, longest - len(tokens) :] = 1
            yield ids_BT, mask_BT, torch.tensor([float(example["label"]) for example in chosen])


def main() -> None:
    parser = argparse.ArgumentParser(description="training speed of transformers + PEFT")
    parser.add_argument("--model", required=True)
    parser.add_argument("--examples", required=True)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.bfloat16)
    model.config.use_cache = False
    lora = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(model, lora)
    model.train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.0)

    source = batches(arguments.examples, arguments.batch_size)
    rates, losses = [], []
    for step in range(WARM_UP_STEPS + arguments.steps):
        ids_BT, mask_BT, label_B = next(source)
        start = time.perf_counter()
        logits_BV = model(input_ids=ids_BT, attention_mask=mask_BT, logits_to_keep=1).logits[:, -1].float()
        margin_B = logits_BV[:, YES] - logits_BV[:, NO]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(margin_B, label_B)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds = time.perf_counter() - start
        losses.append(loss.item())
        if step >= WARM_UP_STEPS:
            rates.append(mask_BT.sum().item() / seconds)
    print(json.dumps({
        "tokens_per_s": statistics.median(rates),
        "rates": rates,
        "steps": len(rates),
        "batch_size": arguments.batch_size,
        "threads": torch.get_num_threads(),
        "matrix_gflops_bf16": round(matrix_rate()),
        "last_loss": losses[-1],
    }))


if __name__ == "__main__":
    main()
