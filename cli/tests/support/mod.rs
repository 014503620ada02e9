//! Small random models: as a GGUF file, and as plain f64 arithmetic that shares nothing with the
//! engine.
#![allow(dead_code)] // Each test binary uses a part of this.

pub mod naive;

use std::collections::BTreeMap;
use std::path::PathBuf;

use gristmill::QuantFormat;

/// A family of models.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Family {
    Llama,
    Qwen2,
    Gemma3,
}

pub const WIDTH: usize = 64;
pub const FFN: usize = 256;
pub const HEADS: usize = 4;
pub const KV_HEADS: usize = 2;
pub const HEAD_DIM: usize = 32;
pub const VOCAB: usize = 259;
pub const END: u32 = 256;
pub const EPS: f64 = 1e-5;
pub const WINDOW: usize = 5;
pub const EVERY: usize = 3;
pub const CONTEXT: u32 = 1024;

/// A tensor as the file holds it, and its numbers.
pub struct Stored {
    pub shape: Vec<usize>,
    pub ggml_type: u32,
    pub bytes: Vec<u8>,
    pub values: Vec<f64>,
}

pub struct Tiny {
    pub family: Family,
    pub layers: usize,
    pub tensors: BTreeMap<String, Stored>,
    /// Divisor of the rope frequencies of layers without a window.
    pub rope_divisor: f64,
}

/// SplitMix64.
struct Random(u64);

impl Random {
    /// Uniform in [-1, 1).
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

/// Element types that the weights of a model take in turn.
#[derive(Clone, Copy)]
enum Type {
    F32,
    F16,
    Quant(QuantFormat),
}

impl Tiny {
    pub fn new(family: Family) -> Self {
        let layers = if family == Family::Gemma3 { 4 } else { 2 };
        let mut random = Random(family as u64 + 11);
        let mut tensors = BTreeMap::new();
        let mut add = |name: String, shape: &[usize], ty: Type, centre: f64, spread: f64| {
            let n: usize = shape.iter().product();
            let x: Vec<f32> = (0..n)
                .map(|_| (centre + spread * random.next()) as f32)
                .collect();
            let (ggml_type, bytes, values) = match ty {
                Type::F32 => {
                    let bytes = x.iter().flat_map(|v| v.to_le_bytes()).collect();
                    (0, bytes, x)
                }
                Type::F16 => {
                    let h: Vec<half::f16> = x.iter().map(|&v| half::f16::from_f32(v)).collect();
                    let bytes = h.iter().flat_map(|v| v.to_le_bytes()).collect();
                    (1, bytes, h.iter().map(|v| v.to_f32()).collect())
                }
                Type::Quant(q) => {
                    let mut bytes = vec![0; n / q.block_len() * q.block_bytes()];
                    q.encode(&x, &mut bytes).unwrap();
                    let mut y = vec![0.0; n];
                    q.decode(&bytes, &mut y).unwrap();
                    (q.gguf_id(), bytes, y)
                }
            };
            let values = values.into_iter().map(f64::from).collect();
            let shape = shape.to_vec();
            tensors.insert(
                name,
                Stored {
                    shape,
                    ggml_type,
                    bytes,
                    values,
                },
            );
        };

        let q = |f: QuantFormat| Type::Quant(f);
        let (hq, hkv) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
        let of = |k: usize| 1.7 / (k as f64).sqrt();
        for i in 0..layers {
            let name = |what: &str| format!("blk.{i}.{what}");
            let odd = i % 2 == 1;
            add(name("attn_norm.weight"), &[WIDTH], Type::F32, 1.0, 0.3);
            let ty = if odd {
                q(QuantFormat::Q5_0)
            } else {
                q(QuantFormat::Q4_1)
            };
            add(
                name("attn_q.weight"),
                &[hq, WIDTH],
                ty,
                0.0,
                2.0 * of(WIDTH),
            );
            add(
                name("attn_k.weight"),
                &[hkv, WIDTH],
                ty,
                0.0,
                2.0 * of(WIDTH),
            );
            let ty = if odd { Type::F16 } else { q(QuantFormat::Q8_0) };
            add(name("attn_v.weight"), &[hkv, WIDTH], ty, 0.0, of(WIDTH));
            add(
                name("attn_output.weight"),
                &[WIDTH, hq],
                q(QuantFormat::Q4_0),
                0.0,
                of(hq),
            );
            add(name("ffn_norm.weight"), &[WIDTH], Type::F32, 1.0, 0.3);
            add(
                name("ffn_gate.weight"),
                &[FFN, WIDTH],
                q(QuantFormat::Q8_0),
                0.0,
                of(WIDTH),
            );
            add(name("ffn_up.weight"), &[FFN, WIDTH], ty, 0.0, of(WIDTH));
            let ty = if odd {
                q(QuantFormat::Q6_K)
            } else {
                q(QuantFormat::Q4_K)
            };
            add(name("ffn_down.weight"), &[WIDTH, FFN], ty, 0.0, of(FFN));
            if family == Family::Qwen2 {
                for (part, n) in [("q", hq), ("k", hkv), ("v", hkv)] {
                    add(
                        name(&format!("attn_{part}.bias")),
                        &[n],
                        Type::F32,
                        0.0,
                        0.5,
                    );
                }
            }
            if family == Family::Gemma3 {
                for part in ["attn_q_norm.weight", "attn_k_norm.weight"] {
                    add(name(part), &[HEAD_DIM], Type::F32, 1.0, 0.3);
                }
                for part in ["post_attention_norm.weight", "post_ffw_norm.weight"] {
                    add(name(part), &[WIDTH], Type::F32, 1.0, 0.3);
                }
            }
        }
        let table = [VOCAB, WIDTH];
        add(
            "token_embd.weight".into(),
            &table,
            q(QuantFormat::Q8_0),
            0.0,
            1.0,
        );
        if family == Family::Qwen2 {
            add(
                "output.weight".into(),
                &table,
                q(QuantFormat::Q5_0),
                0.0,
                1.0,
            );
        }
        if family == Family::Llama {
            add(
                "rope_freqs.weight".into(),
                &[HEAD_DIM / 2],
                Type::F32,
                3.0,
                2.0,
            );
        }
        add("output_norm.weight".into(), &[WIDTH], Type::F32, 1.0, 0.3);
        Tiny {
            family,
            layers,
            tensors,
            rope_divisor: 1.0,
        }
    }

