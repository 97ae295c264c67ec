"""Scores prompts with Hugging Face transformers: hf_score.py --model HF_DIR --examples FILE [--repetitions R] [--batch-size B]

FILE holds the JSON lines of `graphlora inspect … --prompts N --json`. The adapter counts as merged into the weights, the
form in which it costs nothing; bf16, no gradients, the head at the last position only. Prompts are sorted by length and
padded on the left to the longest of their batch; padding is not counted as tokens. Prints JSON: seconds of each pass over
all prompts, and their tokens. Shapes: B prompts, T tokens with padding.
"""

import argparse
import json

import torch
from dataset import seconds_of
from transformers import AutoModelForCausalLM

YES, NO = 9230, 2838


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--examples", required=True)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    arguments = parser.parse_args()
    with open(arguments.examples, encoding="utf-8") as file:
        prompts = sorted((torch.tensor(json.loads(line)["tokens"]).clamp(min=0) for line in file), key=len)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.bfloat16)
    model.config.use_cache = False
    model.eval()

    @torch.inference_mode()
    def score_all() -> None:
        for start in range(0, len(prompts), arguments.batch_size):
            chosen = prompts[start : start + arguments.batch_size]
            longest = len(chosen[-1])
            ids_BT = torch.zeros(len(chosen), longest, dtype=torch.long)
            mask_BT = torch.zeros(len(chosen), longest, dtype=torch.long)
            for row, tokens in enumerate(chosen):
                ids_BT[row, longest - len(tokens) :] = tokens
                mask_BT[row, longest - len(tokens) :] = 1
            logits_BV = model(input_ids=ids_BT, attention_mask=mask_BT, logits_to_keep=1).logits[:, -1].float()
            (logits_BV[:, YES] - logits_BV[:, NO]).tolist()

    print(json.dumps({
        "seconds": seconds_of(score_all, arguments.repetitions),
        "prompts": len(prompts),
        "tokens": sum(map(len, prompts)),
        "threads": torch.get_num_threads(),
    }))


if __name__ == "__main__":
    main()
