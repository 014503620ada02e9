"""torch (oneDNN) or OpenBLAS as a peer: see "Protocol" in ../README.md.  python.py torch|openblas THREADS"""
import ctypes, os, sys, time

LIB, THREADS = sys.argv[1], int(sys.argv[2])
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(THREADS)
os.environ["OPENBLAS_CORETYPE"] = "Cooperlake"  # in virtual machines it takes AVX-512 processors for older ones
os.environ["OPENBLAS_THREAD_TIMEOUT"] = "22"  # idle threads spin for 2^22 cycles, not 2^26
import numpy as np

kept = {}  # weights of the last case, by element


def copies(m, size):
    return (160 << 20) // size + 1 if m <= 16 else 1


def cached(key, make):
    if kept.get("key") != key[:3] or (key not in kept):
        if kept.get("key") != key[:3]:
            kept.clear()
            kept["key"] = key[:3]
        kept[key] = make()
    return kept[key]


def openblas():
    lib = ctypes.CDLL("/usr/lib/x86_64-linux-gnu/openblas-pthread/libopenblas.so.0")
    lib.openblas_get_config.restype = ctypes.c_char_p
    lib.openblas_set_num_threads(THREADS)
    p = lambda a: ctypes.c_void_p(a.ctypes.data)
    one, zero = ctypes.c_float(1), ctypes.c_float(0)

    def case(kind, element, *numbers):
        if kind != "mm" or element != "f32":
            return None
        m, n, k = numbers
        cp = copies(m, 4 * n * k)
        w = cached((element, n, k, cp), lambda: [np.resize(np.random.rand(1 << 16).astype(np.float32) - 0.5, (n, k)) for _ in range(cp)])
        x, y = np.random.rand(m, k).astype(np.float32), np.zeros((m, n), np.float32)
        if m == 1:
            return cp, [("OpenBLAS sgemv", lambda i: lib.cblas_sgemv(101, 111, n, k, one, p(w[i]), k, p(x), 1, zero, p(y), 1))]
        return cp, [("OpenBLAS", lambda i: lib.cblas_sgemm(101, 111, 112, m, n, k, one, p(x), k, p(w[i]), k, zero, p(y), n))]

    return lib.openblas_get_config().decode().strip(), case


def torch_():
    import torch
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel

    torch.set_num_threads(THREADS)
    torch.set_grad_enabled(False)
    types = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}

    def dense(element, m, n, k):
        dt = types[element]
        size = n * k * dt.itemsize
        cp = copies(m, size)
        rows = cached((element, n, k, cp), lambda: [(torch.from_numpy(np.resize(np.random.rand(1 << 16).astype(np.float32) - 0.5, (n, k)))).to(dt) for _ in range(cp)])
        x = (torch.rand(m, k) - 0.5).to(dt)
        runs = [("torch linear", lambda i: F.linear(x, rows[i]))]
        if element == "f16":  # oneDNN packs f16 weights for AVX512-FP16 alone
            return cp, runs
        try:
            packed = cached((element, n, k, cp, m), lambda: [torch.ops.mkldnn._reorder_linear_weight(w, m) for w in rows])
            runs.append(("oneDNN prepacked", lambda i: torch.ops.mkldnn._linear_pointwise(x, packed[i], None, "none", [], "")))
        except RuntimeError as e:
            print("torch:", e, file=sys.stderr)
        return cp, runs

    def int8(m, n, k):
        cp = min(copies(m, n * k), 60)
        w = cached(("i8", n, k), lambda: torch.from_numpy(np.resize(np.random.randint(-127, 128, 1 << 16, dtype=np.int8), (n, k))))
        runs = []
        xu = torch.randint(0, 255, (m, k), dtype=torch.uint8)
        packed = cached(("i8", n, k, cp, m), lambda: [torch.ops.onednn.qlinear_prepack(w.clone(), [m, k]) for _ in range(cp)])
        scale, zero = torch.rand(n), torch.zeros(n, dtype=torch.int32)
        runs.append(("oneDNN qlinear", lambda i: torch.ops.onednn.qlinear_pointwise(xu, 0.02, 12, packed[i], scale, zero, None, 1.0, 0, torch.float32, "none", [], "")))
        if m >= 128:
            xs, wt = torch.randint(-127, 127, (m, k), dtype=torch.int8), w.t()
            runs.append(("torch _int_mm", lambda i: torch._int_mm(xs, wt)))
        return cp, runs

    def attention(element, b, h, hkv, dk, dv, sq, skv, causal):
        if element not in types or (causal and sq != skv) or dk != dv and dk > 256:
            return None
        dt = types[element]
        size = b * hkv * skv * (dk + dv) * dt.itemsize
        cp = min(64, (96 << 20) // size + 1) if sq == 1 else 1
        q = torch.randn(b, h, sq, dk).to(dt)
        ks = [torch.randn(b, hkv, skv, dk).to(dt) for _ in range(cp)]
        vs = [torch.randn(b, hkv, skv, dv).to(dt) for _ in range(cp)]
        how = SDPBackend.FLASH_ATTENTION if dk == dv else SDPBackend.MATH

        def run(i):
            with sdpa_kernel(how):
                F.scaled_dot_product_attention(q, ks[i], vs[i], is_causal=bool(causal), enable_gqa=h != hkv)

        return cp, [("torch sdpa", run)]

    def case(kind, element, *numbers):
        if kind == "mm" and element in types:
            return dense(element, *numbers)
        if kind == "mm" and element == "i8":
            return int8(*numbers)
        if kind == "attn":
            return attention(element, *numbers)
        return None

    return f"torch {torch.__version__}", case


version, case = torch_() if LIB == "torch" else openblas()
open_ = None


def answer(words):
    global open_
    if words[0] == "version":
        return ["ok", version]
    if words[0] == "open":
        open_ = None
        if words[1] not in ("mm", "attn"):
            return ["none"]
        open_ = case(words[1], words[3], *map(int, words[4:]))
        return ["ok"] + [name for name, _ in open_[1]] if open_ else ["none"]
    if words[0] == "run" and open_:
        n, run = open_[0], open_[1][int(words[1])][1]
        start, samples = time.perf_counter(), []
        while not samples or (len(samples) < 1000 and time.perf_counter() - start < float(words[2])):
            t, done = time.perf_counter(), 0
            for i in range(n):
                run(i)
                done += 1
                if time.perf_counter() - t > 0.5:
                    break
            samples.append(str((time.perf_counter() - t) * 1e3 / done))
        return ["ok"] + samples
    return ["none"]


for line in sys.stdin:
    try:
        reply = answer(line.split())
    except Exception as e:
        print(f"{LIB}: {line.strip()}: {e!r}"[:300], file=sys.stderr)
        reply = ["none"]
    print("\t".join(reply), flush=True)
