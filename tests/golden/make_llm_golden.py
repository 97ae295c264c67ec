#!/usr/bin/env python3
"""Golden data for the LLM side: tiny random models, their scores, loss and every gradient, from HF transformers.

    make_llm_golden.py                        writes tiny_*/ and llm_golden_*.safetensors (fp64)
    make_llm_golden.py --smollm2 HF_DIR       writes llm_golden_smollm2.safetensors for SmolLM2-135M-Instruct

The reference is transformers' own model in fp64, its linears replaced by W·x + (α/r)·B·h, with h = A·x and, at the
anchors of an injection layer, h = λ_lora·A·x + λ_gnn·z. Without z it is checked against PEFT itself. Prompts run one by one.
"""

import argparse
import json
import pathlib

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, modeling_rope_utils
from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen3 import modeling_qwen3

HERE = pathlib.Path(__file__).resolve().parent
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TITLES = """Toy Story (1995)|GoldenEye (1995)|Four Rooms (1995)|Get Shorty (1995)|Copycat (1995)|Twelve Monkeys (1995)
Babe (1995)|Dead Man Walking (1995)|Richard III (1995)|Seven (1995)|The Usual Suspects (1995)|Mighty Aphrodite (1995)
Mr. Holland's Opus (1995)|From Dusk Till Dawn (1996)|Taxi Driver (1976)|Star Wars (1977)|Pulp Fiction (1994)
Will the user like the movie? Answer Yes or No. Yes No The user has liked these movies and a new movie.""".replace("|", "\n")


# ---- fp64 all the way: transformers keeps norms and angles in fp32 whatever the model's type ------------------------
def make_exact(norm, rotary):
    inexact_norm, inexact_rotary = norm.forward, rotary.forward

    def exact_norm(self, x):
        if x.dtype != torch.float64:
            return inexact_norm(self, x)
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))

    def exact_rotary(self, x, position_ids):
        if x.dtype != torch.float64:
            return inexact_rotary(self, x, position_ids)
        plain = modeling_rope_utils._compute_default_rope_parameters
        modeling_rope_utils._compute_default_rope_parameters = exact_frequencies  # the scaled ones begin with it
        compute = exact_frequencies if self.rope_type == "default" else modeling_rope_utils.ROPE_INIT_FUNCTIONS[self.rope_type]
        frequencies, factor = compute(self.config, None)
        modeling_rope_utils._compute_default_rope_parameters = plain
        assert frequencies.dtype == torch.float64 and factor == 1
        angles = position_ids[:, :, None].double() * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()

    norm.forward, rotary.forward = exact_norm, exact_rotary


def exact_frequencies(config, device=None, seq_len=None):
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return config.rope_theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim), 1.0


make_exact(modeling_llama.LlamaRMSNorm, modeling_llama.LlamaRotaryEmbedding)
make_exact(modeling_mistral.MistralRMSNorm, modeling_mistral.MistralRotaryEmbedding)
make_exact(modeling_qwen2.Qwen2RMSNorm, modeling_qwen2.Qwen2RotaryEmbedding)
make_exact(modeling_qwen3.Qwen3RMSNorm, modeling_qwen3.Qwen3RotaryEmbedding)


# ---- src/core/rng.hpp's generator, so that both sides draw the same factors -------------------------------------
MASK = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15


def mix(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def hash_name(seed, name):
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) & MASK
    return mix(((h ^ mix((seed + GAMMA) & MASK)) + GAMMA) & MASK)


def uniform(seed, name, shape):
    """Uniform in [0, 1) from SplitMix64(hash_name(seed, name))."""
    with np.errstate(over="ignore"):
        z = np.uint64(hash_name(seed, name)) + np.arange(1, np.prod(shape) + 1, dtype=np.uint64) * np.uint64(GAMMA)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return torch.from_numpy((z >> np.uint64(11)).astype(np.float64) * 2.0**-53).reshape(shape)


class AdaptedLinear(torch.nn.Module):
    def __init__(self, base, a, b, scale, inject, state):
        super().__init__()
        self.base, self.a, self.b, self.scale, self.inject, self.state = base, a, b, scale, inject, state

    def forward(self, x):
        h = x @ self.a.T
        state = self.state
        if self.inject and state.get("z") is not None and len(state["positions"]):
            at = torch.tensor(state["positions"])
            h = h.clone()
            h[0, at] = state["lambda_lora"] * h[0, at] + state["lambda_gnn"] * state["z"]
        return self.base(x) + self.scale * (h @ self.b.T)


def block_of(target):
    return "mlp" if target in ("gate_proj", "up_proj", "down_proj") else "self_attn"


