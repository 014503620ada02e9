//! Results: text, JSON, a page.

use crate::{
    case::Case,
    measure::{median, output_of, processor},
    peer::Peer,
    rows::{Bar, Row, rows},
};
use gristmill::{
    DType, Element,
    backend::cpu::ceilings::{Ceilings, ceilings},
    conformance::matches,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::fmt::Write;

/// One run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    pub date: String,
    pub command: String,
    pub device: String,
    pub commit: String,
    pub compiler: String,
    /// Peers and their versions.
    pub peers: Vec<String>,
    /// GFLOP/s and GB/s with one and two threads.
    pub limits: Vec<Limits>,
    pub seconds: f64,
    pub rows: Vec<Result>,
}

/// What the machine can do at most.
#[derive(Debug, Serialize, Deserialize)]
pub struct Limits {
    pub threads: usize,
    pub f32_gflops: f64,
    pub bf16_gflops: f64,
    pub int8_gops: f64,
    pub read_gbs: f64,
}

/// One row's result.
#[derive(Debug, Serialize, Deserialize)]
pub struct Result {
    pub name: String,
    pub threads: usize,
    pub kernel: String,
    pub ms: Option<f64>,
    pub one_thread_ms: Option<f64>,
    pub gflops: Option<f64>,
    pub gbs: Option<f64>,
    pub best_peer: Option<String>,
    pub best_peer_ms: Option<f64>,
    /// Time of the best peer over ours.
    pub ratio: Option<f64>,
    pub limit_ms: Option<f64>,
    /// A plain read of the same bytes.
    pub read_ms: Option<f64>,
    pub of_limit: Option<f64>,
    pub bars: Vec<Judged>,
    pub rivals: Vec<Rival>,
    pub error: Option<String>,
}

/// A peer's way of running a row.
#[derive(Debug, Serialize, Deserialize)]
pub struct Rival {
    pub name: String,
    pub ms: f64,
}

/// A bar and whether it was reached; `None` where a figure is missing.
#[derive(Debug, Serialize, Deserialize)]
pub struct Judged {
    pub bar: String,
    pub reached: Option<bool>,
}

impl Result {
    pub fn new(row: &Row) -> Self {
        Result {
            name: row.name.clone(),
            threads: row.threads,
            kernel: String::new(),
            ms: None,
            one_thread_ms: None,
            gflops: None,
            gbs: None,
            best_peer: None,
            best_peer_ms: None,
            ratio: None,
            limit_ms: None,
            read_ms: None,
            of_limit: None,
            bars: Vec::new(),
            rivals: Vec::new(),
            error: None,
        }
    }

    /// Keeps a peer's result.
    pub fn note(&mut self, name: String, samples: &[f64]) {
        if let Some(ms) = median(samples) {
            self.rivals.push(Rival { name, ms });
        }
    }

    /// Works out rates, ratios and bars.
    pub fn judge(&mut self, row: &Row) {
        let unpacked = row.bars.iter().any(|b| matches!(b, Bar::PeerUnpacked(_)));
        let best = self
            .rivals
            .iter()
            .find(|r| !unpacked || !r.name.contains("prepacked"));
        self.best_peer = best.map(|r| r.name.clone());
        self.best_peer_ms = best.map(|r| r.ms);
        if let Some(ms) = self.ms {
            let (flops, bytes) = (row.case.flops(), row.case.bytes());
            self.gflops = (flops > 0.0).then_some(flops / ms / 1e6);
            self.gbs = (bytes > 0.0).then_some(bytes / ms / 1e6);
            self.ratio = match row.scaling {
                true => self.one_thread_ms.map(|one| one / ms),
                false => self.best_peer_ms.map(|p| p / ms),
            };
            self.of_limit = self.limit_ms.map(|l| l / ms);
        }
        self.bars = row
            .bars
            .iter()
            .map(|b| Judged {
                bar: b.to_string(),
                reached: self.reached(b),
            })
            .collect();
    }

