//! `gristmill tokenize` on small vocabularies whose ids can be worked out by hand.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use support::{Folder, Writer};

fn tokenize(model: &Path, text: &str) -> Result<Vec<u32>, String> {
    let out = Command::new(env!("CARGO_BIN_EXE_gristmill"))
        .args(["tokenize", "--json", "--model"])
        .arg(model)
        .args(["--", text])
        .output()
        .unwrap();
    if !out.status.success() {
        assert_eq!(out.status.code(), Some(1));
        return Err(String::from_utf8(out.stderr).unwrap());
    }
    let line: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    Ok(serde_json::from_value(line["tokens"].clone()).unwrap())
}

fn owned(strings: &[&str]) -> Vec<String> {
    strings.iter().map(|&s| s.to_owned()).collect()
}

const TOKENS: [&str; 19] = [
    "1", "2", "3", "4", "12", "123", "1234", "'", "T", "'T", "a", "Ġ", "Ġa", "Ċ", "ĊĊ", "aĊ", "é",
    "Ã", "©",
];

fn byte_level(pre: &str, merges: &[&str]) -> Writer {
    let mut g = Writer::default();
    g.string("tokenizer.ggml.model", "gpt2");
    g.string("tokenizer.ggml.pre", pre);
    g.strings("tokenizer.ggml.tokens", &owned(&TOKENS));
    g.strings("tokenizer.ggml.merges", &owned(merges));
    g
}

#[test]
fn pre_tokenizers_split_as_their_models_were_trained() {
    let folder = Folder::new("pre");
    let merges = ["1 2", "12 3", "123 4", "' T", "Ġ a", "Ċ Ċ", "a Ċ"];
    let ids = |names: &[&str]| -> Vec<u32> {
        names
            .iter()
            .map(|n| TOKENS.iter().position(|t| t == n).unwrap() as u32)
            .collect()
    };
    for (pre, digits, contraction) in [
        ("gpt-2", &["1234"][..], &["a", "'", "T"][..]),
        ("smollm", &["1", "2", "3", "4"], &["a", "'", "T"]),
        ("qwen2", &["1", "2", "3", "4"], &["a", "'T"]),
        ("llama-bpe", &["123", "4"], &["a", "'T"]),
    ] {
        let g = byte_level(pre, &merges).file(&BTreeMap::new());
        let model = folder.write("m.gguf", &g);
        assert_eq!(tokenize(&model, "1234").unwrap(), ids(digits), "{pre}");
        assert_eq!(tokenize(&model, "a'T").unwrap(), ids(contraction), "{pre}");
        assert_eq!(tokenize(&model, "a a").unwrap(), ids(&["a", "Ġa"]), "{pre}");
        // A line break never joins the word before it.
        assert_eq!(
            tokenize(&model, "a\n\na").unwrap()[0],
            ids(&["a"])[0],
            "{pre}"
        );
        // One character of two bytes, each a token.
        assert_eq!(tokenize(&model, "é").unwrap(), ids(&["Ã", "©"]), "{pre}");
    }
    // qwen2 composes a base and its accent first.
    let model = folder.write(
        "m.gguf",
        &byte_level("qwen2", &merges).file(&BTreeMap::new()),
    );
    assert_eq!(tokenize(&model, "e\u{301}").unwrap(), ids(&["Ã", "©"]));
}

#[test]
fn sentence_piece_joins_what_scores_best() {
    let folder = Folder::new("spm");
    let pieces = [
        ("<unk>", 0.0, 2),
        ("<bos>", 0.0, 3),
        ("▁", -9.0, 1),
        ("a", -9.0, 1),
        ("b", -9.0, 1),
        ("c", -9.0, 1),
        ("ab", -2.0, 1),
        ("bc", -1.0, 1),
        ("abc", -4.0, 1),
        ("▁a", -3.0, 1),
        ("<0xC3>", -9.0, 6),
        ("<0xA9>", -9.0, 6),
        ("<turn>", -9.0, 4),
    ];
    let model = |prefix: Option<bool>| {
        let mut g = Writer::default();
        g.string("tokenizer.ggml.model", "llama");
        g.strings("tokenizer.ggml.tokens", &pieces.map(|p| p.0.to_owned()));
        g.array(
            "tokenizer.ggml.scores",
            6,
            &pieces.map(|p| (p.1 as f32).to_le_bytes()),
        );
        g.array(
            "tokenizer.ggml.token_type",
            5,
            &pieces.map(|p| i32::to_le_bytes(p.2)),
        );
        g.u32("tokenizer.ggml.bos_token_id", 1);
        if let Some(prefix) = prefix {
            g.bool("tokenizer.ggml.add_space_prefix", prefix);
        }
        folder.write("m.gguf", &g.file(&BTreeMap::new()))
    };
    let plain = model(Some(false));
    // bc scores above ab, and a with bc makes abc.
    assert_eq!(tokenize(&plain, "abc").unwrap(), [8]);
    assert_eq!(tokenize(&plain, "abbc").unwrap(), [6, 7]);
    assert_eq!(tokenize(&plain, "b a").unwrap(), [4, 9]);
    // A character without a piece becomes its bytes.
    assert_eq!(tokenize(&plain, "é").unwrap(), [10, 11]);
    assert_eq!(tokenize(&plain, "a<turn>a<bos>").unwrap(), [3, 12, 3, 1]);
    // By default text starts as if after a space.
    assert_eq!(tokenize(&model(None), "a").unwrap(), [9]);
}

#[test]
fn contradictions_are_errors() {
    let folder = Folder::new("bad-tokenizer");
    let cases: [(&str, Writer); 4] = [
        (
            "merges into no token",
            byte_level("gpt-2", &["1 2", "1234 1234"]),
        ),
        ("out of vocabulary", byte_level("gpt-2", &["1 2", "3 4"])),
        (
            "pre-tokenizer tekken is not supported",
            byte_level("tekken", &["1 2"]),
        ),
        ("outside the vocabulary", {
            let mut g = byte_level("gpt-2", &["1 2"]);
            g.u32("tokenizer.ggml.eos_token_id", 19);
            g
        }),
    ];
    for (want, g) in cases {
        let model = folder.write("m.gguf", &g.file(&BTreeMap::new()));
        let said = tokenize(&model, "1").unwrap_err();
        assert!(said.contains(want), "{said}");
    }
}
