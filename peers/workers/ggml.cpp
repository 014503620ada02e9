// ggml and llama.cpp as a peer: see "Protocol" in ../README.md.
#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"
#include "llama.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

static double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

static std::mt19937 rng(1);

static void fill(std::vector<float> & v, float scale) {
    std::normal_distribution<float> d(0, scale);
    for (auto & x : v) x = d(rng);
}

static ggml_type type_named(const std::string & name) {
    for (int i = 0; i < GGML_TYPE_COUNT; i++) {
        const char * n = ggml_type_name((ggml_type) i);
        if (n && strcasecmp(n, name.c_str()) == 0) return (ggml_type) i;
    }
    return GGML_TYPE_COUNT;
}

// Bytes of `rows` rows of k numbers: a few encoded rows, repeated.
static std::vector<uint8_t> encoded(ggml_type t, int64_t k, int64_t rows) {
    const int64_t some = std::min<int64_t>(rows, 16);
    std::vector<float> f(some * k), importance(k, 1.f);
    fill(f, 0.05f);
    std::vector<uint8_t> one(ggml_row_size(t, k) * some), all(ggml_row_size(t, k) * rows);
    if (t == GGML_TYPE_F32) memcpy(one.data(), f.data(), one.size());
    else ggml_quantize_chunk(t, f.data(), one.data(), 0, some, k, importance.data());
    for (size_t o = 0; o < all.size(); o += one.size())
        memcpy(all.data() + o, one.data(), std::min(one.size(), all.size() - o));
    return all;
}

// A case that is open: names of its variants, and samples of one of them.
struct Case {
    std::vector<std::string> names;
    virtual ~Case() = default;
    // Seconds of one run.
    virtual double sample(size_t variant) = 0;
};

static ggml_backend_t backend;

static ggml_context * context(size_t tensors) {
    ggml_init_params p = { ggml_tensor_overhead() * tensors + ggml_graph_overhead_custom(tensors, false) + (1 << 16), nullptr, true };
    return ggml_init(p);
}

// Copies of one weight in one kind of buffer, kept from case to case.
struct Weights {
    ggml_type type;
    int64_t n, k;
    size_t copies;
    ggml_context * ctx = nullptr;
    ggml_backend_buffer_t buffer = nullptr;
    std::vector<ggml_tensor *> w;

    Weights(ggml_type type, int64_t n, int64_t k, size_t copies, ggml_backend_buffer_type_t where)
        : type(type), n(n), k(k), copies(copies) {
        ctx = context(copies + 8);
        for (size_t c = 0; c < copies; c++) w.push_back(ggml_new_tensor_2d(ctx, type, k, n));
        buffer = ggml_backend_alloc_ctx_tensors_from_buft(ctx, where);
        if (!buffer) return;
        auto bytes = encoded(type, k, n);
        for (auto t : w) ggml_backend_tensor_set(t, bytes.data(), 0, bytes.size());
    }
    ~Weights() {
        if (buffer) ggml_backend_buffer_free(buffer);
        ggml_free(ctx);
    }
};

static std::vector<std::unique_ptr<Weights>> kept;
static std::vector<std::string> kept_names;

// Does this kind of buffer take the weight?
static bool takes(ggml_backend_buffer_type_t where, ggml_type t, int64_t m, int64_t n, int64_t k) {
    if (where == ggml_backend_cpu_buffer_type()) return true;
    ggml_context * c = context(8);
    ggml_tensor * w = ggml_new_tensor_2d(c, t, k, n), * x = ggml_new_tensor_2d(c, GGML_TYPE_F32, k, m);
    ggml_tensor * y = ggml_mul_mat(c, w, x);
    ggml_backend_buffer_t probe = ggml_backend_buft_alloc_buffer(where, 0);
    w->buffer = probe;
    bool ok = ggml_backend_dev_supports_op(ggml_backend_get_device(backend), y);
    ggml_backend_buffer_free(probe);
    ggml_free(c);
    return ok;
}

struct Graph {
    ggml_context * ctx = nullptr;
    ggml_backend_buffer_t buffer = nullptr;
    ggml_cgraph * graph = nullptr;
    size_t runs = 0;
    ~Graph() {
        if (buffer) ggml_backend_buffer_free(buffer);
        if (ctx) ggml_free(ctx);
    }
    double sample() {
        double t = now();
        ggml_backend_graph_compute(backend, graph);
        return (now() - t) / runs;
    }
};

