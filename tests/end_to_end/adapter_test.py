#!/usr/bin/env python3
"""adapter_test.py GRAPHLORA SOURCE: adapters in and out against PEFT and transformers on a tiny model.

Out: `export --what merged` of a trained adapter over an fp32 base, a sharded bf16 one, a sharded fp16 one
and one with tied embeddings holds what PEFT's merge_and_unload computes (to one unit in the last place of
the base's type), in the base's files, types and order, and loads with transformers. In: `train
--init-adapter` starts from what PEFT has saved, and refuses by name what is not plain LoRA of this base.
Exit code 77: PEFT is not installed.
"""
import copy
import csv
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from safetensors import safe_open
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

graphlora, source = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
golden = source / "tests/golden"
os.environ.update(OMP_NUM_THREADS="1")
ALL = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"


def run(*arguments, code=0):
    done = subprocess.run([str(graphlora), *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True)
    assert done.returncode == code, f"{arguments}: exit code {done.returncode}, expected {code}\n{done.stderr}"
    return done.stderr


def refused(message, *arguments, code):
    errors = [line for line in run(*arguments, code=code).splitlines() if "error" in line.lower()]
    assert len(errors) == 1 and message in errors[0], f"expected one line with {message!r}: {errors}"


def write_ratings(path):
    rng = random.Random(4)
    with open(path, "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["user", "item", "rating", "time", "title"])
        for user in range(12):
            for item in rng.sample(range(10), 7):
                out.writerow([f"u{user}", f"m{item}", 5 if user % 2 == item % 2 else 1, rng.randrange(1000),
                              f"The Story, Part {item}"])


def make_base(golden_model, directory, dtype, shard):
    """An HF directory as transformers writes it, in shards if `shard` bytes are given."""
    model = AutoModelForCausalLM.from_pretrained(golden_model, dtype=dtype)
    model.save_pretrained(directory, max_shard_size=shard or "1GB")
    shutil.copy(golden_model / "tokenizer.json", directory)
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    (directory / "README.md").write_text("the base's own")
    (directory / "LICENSE").write_text("its licence")
    return directory


def ulps(a, b):
    """Distance in units in the last place: floats of one sign are ordered as their bits."""
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    x, y = a.view(integer).long(), b.view(integer).long()
    key = lambda v: torch.where(v < 0, -(v + 2 ** (8 * a.element_size() - 1)), v)  # noqa: E731
    return (key(x) - key(y)).abs().max().item()


def tensor_files(directory):
    return {f.name: [(n, f2.get_tensor(n)) for n in f2.offset_keys()]
            for f in sorted(directory.glob("*.safetensors")) for f2 in [safe_open(f, "pt")]}


def check_merged(base, adapter, merged, rank_targets):
    files = tensor_files(base)
    written = tensor_files(merged)
    assert files.keys() == written.keys(), f"{files.keys()} became {written.keys()}"
    expected = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype="auto"),
                                         adapter).merge_and_unload().state_dict()
    stored = {name.removeprefix("base_model.model."): value.float()
              for name, value in load_file(adapter / "adapter_model.safetensors").items()}
    factors = {name.replace(".lora_A", ""): (value, stored[name.replace("lora_A", "lora_B")])
               for name, value in stored.items() if ".lora_A" in name}
    changed, worst = 0, 0
    for name, tensors in files.items():
        assert [n for n, _ in tensors] == [n for n, _ in written[name]], f"{name}: another order of tensors"
        assert (base / name).stat().st_size == (merged / name).stat().st_size
        for (tensor, before), (_, after) in zip(tensors, written[name]):
            assert before.dtype == after.dtype and before.shape == after.shape, tensor
            if before.element_size() == 2:
                worst = max(worst, ulps(after, expected[tensor]))
            elif not torch.equal(after, expected[tensor]):
                # Sums in fp32 on both sides: to the rounding of their terms, which may cancel.
                terms = before.abs() + (factors[tensor][1].abs() @ factors[tensor][0].abs()) * 7 / 4
                worst = max(worst, ((after - expected[tensor]).abs() / (terms * 2**-23)).max().item())
            changed += not torch.equal(before, after)
    assert changed == rank_targets, f"{changed} tensors changed, {rank_targets} are adapted"
    # A product of rank 4 has some roundings more on either side.
    limit = 1 if before.element_size() == 2 else 4
    assert worst <= limit, f"{worst} units in the last place from PEFT's merge"
    index = "model.safetensors.index.json"
    assert (base / index).exists() == (merged / index).exists()
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "LICENSE", index]:
        if (base / name).exists():
            assert (base / name).read_bytes() == (merged / name).read_bytes(), name
    card = (merged / "README.md").read_text()
    assert "projector" in card and "the base's own" not in card
    loaded = AutoModelForCausalLM.from_pretrained(merged, dtype="auto")
    tokens = torch.arange(5, 25)[None]
    with torch.no_grad():
        logits = loaded(tokens).logits
        unmerged = AutoModelForCausalLM.from_pretrained(base, dtype="auto")(tokens).logits
    assert logits.dtype == unmerged.dtype and not torch.equal(logits, unmerged)
    assert AutoTokenizer.from_pretrained(merged)("The Story").input_ids
    return worst