    fn reached(&self, bar: &Bar) -> Option<bool> {
        match bar {
            Bar::Peer(x) | Bar::PeerUnpacked(x) | Bar::Scaling(x) => self.ratio.map(|r| r >= *x),
            Bar::Limit(x) => self.of_limit.map(|l| l >= *x),
            Bar::Either(a, b) => match (self.reached(a), self.reached(b)) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(_), Some(_)) => Some(false),
                _ => None,
            },
            Bar::TimesRead(x) => Some(self.ms? <= x * self.read_ms?),
        }
    }

    fn missed(&self) -> bool {
        self.ms.is_none() || self.bars.iter().any(|b| b.reached == Some(false))
    }

    fn verdict(&self) -> &'static str {
        match (self.bars.is_empty(), self.missed()) {
            (_, true) => "MISSED",
            (true, _) => "",
            _ if self.bars.iter().any(|b| b.reached.is_none()) => "?",
            _ => "ok",
        }
    }

    /// What was fast: tokens, bytes or operations per second.
    fn rate(&self) -> String {
        let Some(ms) = self.ms else {
            return "-".to_owned();
        };
        if self.name.ends_with("pp512") {
            return format!("{:.0} tok/s", 512e3 / ms);
        }
        if self.name.ends_with("tg128") {
            return format!("{:.0} tok/s", 128e3 / ms);
        }
        match (self.gflops, self.gbs) {
            (_, Some(b)) if self.name.starts_with("dequantize") || self.few() => {
                format!("{b:.1} GB/s")
            }
            (Some(f), _) => format!("{f:.0} GFLOP/s"),
            _ => String::new(),
        }
    }

    /// Reads more than it computes.
    fn few(&self) -> bool {
        matches!((self.gflops, self.gbs), (Some(f), Some(b)) if f < 12.0 * b)
    }

    /// A line of the table.
    pub fn text(&self) -> String {
        let number = |x: Option<f64>, digits: usize| match x {
            Some(x) => format!("{x:.digits$}"),
            None => "-".to_owned(),
        };
        let mut line = format!(
            "{:<42} {:>10} {:>13} {:>10} {:>6} {:>5}% {:<7} {}",
            self.name,
            number(self.ms, 4),
            self.rate(),
            number(self.best_peer_ms.or(self.one_thread_ms), 4),
            number(self.ratio, 2),
            number(self.of_limit.map(|l| l * 100.0), 0),
            self.verdict(),
            self.best_peer.as_deref().unwrap_or_default(),
        );
        if let Some(e) = &self.error {
            let _ = write!(line, " [{e}]");
        }
        line
    }
}

/// The heading of the lines.
pub fn title() -> String {
    format!(
        "{:<42} {:>10} {:>13} {:>10} {:>6} {:>6} {:<7} {}",
        "row", "ours ms", "rate", "peer ms", "ratio", "limit", "bar", "best peer"
    )
}

impl Report {
    pub fn begin(peers: &[Peer]) -> Self {
        let mut versions: Vec<String> = peers.iter().map(|p| p.version.clone()).collect();
        versions.dedup();
        versions.sort();
        versions.dedup();
        let limit = |threads| {
            let Ceilings {
                f32_flops,
                bf16_flops,
                int8_ops,
                read_bytes,
            } = ceilings(threads);
            Limits {
                threads,
                f32_gflops: f32_flops / 1e9,
                bf16_gflops: bf16_flops.unwrap_or_default() / 1e9,
                int8_gops: int8_ops.unwrap_or_default() / 1e9,
                read_gbs: read_bytes / 1e9,
            }
        };
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        Report {
            date: output_of("date", &["-u", "+%F %H:%M UTC"]),
            command: format!("cargo xtask peers {}", arguments.join(" ")),
            device: processor(),
            commit: output_of("git", &["rev-parse", "--short", "HEAD"]),
            compiler: output_of("rustc", &["--version"]),
            peers: versions,
            limits: [1, 2].map(limit).into(),
            seconds: 0.0,
            rows: Vec::new(),
        }
    }

    /// The machine and its limits.
    pub fn head(&self) -> String {
        let mut text = format!("{} at {}, {}", self.device, self.commit, self.compiler);
        for l in &self.limits {
            let _ = write!(
                text,
                "\n{} thread{}: f32 {:.0} GFLOP/s, bf16 {:.0} GFLOP/s, int8 {:.0} GOP/s, read {:.1} GB/s",
                l.threads,
                if l.threads == 1 { "" } else { "s" },
                l.f32_gflops,
                l.bf16_gflops,
                l.int8_gops,
                l.read_gbs
            );
        }
        for p in &self.peers {
            let _ = write!(text, "\npeer: {p}");
        }
        text
    }