struct MatMul : Case {
    std::vector<std::unique_ptr<Graph>> graphs;
    MatMul(ggml_type t, int64_t m, int64_t n, int64_t k) {
        const size_t bytes = ggml_row_size(t, k) * n;
        const size_t copies = (160u << 20) / bytes + 1;
        if (kept.empty() || kept[0]->type != t || kept[0]->n != n || kept[0]->k != k || (m <= 16 && kept[0]->copies < copies)) {
            kept.clear();
            kept_names.clear();
            std::vector<ggml_backend_buffer_type_t> where = { ggml_backend_cpu_buffer_type() };
            auto dev = ggml_backend_get_device(backend);
            auto extra = (ggml_backend_dev_get_extra_bufts_t) ggml_backend_reg_get_proc_address(
                ggml_backend_dev_backend_reg(dev), "ggml_backend_dev_get_extra_bufts");
            if (extra) for (auto p = extra(dev); p && *p; p++) where.push_back(*p);
            for (auto b : where) {
                if (!takes(b, t, m, n, k)) continue;
                kept.push_back(std::make_unique<Weights>(t, n, k, m <= 16 ? copies : 1, b));
                kept_names.push_back(b == where[0] ? "ggml" : "ggml repacked");
            }
        }
        for (size_t i = 0; i < kept.size(); i++) {
            if (!kept[i]->buffer) continue;
            auto g = std::make_unique<Graph>();
            g->runs = m <= 16 ? kept[i]->copies : 1;
            g->ctx = context(g->runs * 2 + 8);
            ggml_tensor * x = ggml_new_tensor_2d(g->ctx, GGML_TYPE_F32, k, m);
            g->graph = ggml_new_graph_custom(g->ctx, g->runs * 2 + 8, false);
            for (size_t c = 0; c < g->runs; c++)
                ggml_build_forward_expand(g->graph, ggml_mul_mat(g->ctx, kept[i]->w[c], x));
            g->buffer = ggml_backend_alloc_ctx_tensors(g->ctx, backend);
            std::vector<float> data(m * k);
            fill(data, 1.f);
            ggml_backend_tensor_set(x, data.data(), 0, data.size() * 4);
            graphs.push_back(std::move(g));
            names.push_back(kept_names[i]);
        }
    }
    double sample(size_t v) override { return graphs[v]->sample(); }
};

struct Attention : Case {
    Graph g;
    Attention(ggml_type t, int64_t b, int64_t h, int64_t hkv, int64_t dk, int64_t dv, int64_t sq, int64_t skv, bool causal) {
        const size_t bytes = (ggml_row_size(t, dk) + ggml_row_size(t, dv)) * skv * hkv * b;
        g.runs = sq == 1 ? std::min<size_t>(64, (96u << 20) / bytes + 1) : 1;
        g.ctx = context(g.runs * 4 + 16);
        ggml_tensor * q = ggml_new_tensor_4d(g.ctx, GGML_TYPE_F32, dk, sq, h, b);
        ggml_tensor * mask = causal && sq > 1 ? ggml_new_tensor_4d(g.ctx, GGML_TYPE_F16, skv, sq, 1, 1) : nullptr;
        g.graph = ggml_new_graph_custom(g.ctx, g.runs * 4 + 16, false);
        std::vector<ggml_tensor *> ks, vs;
        for (size_t i = 0; i < g.runs; i++) {
            ks.push_back(ggml_new_tensor_4d(g.ctx, t, dk, skv, hkv, b));
            vs.push_back(ggml_new_tensor_4d(g.ctx, t, dv, skv, hkv, b));
            ggml_build_forward_expand(g.graph, ggml_flash_attn_ext(g.ctx, q, ks[i], vs[i], mask, 1.f / std::sqrt((float) dk), 0.f, 0.f));
        }
        g.buffer = ggml_backend_alloc_ctx_tensors(g.ctx, backend);
        auto qs = encoded(GGML_TYPE_F32, dk, sq * h * b);
        ggml_backend_tensor_set(q, qs.data(), 0, qs.size());
        auto kb = encoded(t, dk, skv * hkv * b), vb = encoded(t, dv, skv * hkv * b);
        for (auto k : ks) ggml_backend_tensor_set(k, kb.data(), 0, kb.size());
        for (auto v : vs) ggml_backend_tensor_set(v, vb.data(), 0, vb.size());
        if (mask) {
            std::vector<ggml_fp16_t> m(skv * sq);
            for (int64_t i = 0; i < sq; i++)
                for (int64_t j = 0; j < skv; j++) m[i * skv + j] = ggml_fp32_to_fp16(j <= i + skv - sq ? 0.f : -INFINITY);
            ggml_backend_tensor_set(mask, m.data(), 0, m.size() * 2);
        }
        names = { "ggml flash" };
    }
    double sample(size_t) override { return g.sample(); }
};

// Rows to f32 or bf16 in memory, to bf16 by way of a row of f32, as llama.cpp does it. ggml has no parallel form: threads
// are this program's.
struct Dequantize : Case {
    ggml_type t, to;
    int64_t rows, k;
    int threads;
    std::vector<uint8_t> bytes;
    std::vector<uint8_t> out;
    Dequantize(ggml_type t, ggml_type to, int64_t rows, int64_t k, int threads)
        : t(t), to(to), rows(rows), k(k), threads(threads), bytes(encoded(t, k, rows)), out(rows * ggml_row_size(to, k)) {
        names = { "ggml to_float" };
    }
    double sample(size_t) override {
        double start = now();
        auto part = [&](int64_t from, int64_t until) {
            auto * traits = ggml_get_type_traits(t);
            std::vector<float> row(k);
            for (int64_t r = from; r < until; r++) {
                auto * y = out.data() + r * ggml_row_size(to, k);
                auto * x = bytes.data() + r * ggml_row_size(t, k);
                if (to == GGML_TYPE_F32) traits->to_float(x, (float *) y, k);
                else {
                    traits->to_float(x, row.data(), k);
                    ggml_cpu_fp32_to_bf16(row.data(), (ggml_bf16_t *) y, k);
                }
            }
        };
        std::vector<std::thread> others;
        for (int i = 1; i < threads; i++) others.emplace_back(part, rows * i / threads, rows * (i + 1) / threads);
        part(0, rows / threads);
        for (auto & o : others) o.join();
        return now() - start;
    }
};

