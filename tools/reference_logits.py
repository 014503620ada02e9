#!/usr/bin/env python3
"""Reference logits of a GGUF model, computed by transformers in f32.

The weights are dequantized to f32 and the model runs in torch with the plain
("eager") attention, so nothing here is shared with gristmill. Compare with
`gristmill logits --model FILE --tokens ... --out F.safetensors --precision f32`.

    python3 tools/reference_logits.py MODEL.gguf OUT.safetensors [--tokens 1,2,3]
        [--greedy PROMPT --max-tokens 32] [--strings STRINGS.json --ids OUT.json]

OUT.safetensors holds `tokens` i32 [positions] and `logits` f32 [positions,
vocabulary]. With --greedy, the chat-templated prompt and its greedy
continuation are stored as `prompt` and `greedy` i32. With --strings, the
token ids that transformers gives for each string of a JSON list are written
to --ids, without special tokens added.

Needs: torch, transformers, accelerate, gguf, safetensors.
"""
import argparse
import json
import os

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT = "The miller's daughter could count to 1,024 in binary. One morning, she wrote:\n\n    fn main() { println!(\"grist\"); }\n"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("out")
    p.add_argument("--tokens", help="comma separated ids; default: a fixed text through the model's own tokenizer")
    p.add_argument("--greedy", help="a user message to continue greedily through the chat template")
    p.add_argument("--max-tokens", type=int, default=32)
    p.add_argument("--strings", help="JSON list of strings to tokenize")
    p.add_argument("--ids", help="where their ids go")
    a = p.parse_args()
    torch.set_num_threads(1)
    where, name = os.path.split(os.path.abspath(a.model))

    tok = AutoTokenizer.from_pretrained(where, gguf_file=name)
    if a.strings:
        with open(a.strings) as f:
            strings = json.load(f)
        ids = [tok(s, add_special_tokens=False)["input_ids"] for s in strings]
        with open(a.ids, "w") as f:
            json.dump(ids, f)

    tokens = [int(t) for t in a.tokens.split(",")] if a.tokens else tok(TEXT)["input_ids"][:40]
    model = AutoModelForCausalLM.from_pretrained(
        where, gguf_file=name, dtype=torch.float32, attn_implementation="eager")
    model.eval()
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0].float()
        held = {"tokens": torch.tensor(tokens, dtype=torch.int32), "logits": logits.contiguous()}
        hits = sum(int(logits[i].argmax()) == tokens[i + 1] for i in range(len(tokens) - 1))
        print(f"{name}: {len(tokens)} tokens {tokens}\n  next token guessed right {hits} times;",
              "argmax:", repr(tok.decode(logits.argmax(-1))))
        if a.greedy:
            chat = tok.apply_chat_template([{"role": "user", "content": a.greedy}],
                                           add_generation_prompt=True, return_tensors="pt", return_dict=True)
            out = model.generate(**chat, do_sample=False, max_new_tokens=a.max_tokens)[0]
            n = chat["input_ids"].shape[1]
            held["prompt"] = out[:n].to(torch.int32).contiguous()
            held["greedy"] = out[n:].to(torch.int32).contiguous()
            print("  prompt", repr(tok.decode(out[:n])), "\n  greedy", repr(tok.decode(out[n:])))
    save_file(held, a.out)


if __name__ == "__main__":
    main()