    /// How many rows reached what they must.
    pub fn summary(&self) -> String {
        let with_bars = self.rows.iter().filter(|r| !r.bars.is_empty());
        let (missed, all) =
            with_bars.fold((0, 0), |(m, a), r| (m + usize::from(r.missed()), a + 1));
        format!(
            "{} rows in {:.0} s; {} of {all} rows with a bar reach it",
            self.rows.len(),
            self.seconds,
            all - missed
        )
    }
}

/// One of our results in the form of the JSON lines of other harnesses.
pub fn line(row: &Row, r: &Result) -> Option<String> {
    let ms = r.ms?;
    let version = env!("CARGO_PKG_VERSION");
    let (gflops, gbs) = (r.gflops.unwrap_or_default(), r.gbs.unwrap_or_default());
    if row.scaling {
        return None;
    }
    let line = match &row.case {
        Case::MatMul { w, m, n, k, packed } => {
            let (group, dtype) = match w {
                Element::Quant(q) => ("qmm", q.name().to_lowercase().replace("_k", "_K")),
                Element::Plain(DType::I8) => ("gemm", "s8s8s32".to_owned()),
                plain => ("gemm", plain.name()),
            };
            let peer = if *packed {
                "gristmill prepacked"
            } else {
                "gristmill"
            };
            json!({"group": group, "peer": peer, "version": version, "dtype": dtype, "op": "xWt",
                "M": m, "N": n, "K": k, "threads": row.threads, "ms": ms, "gflops": gflops,
                "w_gbs": gbs, "kernel": r.kernel})
        }
        Case::Attention { kv, .. } => {
            let words: Vec<&str> = row.name.split('/').collect();
            let case = words[1..].join("_");
            json!({"group": "attn", "peer": "gristmill", "version": version,
                "dtype": format!("kv_{kv}"), "case": case, "threads": row.threads, "ms": ms,
                "gflops": gflops, "kv_gbs": gbs, "kernel": r.kernel})
        }
        Case::Dequantize { w, y, .. } => json!({"group": "dequant", "peer": "gristmill",
            "dtype": w.name().to_lowercase(), "to": y.name(), "threads": row.threads,
            "gelem_s": gflops, "out_gbs": gbs}),
        Case::Model { file, prompt } => {
            let (key, tokens) = if *prompt {
                ("pp512_tok_s", 512e3)
            } else {
                ("tg128_tok_s", 128e3)
            };
            json!({"group": "e2e", "peer": "gristmill", "version": version, "model": file,
                "threads": row.threads, key: tokens / ms})
        }
        Case::Load { .. } => return None,
    };
    Some(line.to_string())
}

/// Reasons written by hand for rows that miss their bar on a machine: pattern and text. Those
/// under a heading are for machines whose name has it.
fn reasons(machine: &str) -> anyhow::Result<Vec<(String, String)>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/reasons.md");
    let text = std::fs::read_to_string(path)?;
    let (mut all, mut ours) = (Vec::new(), true);
    for line in text.lines() {
        if let Some(word) = line.strip_prefix("## ") {
            ours = machine.contains(word.trim());
        }
        let parts = line.strip_prefix("- `").and_then(|l| l.split_once("`: "));
        if let (true, Some((pattern, why))) = (ours, parts) {
            all.push((pattern.to_owned(), why.trim().to_owned()));
        }
    }
    Ok(all)
}

/// Rows by section and bar.
fn groups<'r>(report: &'r Report, known: &[Row]) -> Vec<(&'static str, String, Vec<&'r Result>)> {
    let mut groups: Vec<(&str, String, Vec<&Result>)> = Vec::new();
    for row in known {
        let Some(result) = report.rows.iter().find(|r| r.name == row.name) else {
            continue;
        };
        for bar in row.bars.iter().map(Bar::to_string) {
            match groups.iter_mut().find(|g| g.0 == row.section && g.1 == bar) {
                Some(g) => g.2.push(result),
                None => groups.push((row.section, bar, vec![result])),
            }
        }
    }
    groups
}