struct Model : Case {
    bool prefill;
    std::vector<llama_model *> models;
    std::vector<llama_context *> contexts;
    std::vector<llama_token> tokens;
    Model(const std::string & path, bool prefill, int threads) : prefill(prefill), tokens(512) {
        for (int repack = 1; repack >= 0; repack--) {
            auto mp = llama_model_default_params();
            mp.use_extra_bufts = repack;
            mp.n_gpu_layers = 0;
            llama_model * m = llama_model_load_from_file(path.c_str(), mp);
            if (!m) continue;
            auto cp = llama_context_default_params();
            cp.n_ctx = 1024;
            cp.n_batch = cp.n_ubatch = 512;
            cp.n_threads = cp.n_threads_batch = threads;
            cp.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
            models.push_back(m);
            contexts.push_back(llama_init_from_model(m, cp));
            names.push_back(repack ? "llama.cpp" : "llama.cpp plain");
            int vocab = llama_vocab_n_tokens(llama_model_get_vocab(m));
            for (auto & t : tokens) t = 100 + rng() % (vocab - 200);
        }
    }
    ~Model() override {
        for (auto c : contexts) llama_free(c);
        for (auto m : models) llama_model_free(m);
    }
    double sample(size_t v) override {
        llama_context * c = contexts[v];
        llama_memory_clear(llama_get_memory(c), true);
        double start = now();
        if (prefill) llama_decode(c, llama_batch_get_one(tokens.data(), 512));
        else
            for (int i = 0; i < 128; i++) {
                llama_decode(c, llama_batch_get_one(&tokens[i], 1));
                llama_synchronize(c);
            }
        llama_synchronize(c);
        return now() - start;
    }
};

static void quiet(ggml_log_level level, const char * text, void *) {
    if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

int main() {
    llama_log_set(quiet, nullptr);
    llama_backend_init();
    backend = ggml_backend_cpu_init();
    std::unique_ptr<Case> open;
    std::string line;
    while (std::getline(std::cin, line)) {
        std::istringstream in(line);
        std::string command, kind, type;
        in >> command;
        if (command == "version") {
            std::cout << "ok\tllama-cpp-sys-2 0.1.161 (ggml " << ggml_version() << ")" << std::endl;
        } else if (command == "open") {
            open.reset();
            int64_t threads = 1;
            in >> kind >> threads >> type;
            ggml_type t = type_named(type);
            ggml_backend_cpu_set_n_threads(backend, threads);
            if (kind == "mm") {
                int64_t m, n, k;
                in >> m >> n >> k;
                if (t != GGML_TYPE_COUNT && k % ggml_blck_size(t) == 0 && t != GGML_TYPE_I8) open = std::make_unique<MatMul>(t, m, n, k);
            } else if (kind == "attn") {
                int64_t b, h, hkv, dk, dv, sq, skv;
                int causal;
                in >> b >> h >> hkv >> dk >> dv >> sq >> skv >> causal;
                kept.clear();
                if (t != GGML_TYPE_COUNT && dk % ggml_blck_size(t) == 0 && dv % ggml_blck_size(t) == 0)
                    open = std::make_unique<Attention>(t, b, h, hkv, dk, dv, sq, skv, causal);
            } else if (kind == "dequant") {
                int64_t rows, k;
                std::string to;
                in >> to >> rows >> k;
                kept.clear();
                if (t != GGML_TYPE_COUNT && ggml_get_type_traits(t)->to_float) open = std::make_unique<Dequantize>(t, type_named(to), rows, k, threads);
            } else if (kind == "model") {
                std::string path;
                in >> std::ws;
                std::getline(in, path);
                kept.clear();
                open = std::make_unique<Model>(path, type == "pp512", threads);
            }
            if (!open || open->names.empty()) std::cout << "none" << std::endl;
            else {
                std::cout << "ok";
                for (auto & n : open->names) std::cout << '\t' << n;
                std::cout << std::endl;
            }
        } else if (command == "run") {
            size_t variant = 0;
            double seconds = 0;
            in >> variant >> seconds;
            if (!open || variant >= open->names.size()) {
                std::cout << "none" << std::endl;
                continue;
            }
            std::ostringstream out;
            double start = now();
            int runs = 0;
            do { out << '\t' << open->sample(variant) * 1e3; } while (++runs < 1000 && now() - start < seconds);
            std::cout << "ok" << out.str() << std::endl;
        } else std::cout << "none" << std::endl;
    }
    return 0;
}