with tempfile.TemporaryDirectory() as scratch:
    work = Path(scratch)
    write_ratings(work / "ratings.csv")
    data = work / "dataset"
    run("prepare", "--input", work / "ratings.csv", "--format", "csv", "--split", "user-time", "--output", data)
    run("pretrain", "--data", data, "--output", work / "pretrained", "--pretrain.width", 6, "--pretrain.epochs", 2)

    def train(output, base, *more, **kwargs):
        return run("train", "--data", data, "--model", base, "--pretrained", work / "pretrained", "--output", output,
                   "--batch-size", 8, *more, **kwargs)

    # Out.
    cases = {"fp32": ("tiny_llama", torch.float32, None, "bf16", ALL),
             "bf16_sharded": ("tiny_llama", torch.bfloat16, "40KB", "bf16", "q_proj,v_proj"),
             "fp16_sharded": ("tiny_llama", torch.float16, "40KB", "fp32", "o_proj,down_proj"),
             "tied": ("tiny_llama_tied", torch.bfloat16, None, "fp64", ALL)}
    worst = {}
    for name, (golden_model, dtype, shard, precision, targets) in cases.items():
        base = make_base(golden / golden_model, work / name, dtype, shard)
        out = work / f"out_{name}"
        train(out, base, "--steps", 6, "--optim.lr", 0.05, "--optim.warmup", 0, "--precision", precision,
              "--lora.targets", targets, "--lora.rank", 4, "--lora.alpha", 7)
        run("export", "--checkpoint", out, "--what", "adapter", "--output", work / f"adapter_{name}")
        said = run("export", "--checkpoint", out, "--what", "merged", "--output", work / f"merged_{name}")
        assert "projector" in said and "z are not part of it" in said, said
        layers = json.loads((base / "config.json").read_text())["num_hidden_layers"]
        worst[name] = check_merged(base, work / f"adapter_{name}", work / f"merged_{name}",
                                   layers * len(targets.split(",")))
    base, out = work / "fp32", work / "out_fp32"
    # A merged model is replaced by the next export, nothing else is.
    run("export", "--checkpoint", out, "--what", "merged", "--output", work / "merged_fp32")
    refused("holds or lies in the LLM", "export", "--checkpoint", out, "--what", "merged", "--output", base, code=2)
    refused("holds or lies in the LLM", "export", "--checkpoint", out, "--what", "merged", "--output", base / "x",
            code=2)
    refused("holds other files", "export", "--checkpoint", out, "--what", "merged", "--output", data, code=2)
    refused("another base model", "export", "--checkpoint", out, "--what", "merged", "--model", work / "bf16_sharded",
            "--output", work / "new", code=3)
    assert not (work / "new").exists()

    # In: what PEFT saves, in each type.
    def peft_adapter(name, dtype=torch.float32, edit=None, model_dir=base, **config):
        model = AutoModelForCausalLM.from_pretrained(model_dir)
        config = {"r": 3, "lora_alpha": 5, "target_modules": ["v_proj", "down_proj"], **config}
        peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **config))
        torch.manual_seed(3)
        for parameter_name, parameter in peft.named_parameters():
            if "lora_B" in parameter_name:
                torch.nn.init.normal_(parameter, std=0.1)
        peft.to(dtype).save_pretrained(work / name)
        if edit:
            path = work / name / "adapter_config.json"
            settings = json.loads(path.read_text())
            settings.update(edit)
            path.write_text(json.dumps(settings))
        return work / name

    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        name = f"peft_{dtype}"
        adapter = peft_adapter(name, dtype)
        out = work / f"from_{name}"
        assert "starting from the adapter" in train(out, base, "--steps", 0, "--init-adapter", adapter)
        run("export", "--checkpoint", out, "--what", "adapter", "--output", work / f"again_{name}")
        before, after = (load_file(d / "adapter_model.safetensors") for d in (adapter, work / f"again_{name}"))
        assert before.keys() == after.keys()
        for tensor, value in before.items():
            assert after[tensor].dtype == torch.float32 and torch.equal(after[tensor], value.float()), tensor
        settings = json.loads((work / f"again_{name}/adapter_config.json").read_text())
        assert (settings["r"], settings["lora_alpha"]) == (3, 5)
        assert sorted(settings["target_modules"]) == ["down_proj", "v_proj"]
        manifest = json.loads((out / "step-000000/manifest.json").read_text())
        assert manifest["init_adapter"]["path"] == str(adapter)
    everything = peft_adapter("all_linear", target_modules="all-linear")
    train(work / "from_all", base, "--steps", 0, "--init-adapter", everything)
    train(work / "from_all_again", base, "--steps", 1, "--init-adapter", work / "from_all/step-000000/adapter",
          "--lora.rank", 3, "--lora.targets", "down_proj,up_proj,gate_proj,o_proj,v_proj,k_proj,q_proj")

    plain = work / "peft_torch.float32"
    tries = [("--lora.rank 8: the adapter in", 2, plain, ["--lora.rank", 8]),
             ("--lora.alpha 16: the adapter in", 2, plain, ["--lora.alpha", 16]),
             ("--lora.targets q_proj,v_proj: the adapter in", 2, plain, ["--lora.targets", "q_proj,v_proj"]),
             ("has no adapter_config.json", 3, base, []),
             ("use_rslora", 3, peft_adapter("rslora", use_rslora=True), []),
             ("use_dora", 3, peft_adapter("dora", use_dora=True), []),
             ("modules_to_save", 3, peft_adapter("saved", modules_to_save=["lm_head"]), []),
             ("bias", 3, peft_adapter("bias", bias="lora_only"), []),
             ("rank_pattern", 3, peft_adapter("ranks", rank_pattern={"v_proj": 2}), []),
             ("alpha_pattern", 3, peft_adapter("alphas", alpha_pattern={"v_proj": 2}), []),
             ("layers_to_transform", 3, peft_adapter("layers", layers_to_transform=[0]), []),
             ("target_modules is the pattern", 3, peft_adapter("regex", target_modules=r".*\.(q|v)_proj"), []),
             ("target_modules names \"lm_head\"", 3, peft_adapter("head", target_modules=["q_proj", "lm_head"]), []),
             ("init_lora_weights", 3, peft_adapter("pissa", edit={"init_lora_weights": "pissa"}), []),
             ("peft_type", 3, peft_adapter("type", edit={"peft_type": "IA3"}), []),
             ("says rank 9", 3, peft_adapter("rank", edit={"r": 9}), []),
             ("is not A or B of a linear", 3, peft_adapter("less", edit={"target_modules": ["v_proj"]}), []),
             ("has no tensor", 3, peft_adapter("more", edit={"target_modules": ["v_proj", "down_proj", "q_proj"]}), []),
             ("is damaged", 3, peft_adapter("no_rank", edit={"r": "eight"}), [])]
    wide = copy.deepcopy(json.loads((base / "config.json").read_text()))
    wide["intermediate_size"] += 2
    (work / "wide").mkdir()
    (work / "wide/config.json").write_text(json.dumps(wide))
    from transformers import AutoConfig
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(work / "wide")).save_pretrained(work / "wide")
    tries.append(("another base", 3, peft_adapter("other_base", model_dir=work / "wide"), []))
    deep = dict(wide, intermediate_size=wide["intermediate_size"] - 2, num_hidden_layers=wide["num_hidden_layers"] + 1)
    (work / "deep").mkdir()
    (work / "deep/config.json").write_text(json.dumps(deep))
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(work / "deep")).save_pretrained(work / "deep")
    tries.append(("has no place in the model", 3, peft_adapter("deep_base", model_dir=work / "deep"), []))
    cut = peft_adapter("cut")
    weights = cut / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    tries.append(("adapter_model.safetensors", 3, cut, []))
    for message, code, adapter, more in tries:
        refused_out = work / "refused"
        errors = [e for e in train(refused_out, base, "--steps", 0, "--init-adapter", adapter, *more,
                                   code=code).splitlines() if "error" in e.lower()]
        assert len(errors) == 1 and message in errors[0], f"{adapter.name}: expected {message!r}: {errors}"
        assert not (refused_out / "LATEST").exists()
    # A resumed run goes on with its own step, whatever --init-adapter says, if it is the same.
    out = work / "from_all_again"
    go_on = ["--steps", 2, "--resume", "--lora.rank", 3]
    train(out, base, *go_on, "--init-adapter", work / "from_all/step-000000/adapter")
    refused("--init-adapter", "train", "--data", data, "--model", base, "--pretrained", work / "pretrained", "--output",
            out, "--batch-size", 8, *go_on, "--init-adapter", plain, code=2)
    # Nor is that adapter still needed, named or not.
    (work / "from_all").rename(work / "moved")
    train(out, base, "--steps", 3, "--resume")
    train(out, base, "--steps", 4, "--resume", "--init-adapter", work / "from_all/step-000000/adapter")
    print(f"merged as PEFT does, largest distance in units in the last place {worst}; "
          f"{len(tries)} adapters refused by name")