    pub fn get(&self, name: &str) -> &[f64] {
        &self.tensors[name].values
    }

    pub fn theta(&self) -> f64 {
        if self.family == Family::Gemma3 {
            1e6
        } else {
            1e4
        }
    }

    /// The model as a GGUF file.
    pub fn gguf(&self) -> Vec<u8> {
        self.gguf_with(|g| {
            if self.family == Family::Gemma3 {
                g.u32("gemma3.attention.sliding_window_pattern", EVERY as u32);
            }
        })
    }

    /// The model with other metadata beyond the least.
    pub fn gguf_with(&self, more: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let arch = match self.family {
            Family::Llama => "llama",
            Family::Qwen2 => "qwen2",
            Family::Gemma3 => "gemma3",
        };
        let mut g = Writer::default();
        g.string("general.architecture", arch);
        for (what, value) in [
            ("block_count", self.layers as u32),
            ("context_length", CONTEXT),
            ("embedding_length", WIDTH as u32),
            ("feed_forward_length", FFN as u32),
            ("attention.head_count", HEADS as u32),
            ("attention.head_count_kv", KV_HEADS as u32),
            ("attention.key_length", HEAD_DIM as u32),
            ("attention.value_length", HEAD_DIM as u32),
        ] {
            g.u32(&format!("{arch}.{what}"), value);
        }
        g.f32(
            &format!("{arch}.attention.layer_norm_rms_epsilon"),
            EPS as f32,
        );
        g.f32(&format!("{arch}.rope.freq_base"), self.theta() as f32);
        if self.family == Family::Gemma3 {
            g.u32("gemma3.attention.sliding_window", WINDOW as u32);
        }
        more(&mut g);
        tokenizer(&mut g);
        g.file(&self.tensors)
    }
}

/// Byte-level BPE: every byte, an end token, and two merges.
fn tokenizer(g: &mut Writer) {
    let shown = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut hidden = 0x100..;
    let mut tokens: Vec<String> = (0..256)
        .map(|b| {
            let c = if shown(b) { b } else { hidden.next().unwrap() };
            char::from_u32(c).unwrap().to_string()
        })
        .collect();
    tokens.extend(["<|end|>", "ab", "abab"].map(str::to_owned));
    assert_eq!(tokens.len(), VOCAB);
    let types: Vec<[u8; 4]> = (0..VOCAB as u32)
        .map(|i| if i == END { 3i32 } else { 1 })
        .map(i32::to_le_bytes)
        .collect();
    g.string("tokenizer.ggml.model", "gpt2");
    g.string("tokenizer.ggml.pre", "smollm");
    g.strings("tokenizer.ggml.tokens", &tokens);
    g.strings(
        "tokenizer.ggml.merges",
        &["a b".to_owned(), "ab ab".to_owned()],
    );
    g.array("tokenizer.ggml.token_type", 5, &types);
    g.u32("tokenizer.ggml.eos_token_id", END);
    g.string(
        "tokenizer.chat_template",
        "{% for m in messages %}[{{ m['role'] }}]{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}>{% endif %}",
    );
}

/// Writes the header of a GGUF file.
#[derive(Default)]
pub struct Writer {
    keys: u64,
    header: Vec<u8>,
}

impl Writer {
    fn text(&mut self, s: &str) {
        self.header.extend((s.len() as u64).to_le_bytes());
        self.header.extend(s.as_bytes());
    }