def adapt(model, case, seed, dtype=torch.float64):
    """Replaces linears; returns the factors by PEFT name, and the state that anchors are passed in."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    state = {"lambda_lora": torch.tensor(case["lambda_lora"], dtype=wide, requires_grad=True),
             "lambda_gnn": torch.tensor(case["lambda_gnn"], dtype=wide, requires_grad=True)}
    factors = {}
    for index, layer in enumerate(model.model.layers):
        for target in case["targets"]:
            block = getattr(layer, block_of(target))
            base = getattr(block, target)
            name = f"base_model.model.model.layers.{index}.{block_of(target)}.{target}"
            inputs, outputs = base.in_features, base.out_features
            a = (2 * uniform(seed, name + ".lora_A.weight", (case["rank"], inputs)) - 1) / inputs**0.5
            b = (2 * uniform(seed, name + ".lora_B.weight", (outputs, case["rank"])) - 1) * case["b_size"]
            a, b = (t.float().to(dtype).requires_grad_() for t in (a, b))
            factors[name + ".lora_A.weight"], factors[name + ".lora_B.weight"] = a, b
            setattr(block, target, AdaptedLinear(base, a, b, case["alpha"] / case["rank"], index in case["inject_layers"], state))
    return factors, state


def run(model, state, case, prompts, embedding, z, labels, yes, no):
    """Margins and Yes logits of the prompts, one by one."""
    logits = []
    row = 0
    for prompt in prompts:
        x = model.model.embed_tokens(torch.tensor([prompt["tokens"]])).detach()
        at = torch.tensor(prompt["anchors"], dtype=torch.long)
        rows = torch.arange(row, row + len(at))
        row += len(at)
        x = x.clone()
        x[0, at] = embedding[rows].to(x.dtype)
        state["positions"], state["z"] = prompt["anchors"], None if z is None else z[rows]
        hidden = model.model(inputs_embeds=x).last_hidden_state[0, -1]
        logits.append(model.lm_head.weight[[yes, no]] @ hidden)
    logits = torch.stack(logits)
    margin = logits[:, 0] - logits[:, 1]
    loss = torch.nn.functional.binary_cross_entropy_with_logits(margin, labels)
    return logits, margin, loss


def check_against_peft(directory, case, seed, prompts, embedding, labels, yes, no):
    from peft import LoraConfig, get_peft_model

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64)
    peft_model = get_peft_model(model, LoraConfig(r=case["rank"], lora_alpha=case["alpha"], target_modules=case["targets"]))
    mine = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64)
    factors, state = adapt(mine, case, seed)
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "lora_" in name:
                parameter.copy_(factors[name.replace(".default", "")])
        theirs = run(peft_model.base_model.model, {}, case, prompts, embedding, None, labels, yes, no)[1]
        ours = run(mine, state, case, prompts, embedding, None, labels, yes, no)[1]
    assert torch.allclose(theirs, ours, rtol=1e-12, atol=1e-12), (theirs, ours)


def golden(directory, case, seed, prompts, yes, no):
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64).requires_grad_(False)
    factors, state = adapt(model, case, seed)
    rows = sum(len(p["anchors"]) for p in prompts)
    spread = model.model.embed_tokens.weight.std().item()
    embedding = (torch.randn(rows, model.config.hidden_size).float() * spread).double().requires_grad_()
    z = (torch.randn(rows, case["rank"]).float() * 0.1).double().requires_grad_()
    labels = torch.tensor([float(i % 2) for i in range(len(prompts))], dtype=torch.float64)
    logits, margin, loss = run(model, state, case, prompts, embedding, z, labels, yes, no)
    loss.backward()
    tensors = {"tokens": torch.tensor(sum((p["tokens"] for p in prompts), []), dtype=torch.long),
               "lengths": torch.tensor([len(p["tokens"]) for p in prompts]),
               "anchor_example": torch.tensor([i for i, p in enumerate(prompts) for _ in p["anchors"]]),
               "anchor_position": torch.tensor([a for p in prompts for a in p["anchors"]]),
               "labels": labels, "embedding": embedding.detach(), "z": z.detach(),
               "logits": logits.detach(), "margin": margin.detach(), "loss": loss.detach().reshape(1)}
    gradients = {name: t.grad for name, t in factors.items()}
    gradients |= {"embedding": embedding.grad, "z": z.grad,
                  "lambda_lora": state["lambda_lora"].grad.reshape(1), "lambda_gnn": state["lambda_gnn"].grad.reshape(1)}
    metadata = {"case": json.dumps(case), "seed": str(seed), "yes": str(yes), "no": str(no)}
    return tensors, gradients, metadata, (embedding.detach(), labels)


def make_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<|endoftext|>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    text = TITLES.split("\n") + [" Yes", " No"] * 20
    tokenizer.train_from_iterator(text, trainer)
    yes, no = tokenizer.encode(" Yes").ids, tokenizer.encode(" No").ids
    assert len(yes) == 1 and len(no) == 1, (yes, no)
    return tokenizer, yes[0], no[0]


def tiny():
    tokenizer, yes, no = make_tokenizer()
    texts = ['The user has liked "Toy Story (1995)", "Babe (1995)". User  will like  "Seven (1995)"? Answer:', "User  movie  ?",
             'A new user  and a movie  "Star Wars (1977)" Answer Yes or No:']
    prompts = []
    for i, text in enumerate(texts):
        ids = tokenizer.encode(text).ids
        anchors = [1, len(ids) - 3] if i != 1 else [0, len(ids) - 1]  # also the first and the scored token itself
        for a in anchors:
            ids[a] = 0
        prompts.append({"tokens": ids, "anchors": anchors})
    cases = {"all": dict(targets=TARGETS, inject_layers=[1, 2], rank=4, alpha=10, lambda_lora=0.9, lambda_gnn=0.7, b_size=0.3),
             "qv": dict(targets=["q_proj", "v_proj"], inject_layers=[0], rank=3, alpha=16, lambda_lora=1.0, lambda_gnn=0.1,
                        b_size=0.3)}
    for tied in (False, True):
        directory = HERE / ("tiny_llama_tied" if tied else "tiny_llama")
        directory.mkdir(exist_ok=True)
        torch.manual_seed(7 + tied)
        config = LlamaConfig(vocab_size=300, hidden_size=36, intermediate_size=50, num_hidden_layers=3, num_attention_heads=9,
                             num_key_value_heads=3, head_dim=4, max_position_embeddings=256, rope_theta=10000.0,
                             rms_norm_eps=1e-5, tie_word_embeddings=tied, initializer_range=0.15, bos_token_id=None,
                             eos_token_id=0, dtype="float32")
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(directory)
        (directory / "generation_config.json").unlink(missing_ok=True)
        tokenizer.save(str(directory / "tokenizer.json"))
        for name, case in cases.items() if not tied else [("all", cases["all"])]:
            tensors, gradients, metadata, (embedding, labels) = golden(directory, case, 11, prompts, yes, no)
            check_against_peft(directory, case, 11, prompts, embedding, labels, yes, no)
            tensors |= {f"grad.{k}": v for k, v in gradients.items()}
            save_file(tensors, HERE / f"llm_golden_{'tied' if tied else name}.safetensors", metadata)


# ---- families: config.json as each is published, only smaller -----------------------------------------------------
SIZES = dict(hidden_size=36, intermediate_size=16, max_position_embeddings=64, num_attention_heads=9, num_hidden_layers=2,
             vocab_size=64, hidden_act="silu", initializer_range=0.02, use_cache=True, bos_token_id=1, eos_token_id=2)
FAMILIES = {
    # no num_key_value_heads, no rope_theta, no head_dim
    "llama2": dict(architectures=["LlamaForCausalLM"], model_type="llama", pretraining_tp=1, rms_norm_eps=1e-05,
                   rope_scaling=None, tie_word_embeddings=False, torch_dtype="float16", transformers_version="4.31.0.dev0"),
    # as vicuna-7b-v1.5-16k
    "vicuna": dict(architectures=["LlamaForCausalLM"], model_type="llama", max_sequence_length=256, num_key_value_heads=3,
                   pad_token_id=0, pretraining_tp=1, rms_norm_eps=1e-05, rope_scaling={"factor": 4.0, "type": "linear"},
                   tie_word_embeddings=False, torch_dtype="float16", transformers_version="4.31.0"),
    # as Llama-3.2-1B; with these numbers one frequency is kept, one lies between, two are divided
    "llama3": dict(architectures=["LlamaForCausalLM"], model_type="llama", attention_bias=False, attention_dropout=0.0,
                   head_dim=8, mlp_bias=False, num_key_value_heads=3, pretraining_tp=1, rms_norm_eps=1e-05,
                   rope_scaling={"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                                 "original_max_position_embeddings": 32, "rope_type": "llama3"},
                   rope_theta=500.0, tie_word_embeddings=True, torch_dtype="bfloat16", transformers_version="4.45.0.dev0"),
    # as Mistral-7B-v0.1, the window shorter than the prompts
    "mistral": dict(architectures=["MistralForCausalLM"], model_type="mistral", num_key_value_heads=3, rms_norm_eps=1e-05,
                    rope_theta=10000.0, sliding_window=7, tie_word_embeddings=False, torch_dtype="bfloat16",
                    transformers_version="4.34.0.dev0"),
    # as Qwen2.5-0.5B, with its window in use behind the first layer
    "qwen2": dict(architectures=["Qwen2ForCausalLM"], model_type="qwen2", attention_dropout=0.0, max_window_layers=1,
                  num_key_value_heads=3, rms_norm_eps=1e-06, rope_theta=1000000.0, sliding_window=6, tie_word_embeddings=True,
                  torch_dtype="bfloat16", transformers_version="4.40.1", use_mrope=False, use_sliding_window=True),
    # as Qwen3-0.6B, whose heads are wider than hidden_size / heads, with a window in the first layer
    "qwen3": dict(architectures=["Qwen3ForCausalLM"], model_type="qwen3", attention_bias=False, attention_dropout=0.0,
                  head_dim=6, max_window_layers=2, num_key_value_heads=3, rms_norm_eps=1e-06, rope_scaling=None,
                  rope_theta=1000000, sliding_window=5, tie_word_embeddings=True, torch_dtype="bfloat16",
                  transformers_version="4.51.0", use_sliding_window=True,
                  layer_types=["sliding_attention", "full_attention"]),
}
FAMILY_CASE = dict(targets=TARGETS, inject_layers=[0, 1], rank=2, alpha=5, lambda_lora=0.9, lambda_gnn=0.7, b_size=0.3)


def write_family(directory, fields):
    """config.json and random weights in bf16, with what else such checkpoints hold."""
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(dict(sorted((SIZES | fields).items())), indent=2) + "\n")
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory))
    tensors = {}
    for name, parameter in model.state_dict().items():
        if fields["tie_word_embeddings"] and name == "lm_head.weight":
            continue
        size = 0.1 if "norm" in name else 0.3 if name.endswith("bias") else 0.15
        tensors[name] = (torch.randn_like(parameter) * size + ("norm" in name)).to(torch.bfloat16)
    if fields["transformers_version"].startswith("4.31"):
        for layer in range(SIZES["num_hidden_layers"]):
            tensors[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(2)  # not the true ones: unused
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def families():
    yes, no, seed = 7, 12, 11
    random = np.random.default_rng(5)
    prompts = []
    for i, length in enumerate([24, 2, 40, 9, 17, 31, 12, 5, 28, 35, 7, 20, 14, 38, 10, 26]):
        tokens = random.integers(0, SIZES["vocab_size"], length).tolist()
        anchors = [1, length - 3] if i != 1 else [0, 1]
        prompts.append({"tokens": tokens, "anchors": anchors})
    for index, (family, fields) in enumerate(FAMILIES.items()):
        directory = HERE / f"tiny_{family}"
        torch.manual_seed(20 + index)
        write_family(directory, fields)
        tensors, gradients, metadata, (embedding, labels) = golden(directory, FAMILY_CASE, seed, prompts, yes, no)
        check_against_peft(directory, FAMILY_CASE, seed, prompts, embedding, labels, yes, no)
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16)
        _, state = adapt(model, FAMILY_CASE, seed, torch.bfloat16)  # as PEFT does under autocast
        with torch.no_grad():
            rounded = run(model, state, FAMILY_CASE, prompts, embedding, tensors["z"].bfloat16(), labels.bfloat16(), yes, no)[0]
        tensors |= {f"grad.{k}": v for k, v in gradients.items()} | {"bf16_logits": rounded.double()}
        save_file(tensors, HERE / f"llm_golden_{family}.safetensors", metadata)
        error = ((rounded.double() - tensors["logits"]).norm() / tensors["logits"].norm()).item()
        print(f"{family}: transformers' error in bf16 is {error:.2e}")


def smollm2(directory):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    yes, no = (tokenizer.encode(t, add_special_tokens=False)[0] for t in (" Yes", " No"))
    texts = ["The user has liked: \"Toy Story (1995)\", \"Babe (1995)\", \"Seven (1995)\", \"Star Wars (1977)\". "
             "The user's taste is  and the movie is  \"Pulp Fiction (1994)\". Will the user like it? Answer:",
             "A user with taste  has no history. Will the user like the movie  \"Dead Man Walking (1995)\"? Answer:"]
    prompts = []
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False)
        anchors = [len(ids) // 4, len(ids) - 8]
        for a in anchors:
            ids[a] = 0
        prompts.append({"tokens": ids, "anchors": anchors})
    case = dict(targets=["q_proj", "v_proj"], inject_layers=[15], rank=8, alpha=16, lambda_lora=1.0, lambda_gnn=0.1,
                b_size=0.02)
    tensors, gradients, metadata, _ = golden(directory, case, 11, prompts, yes, no)
    for name, gradient in gradients.items():
        flat = gradient.flatten()
        entries = torch.arange(0, flat.numel(), max(1, flat.numel() // 16))
        tensors[f"norm.{name}"] = flat.norm().reshape(1)
        tensors[f"entries.{name}"], tensors[f"values.{name}"] = entries, flat[entries].contiguous()
    save_file(tensors, HERE / "llm_golden_smollm2.safetensors", metadata)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smollm2", metavar="HF_DIR", help="HF directory of SmolLM2-135M-Instruct")
    arguments = parser.parse_args()
    if arguments.smollm2:
        smollm2(arguments.smollm2)
    else:
        tiny()
        families()
