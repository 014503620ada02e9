#!/usr/bin/env python3
"""Our kernels beside torch on the same shapes, and both beside this card's limits.

    python3 tools/gpu_table.py BENCH.jsonl [BENCH.jsonl ..]

Reads lines of `gristmill bench --json`, times the same work in torch on the first
CUDA device and prints a table in Markdown. The limits are measured here: a large
copy inside device memory (bytes read plus bytes written), and torch products of
8192 x 8192 x 8192 (in f32 without TF32, f16, bf16 and int8).

Both sides are timed alike: a batch of calls, one wait at its end, the time of the
batch over its calls, median of several batches. Where few rows are multiplied,
weights rotate over copies that exceed the cache.
"""
import json
import re
import statistics
import sys
import time

import torch
import torch.nn.functional as F

TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
COLD_BYTES = 512 << 20


def seconds(run, budget=0.1):
    """Median seconds of one call of `run(i)`."""
    for i in range(3):
        run(i)
    torch.cuda.synchronize()
    start = time.perf_counter()
    run(3)
    torch.cuda.synchronize()
    once = time.perf_counter() - start
    batch = max(1, min(2000, int(5e-3 / once) + 1))
    samples, begin = [], time.perf_counter()
    while len(samples) < 5 or time.perf_counter() - begin < budget:
        start = time.perf_counter()
        for i in range(batch):
            run(i)
        torch.cuda.synchronize()
        samples.append((time.perf_counter() - start) / batch)
    return statistics.median(samples)


def limits():
    out = {}
    x = torch.randn(256 << 20, device="cuda")
    y = torch.empty_like(x)
    out["copy"] = 2 * x.nbytes / seconds(lambda i: y.copy_(x))
    del x, y
    n = 8192
    for name, dtype in TYPES.items():
        a = torch.randn(n, n, device="cuda", dtype=dtype)
        b = torch.randn(n, n, device="cuda", dtype=dtype)
        out[name] = 2 * n**3 / seconds(lambda i: a @ b.t())
        del a, b
    a = torch.randint(-127, 128, (n, n), device="cuda", dtype=torch.int8)
    b = torch.randint(-127, 128, (n, n), device="cuda", dtype=torch.int8)
    out["i8"] = 2 * n**3 / seconds(lambda i: torch._int_mm(a, b.t()))
    torch.cuda.empty_cache()
    return out


def product(case):
    """y[M, N] = x[M, K] . w[N, K]^T, x and y as torch needs them: in the type of w."""
    found = re.fullmatch(r"mat_mul/bench/(\w+)/\w+/m(\d+)n(\d+)k(\d+)", case)
    if not found:
        return None
    m, n, k = (int(v) for v in found.groups()[1:])
    # A format that torch lacks stands beside bf16 weights of the same shape.
    dtype = TYPES.get(found[1], torch.bfloat16)
    if found[1] == "i8":
        if m <= 16:
            return None
        x = torch.randint(-127, 128, (m, k), device="cuda", dtype=torch.int8)
        w = torch.randint(-127, 128, (n, k), device="cuda", dtype=torch.int8)
        return "int_mm", lambda i: torch._int_mm(x, w.t())
    x = torch.randn(m, k, device="cuda", dtype=dtype)
    w = torch.randn(n, k, device="cuda", dtype=dtype)
    copies = [w]
    if m <= 16:
        copies += [w.clone() for _ in range(min(63, COLD_BYTES // w.nbytes))]
    count = len(copies)
    return f"linear {dtype}".replace("torch.", ""), lambda i: F.linear(x, copies[i % count])


def small(case):
    x = torch.randn(512, 4096, device="cuda")
    y = torch.empty_like(x)
    if case == "small/silu":
        return "silu", lambda i: F.silu(x)
    if case == "small/gelu":
        return "gelu", lambda i: F.gelu(x)
    if case == "small/add":
        return "add", lambda i: torch.add(x, x, out=y)
    if case == "small/softmax":
        return "softmax", lambda i: torch.softmax(x, 1)
    if case == "small/glu":
        a = torch.randn(512, 14336, device="cuda")
        return "silu * b", lambda i: F.silu(a) * a
    found = re.fullmatch(r"small/copy_(to|from)_(f32|f16|bf16)", case)
    if found:
        other = TYPES[found[2]]
        src = x if found[1] == "to" else x.to(other)
        dst = torch.empty_like(x, dtype=other) if found[1] == "to" else y
        return "copy_", lambda i: dst.copy_(src)
    if case == "small/transpose":
        t = torch.randn(4096, 512, device="cuda").t()
        return "copy_", lambda i: y.copy_(t)
    if case == "small/norm_rms":
        w = torch.randn(4096, device="cuda")
        return "rms_norm", lambda i: F.rms_norm(x, (4096,), w, 1e-5)
    return None


def attention(case):
    found = re.fullmatch(r"attention/bench/(\w+)/(f32|f16|bf16)/q(\d+)kv(\d+)d(\d+)", case)
    if not found:
        return None
    heads, kv_heads = {"decode": (32, 8), "decode_mqa": (32, 1), "self": (2, 2), "cross": (8, 8)}.get(found[1], (32, 8))
    sq, kv, d = (int(v) for v in found.groups()[2:])
    if found[1] == "prefill" and d == 256:
        heads, kv_heads = 16, 4
    dtype = TYPES[found[2]]
    q = torch.randn(1, heads, sq, d, device="cuda", dtype=dtype)
    k = torch.randn(1, kv_heads, kv, d, device="cuda", dtype=dtype)
    v = torch.randn(1, kv_heads, kv, d, device="cuda", dtype=dtype)
    causal = found[1] == "prefill"
    return "sdpa", lambda i: F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)


def main():
    torch.manual_seed(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    top = limits()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: copy {top['copy'] / 1e9:.0f} GB/s; products of 8192^3: "
          + ", ".join(f"{t} {top[t] / 1e12:.0f} T/s" for t in ("f32", "f16", "bf16", "i8")))
    print("\n| device | case | kernel | us | GB/s | GFLOP/s | torch | torch us | ours / torch |\n|---|---|---|---|---|---|---|---|---|")
    known = {}
    for path in sys.argv[1:]:
        device = path
        for line in open(path):
            if not line.startswith("{"):
                continue
            row = json.loads(line)
            if "case" not in row:
                device = f"{row['device']} {row['name']}"
                continue
            case = row["case"]
            if case not in known:
                made = product(case) or small(case) or attention(case)
                known[case] = made and (made[0], seconds(made[1], 0.03) * 1e6)
                torch.cuda.empty_cache()
            us = row["ms"] * 1e3
            name, theirs = known[case] or ("", None)
            beside = f"{theirs:.1f} | {us / theirs:.2f}" if theirs else " | "
            print(f"| {device.split()[0]} | {case} | {row['kernel']} | {us:.1f} | {row['gbytes']:.0f} | {row['gflops']:.0f} | {name} | {beside} |")


if __name__ == "__main__":
    main()