    fn key(&mut self, key: &str, kind: u32) {
        self.keys += 1;
        self.text(key);
        self.header.extend(kind.to_le_bytes());
    }

    pub fn u32(&mut self, key: &str, value: u32) {
        self.key(key, 4);
        self.header.extend(value.to_le_bytes());
    }

    pub fn f32(&mut self, key: &str, value: f32) {
        self.key(key, 6);
        self.header.extend(value.to_le_bytes());
    }

    pub fn bool(&mut self, key: &str, value: bool) {
        self.key(key, 7);
        self.header.push(value.into());
    }

    pub fn string(&mut self, key: &str, value: &str) {
        self.key(key, 8);
        self.text(value);
    }

    pub fn strings(&mut self, key: &str, values: &[String]) {
        self.key(key, 9);
        self.header.extend(8u32.to_le_bytes());
        self.header.extend((values.len() as u64).to_le_bytes());
        for v in values {
            self.text(v);
        }
    }

    pub fn array<const N: usize>(&mut self, key: &str, kind: u32, values: &[[u8; N]]) {
        self.key(key, 9);
        self.header.extend(kind.to_le_bytes());
        self.header.extend((values.len() as u64).to_le_bytes());
        self.header.extend(values.iter().flatten());
    }

    /// The whole file.
    pub fn file(mut self, tensors: &BTreeMap<String, Stored>) -> Vec<u8> {
        let mut data = Vec::new();
        for (name, t) in tensors {
            self.text(name);
            self.header.extend((t.shape.len() as u32).to_le_bytes());
            for &d in t.shape.iter().rev() {
                self.header.extend((d as u64).to_le_bytes());
            }
            self.header.extend(t.ggml_type.to_le_bytes());
            self.header.extend((data.len() as u64).to_le_bytes());
            data.extend(&t.bytes);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        let mut file = b"GGUF".to_vec();
        file.extend(3u32.to_le_bytes());
        file.extend((tensors.len() as u64).to_le_bytes());
        file.extend(self.keys.to_le_bytes());
        file.extend(self.header);
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(data);
        file
    }
}

/// A folder that goes away with this.
pub struct Folder(PathBuf);

impl Folder {
    /// `name` keeps tests that run at once apart.
    pub fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("gristmill-cli-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Folder(dir)
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    pub fn write(&self, file: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(file);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder left behind in the temporary directory harms nothing.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