/// The page of the results.
pub fn markdown(report: &Report) -> anyhow::Result<String> {
    let mut out = String::from(
        "# Performance\n\nWritten by `cargo xtask peers --markdown docs/performance.md`; changes by hand are lost \
         (reasons for missed bars live in `peers/reasons.md`). How it measures, and how to run it: \
         [peers/README.md](../peers/README.md).\n\n",
    );
    let _ = writeln!(out, "- {}, {:.0} s", report.date, report.seconds);
    let _ = writeln!(
        out,
        "- `{}` at {}, {}",
        report.command.trim(),
        report.commit,
        report.compiler
    );
    let _ = writeln!(out, "- {}", report.device);
    for p in &report.peers {
        let _ = writeln!(out, "- peer: {p}");
    }
    out += "\n| limit | f32 GFLOP/s | bf16 GFLOP/s | int8 GOP/s | read GB/s |\n| --- | --- | --- | --- | --- |\n";
    for l in &report.limits {
        let _ = writeln!(
            out,
            "| {} thread{} | {:.0} | {:.0} | {:.0} | {:.1} |",
            l.threads,
            if l.threads == 1 { "" } else { "s" },
            l.f32_gflops,
            l.bf16_gflops,
            l.int8_gops,
            l.read_gbs
        );
    }
    out += "\n\"% of limit\" is against what the units or a plain read of the same bytes reached between the turns of \
            the same row. The ratio is the time of the best peer over ours.\n";
    let known = rows();
    let mut sections: Vec<&str> = Vec::new();
    for r in &known {
        if !sections.contains(&r.section) {
            sections.push(r.section);
        }
    }
    let result = |name: &str| report.rows.iter().find(|r| r.name == name);
    out += "\n## What is reached\n\n| part | bar | rows that reach it | median ratio | median % of limit |\n| --- | --- | --- | --- | --- |\n";
    for (section, bar, of) in groups(report, &known) {
        let reached = |r: &&&Result| {
            let judged = r.bars.iter().find(|b| b.bar == bar);
            judged.is_some_and(|b| b.reached == Some(true))
        };
        let middle = |f: &dyn Fn(&Result) -> Option<f64>| {
            let all: Vec<f64> = of.iter().filter_map(|r| f(r)).collect();
            median(&all)
        };
        let _ = writeln!(
            out,
            "| {section} | {bar} | {} of {} | {} | {} |",
            of.iter().filter(reached).count(),
            of.len(),
            middle(&|r| r.ratio).map_or(String::new(), |x| format!("{x:.2}")),
            middle(&|r| r.of_limit).map_or(String::new(), |x| format!("{:.0}", x * 100.0)),
        );
    }
    for section in sections {
        let of: Vec<&Result> = known
            .iter()
            .filter(|r| r.section == section)
            .filter_map(|r| result(&r.name))
            .collect();
        if of.is_empty() {
            continue;
        }
        let _ = writeln!(out, "\n## {section}\n");
        out += "| row | ms | rate | best peer | its ms | ratio | % of limit | bar |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n";
        for r in of {
            let number = |x: Option<f64>, digits: usize| match x {
                Some(x) => format!("{x:.digits$}"),
                None => String::new(),
            };
            let peer = match r.one_thread_ms {
                Some(_) => "one thread",
                None => r.best_peer.as_deref().unwrap_or_default(),
            };
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} | {} |",
                r.name,
                number(r.ms, 4),
                r.rate(),
                peer,
                number(r.one_thread_ms.or(r.best_peer_ms), 4),
                number(r.ratio, 2),
                number(r.of_limit.map(|l| l * 100.0), 0),
                match r.verdict() {
                    "MISSED" => "**missed**",
                    v => v,
                }
            );
        }
    }
    let missed: Vec<&Result> = report.rows.iter().filter(|r| r.missed()).collect();
    if !missed.is_empty() {
        let reasons = reasons(&report.device)?;
        let _ = writeln!(
            out,
            "\n## Rows that miss their bar\n\n{}.\n",
            report.summary()
        );
        out += "| row | bar | reached | why |\n| --- | --- | --- | --- |\n";
        for r in missed {
            let bars: Vec<&str> = r
                .bars
                .iter()
                .filter(|b| b.reached == Some(false))
                .map(|b| b.bar.as_str())
                .collect();
            let why = match &r.error {
                Some(e) => e.as_str(),
                None => reasons
                    .iter()
                    .find(|(pattern, _)| matches(pattern, &r.name))
                    .map_or("", |(_, why)| why),
            };
            let mut got = Vec::new();
            got.extend(r.ratio.map(|x| format!("{x:.2} x")));
            got.extend(r.of_limit.map(|x| format!("{:.0}%", x * 100.0)));
            let _ = writeln!(
                out,
                "| {} | {} | {} | {why} |",
                r.name,
                bars.join("; "),
                got.join(", ")
            );
        }
    }
    Ok(out)
}
