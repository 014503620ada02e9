//! The subcommands that run a model, on small random models.
//!
//! They run on the device that `GRISTMILL_DEVICE` names, else on the CPU.

mod support;

use std::path::Path;
use std::process::{Command, Output};

use safetensors::SafeTensors;
use support::{CONTEXT, END, EVERY, Family, Folder, Tiny, VOCAB, Writer};

const FAMILIES: [Family; 3] = [Family::Llama, Family::Qwen2, Family::Gemma3];

fn gristmill(subcommand: &str, model: &Path, args: &[&str]) -> Output {
    let device = std::env::var("GRISTMILL_DEVICE").unwrap_or_else(|_| "cpu".into());
    Command::new(env!("CARGO_BIN_EXE_gristmill"))
        .env_remove("RUST_BACKTRACE")
        .args([subcommand, "--device", &device, "--model"])
        .arg(model)
        .args(args)
        .output()
        .unwrap()
}

fn succeed(subcommand: &str, model: &Path, args: &[&str]) -> Output {
    let out = gristmill(subcommand, model, args);
    assert!(
        out.status.success(),
        "{subcommand} {args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    out
}

/// The message of a run that must fail with exit code 1.
fn fail(subcommand: &str, model: &Path, args: &[&str]) -> String {
    let out = gristmill(subcommand, model, args);
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{subcommand} {args:?}: {said}");
    assert!(
        said.starts_with("error: ") && out.stdout.is_empty(),
        "{said}"
    );
    said
}

fn tokens(count: usize) -> Vec<u32> {
    (0..count as u32)
        .map(|i| (i * i * 31 + i * 17 + 5) % VOCAB as u32)
        .collect()
}

fn list(tokens: &[u32]) -> String {
    tokens
        .iter()
        .map(u32::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

/// Largest squared error of a position relative to the logits' own variance.
fn worst(got: &[f32], want: &[Vec<f64>]) -> f64 {
    assert_eq!(got.len(), want.len() * VOCAB);
    let mut worst = 0.0f64;
    for (got, want) in got.chunks(VOCAB).zip(want) {
        let mean = |x: &[f64]| x.iter().sum::<f64>() / VOCAB as f64;
        let got: Vec<f64> = got.iter().map(|&v| v.into()).collect();
        let (mg, mw) = (mean(&got), mean(want));
        let error: f64 = got
            .iter()
            .zip(want)
            .map(|(g, w)| ((g - mg) - (w - mw)).powi(2))
            .sum();
        let size: f64 = want.iter().map(|w| (w - mw).powi(2)).sum();
        assert!(error.is_finite() && size > 0.0);
        worst = worst.max(error / size);
    }
    worst
}

fn logits(folder: &Folder, model: &Path, tokens: &[u32], precision: &str) -> Vec<f32> {
    let out = folder.path(&format!("{precision}.safetensors"));
    let out_arg = out.to_str().unwrap();
    succeed(
        "logits",
        model,
        &[
            "--tokens",
            &list(tokens),
            "--out",
            out_arg,
            "--precision",
            precision,
        ],
    );
    let bytes = std::fs::read(&out).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let t = file.tensor("logits").unwrap();
    assert_eq!(t.shape(), [tokens.len(), VOCAB]);
    t.data()
        .chunks(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

#[test]
fn logits_agree_with_naive_arithmetic() {
    for family in FAMILIES {
        let folder = Folder::new(&format!("logits-{family:?}"));
        let tiny = Tiny::new(family);
        let model = folder.write("m.gguf", &tiny.gguf());
        // More positions than the window and than the logits computed at once.
        let tokens = tokens(37);
        let want = tiny.forward(&tokens);
        // Half precision may be bf16, which rounds eight times as coarsely as f16: 64 times the
        // squared error.
        for (precision, bound) in [("f32", 1e-9), ("f16", 1e-3), ("q8", 1e-2)] {
            let e = worst(&logits(&folder, &model, &tokens, precision), &want);
            assert!(e <= bound, "{family:?} at {precision}: {e:.1e}");
        }
    }
}

#[test]
fn a_long_prompt_is_read_in_several_steps() {
    let folder = Folder::new("chunks");
    let tiny = Tiny::new(Family::Llama);
    let model = folder.write("m.gguf", &tiny.gguf());
    let tokens = tokens(540);
    let e = worst(
        &logits(&folder, &model, &tokens, "f32"),
        &tiny.forward(&tokens),
    );
    assert!(e <= 1e-9, "{e:.1e}");
}

#[test]
fn gemma_variants_agree_with_naive_arithmetic() {
    let folder = Folder::new("gemma");
    let mut tiny = Tiny::new(Family::Gemma3);
    tiny.rope_divisor = 4.0;
    let tokens = tokens(30);
    let want = tiny.forward(&tokens);
    let pattern = "gemma3.attention.sliding_window_pattern";
    let file = |pattern: &dyn Fn(&mut Writer)| {
        tiny.gguf_with(|g| {
            pattern(g);
            g.string("gemma3.rope.scaling.type", "linear");
            g.f32("gemma3.rope.scaling.factor", 4.0);
        })
    };
    // The third of four layers sees everything: said as a period, and as a list.
    let period = file(&|g| g.u32(pattern, EVERY as u32));
    let listed = file(&|g| g.array(pattern, 7, &[[1u8], [1], [0], [1]]));
    for bytes in [period, listed] {
        let model = folder.write("m.gguf", &bytes);
        let e = worst(&logits(&folder, &model, &tokens, "f32"), &want);
        assert!(e <= 1e-9, "{e:.1e}");
    }
}

#[test]
fn what_the_engine_lacks_is_named() {
    let folder = Folder::new("lacks");
    let said = |more: &dyn Fn(&mut Writer)| {
        let model = folder.write("m.gguf", &Tiny::new(Family::Llama).gguf_with(more));
        fail("generate", &model, &["--prompt", "ab"])
    };
    let experts = said(&|g| g.u32("llama.expert_count", 8));
    assert!(experts.contains("mixture of 8 experts"), "{experts}");
    let scaling = said(&|g| g.string("llama.rope.scaling.type", "yarn"));
    assert!(scaling.contains("rope scaling yarn"), "{scaling}");
    let cap = said(&|g| g.f32("llama.final_logit_softcapping", 30.0));
    assert!(cap.contains("final_logit_softcapping = 30"), "{cap}");
}

fn json(out: &Output) -> serde_json::Value {
    let text = std::str::from_utf8(&out.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(text).unwrap()
}

#[test]
fn greedy_generation_agrees_with_naive_arithmetic() {
    for family in FAMILIES {
        let folder = Folder::new(&format!("greedy-{family:?}"));
        let tiny = Tiny::new(family);
        let model = folder.write("m.gguf", &tiny.gguf());
        // "abab" is one token; the template adds what stands around it.
        let raw = [&[258][..], &[b' '.into(), b'x'.into()]].concat();
        let chat: Vec<u32> = "[user]".bytes().map(u32::from).chain(raw.clone()).collect();
        let chat = [&chat[..], &[b'\n'.into(), b'>'.into()]].concat();
        let common = [
            "--prompt",
            "abab x",
            "--max-tokens",
            "20",
            "--precision",
            "f32",
            "--json",
        ];
        for (prompt, extra) in [(raw, Some("--raw")), (chat, None)] {
            let args: Vec<&str> = common.into_iter().chain(extra).collect();
            let got = json(&succeed("generate", &model, &args));
            let want = tiny.greedy(&prompt, 20);
            assert_eq!(got["prompt_tokens"], prompt.len(), "{family:?}");
            assert_eq!(
                got["tokens"],
                serde_json::json!(want),
                "{family:?} {extra:?}"
            );
            assert_eq!(got["stop"], if want.len() < 20 { "end" } else { "length" });
        }
    }
}

#[test]
fn text_alone_goes_to_standard_output() {
    let folder = Folder::new("text");
    let tiny = Tiny::new(Family::Qwen2);
    let model = folder.write("m.gguf", &tiny.gguf());
    let args = [
        "--prompt",
        "abab x",
        "--raw",
        "--max-tokens",
        "12",
        "--precision",
        "f32",
    ];
    let out = succeed("generate", &model, &args);
    let mut want = Vec::new();
    for t in tiny.greedy(&[258, b' '.into(), b'x'.into()], 12) {
        match t {
            257 => want.extend(b"ab"),
            258 => want.extend(b"abab"),
            t => want.push(t as u8),
        }
    }
    let want = String::from_utf8_lossy(&want).into_owned() + "\n";
    assert_eq!(String::from_utf8(out.stdout).unwrap(), want);
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(
        said.contains("prefill 3 tokens") && said.contains("tokens/s"),
        "{said}"
    );
}

#[test]
fn a_seed_repeats_and_a_temperature_varies() {
    let folder = Folder::new("seed");
    let model = folder.write("m.gguf", &Tiny::new(Family::Llama).gguf());
    let run = |seed: &str| {
        let args = [
            "--prompt",
            "ab",
            "--raw",
            "--max-tokens",
            "24",
            "--temperature",
            "2",
            "--json",
        ];
        let args: Vec<&str> = args.into_iter().chain(["--seed", seed]).collect();
        json(&succeed("generate", &model, &args))["tokens"].clone()
    };
    assert_eq!(run("1"), run("1"));
    assert_ne!(run("1"), run("2"));
}

#[test]
fn bench_model_reports_both_rates() {
    let folder = Folder::new("bench");
    let model = folder.write("m.gguf", &Tiny::new(Family::Gemma3).gguf());
    let args = ["--pp", "16", "--tg", "8", "--repeat", "1", "--json"];
    let line = json(&succeed("bench-model", &model, &args));
    for key in ["pp", "tg"] {
        assert!(line[key].as_f64().is_some_and(|r| r > 0.0), "{line}");
    }
}

#[test]
fn failures_say_what_is_wrong() {
    let folder = Folder::new("errors");
    let tiny = Tiny::new(Family::Llama);
    let whole = tiny.gguf();
    let model = folder.write("m.gguf", &whole);
    let out = folder.path("o.safetensors");
    let out = out.to_str().unwrap();
    let logits =
        |model: &Path, tokens: &str| fail("logits", model, &["--tokens", tokens, "--out", out]);

    let said = logits(&folder.path("absent.gguf"), "1");
    assert!(
        said.contains("cannot open") && said.contains("absent.gguf"),
        "{said}"
    );
    for (len, what) in [
        (0, "not a GGUF"),
        (3000, "truncated"),
        (whole.len() - 4096, "truncated"),
    ] {
        let said = logits(&folder.write("cut.gguf", &whole[..len]), "1");
        assert!(said.contains(what), "{len}: {said}");
    }
    let end = format!("1,{VOCAB}");
    assert!(logits(&model, &end).contains("token id 259 is outside the vocabulary of 259"));
    let long = list(&vec![1; CONTEXT as usize + 1]);
    assert!(logits(&model, &long).contains("context overflow"));
    let said = fail(
        "generate",
        &model,
        &["--prompt", "ab", "--max-tokens", "5000"],
    );
    assert!(said.contains("context overflow"), "{said}");
    let said = fail("bench-model", &model, &["--pp", "5000"]);
    assert!(said.contains("context overflow"), "{said}");
    let said = fail("generate", &model, &["--raw", "--prompt", ""]);
    assert!(said.contains("the prompt is empty"), "{said}");

    let said = String::from_utf8(
        Command::new(env!("CARGO_BIN_EXE_gristmill"))
            .args([
                "logits", "--device", "abacus", "--tokens", "1", "--out", out, "--model",
            ])
            .arg(&model)
            .output()
            .unwrap()
            .stderr,
    )
    .unwrap();
    assert!(said.contains("abacus"), "{said}");

    // The same file with one thing changed in it.
    let changed = |from: &[u8], to: &[u8]| {
        let mut f = whole.clone();
        let at = f.windows(from.len()).position(|w| w == from).unwrap();
        f[at..at + to.len()].copy_from_slice(to);
        logits(&folder.write("changed.gguf", &f), "1")
    };
    let said = changed(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0mamba");
    assert!(
        said.contains("the architecture mamba is not supported"),
        "{said}"
    );
    let said = changed(b"blk.1.ffn_up", b"blk.1.ffn_xx");
    assert!(said.contains("blk.1.ffn_up.weight is missing"), "{said}");
    let mut info = b"output_norm.weight\x01\0\0\0".to_vec();
    info.extend(64u64.to_le_bytes());
    let unknown = [&info[..], &777u32.to_le_bytes()].concat();
    let said = changed(&info, &unknown);
    assert!(said.contains("has type 777"), "{said}");
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    let folder = Folder::new("usage");
    let model = folder.write("m.gguf", &Tiny::new(Family::Llama).gguf());
    for args in [
        &["--tokens", "1,x", "--out", "o"][..],
        &["--tokens", "1"],
        &["--tokens", "1", "--out", "o", "--precision", "f8"],
    ] {
        assert_eq!(
            gristmill("logits", &model, args).status.code(),
            Some(2),
            "{args:?}"
        );
    }
    let cold = ["--prompt", "x", "--temperature", "-1"];
    assert_eq!(gristmill("generate", &model, &cold).status.code(), Some(2));
}

#[test]
fn tokenize_prints_ids() {
    let folder = Folder::new("tokenize");
    let model = folder.write("m.gguf", &Tiny::new(Family::Llama).gguf());
    let out = Command::new(env!("CARGO_BIN_EXE_gristmill"))
        .args(["tokenize", "ab ababab1é<|end|>", "--model"])
        .arg(&model)
        .output()
        .unwrap();
    let want = [257, 32, 258, 257, 49, 0xc3, 0xa9, END];
    assert_eq!(String::from_utf8(out.stdout).unwrap().trim(), list(&want));
}
