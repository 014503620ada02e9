//! `gristmill devices`: what this machine has, and what would run on it.

use crate::print_line;
use anyhow::{Context, Result};
use gristmill::{
    Act, Attention, DType, Device, DeviceInfo, Error, KernelId, MatMul, Norm, Op, OpKind,
    Precision, QuantFormat, Registry, Select, Support, TensorDesc,
};
use serde_json::{Value, json};
use std::sync::Arc;

/// List every backend: its devices or the reason why there is none, their features and memory,
/// and the kernels that a few typical ops would run on.
#[derive(clap::Args)]
pub struct Args {
    /// List every kernel of each device by name.
    #[arg(long)]
    kernels: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    let registry = Registry::builtin();
    let mut report = Vec::new();
    for (backend, found) in pollster::block_on(registry.probe()) {
        let devices = match found {
            Ok(devices) if !devices.is_empty() => devices,
            Ok(_) => {
                report.push(json!({"backend": backend, "reason": "no device"}));
                continue;
            }
            Err(e) => {
                // The backend's name stands before the reason anyway.
                let reason = match e {
                    Error::NotAvailable { why, .. } => why.into_owned(),
                    e => e.to_string(),
                };
                report.push(json!({"backend": backend, "reason": reason}));
                continue;
            }
        };
        let devices: Vec<Value> = devices
            .iter()
            .map(|info| describe(&registry, info, args.kernels))
            .collect();
        report.push(json!({"backend": backend, "devices": devices}));
    }
    let best = Select::from_env().and_then(|select| registry.open_blocking(&select));
    let id = best.as_ref().ok().map(|d| d.info().id.to_string());
    let report = json!({"backends": report, "selected": id});
    match args.json {
        true => print_line(report)?,
        false => print(&report)?,
    }
    best.map(drop).context("no device is selected")
}

fn describe(registry: &Registry, info: &DeviceInfo, kernels: bool) -> Value {
    let mut v = json!({
        "id": info.id.to_string(),
        "name": info.name,
        "kind": format!("{:?}", info.kind),
        "features": info.features,
        "max_buffer": info.limits.max_buffer,
        "max_binding": info.limits.max_binding,
    });
    if let Some((free, total)) = info.memory {
        v["memory"] = json!({"free": free, "total": total});
    }
    match registry.open_blocking(&Select::Named(vec![info.id.clone()])) {
        Ok(device) => {
            v["typical"] = typical(&device);
            if kernels {
                let all: Vec<Value> = device
                    .all_kernels()
                    .iter()
                    .map(|(kind, KernelId(name))| json!([kind.name(), name]))
                    .collect();
                v["kernels"] = json!(all);
            }
        }
        Err(e) => v["reason"] = json!(e.to_string()),
    }
    v
}

/// Which kernel a few ops of a language model's step would take.
fn typical(device: &Arc<dyn Device>) -> Value {
    let mut rows = Vec::new();
    for (name, op) in typical_ops().into_iter().flatten() {
        let answer = match device.supports(&op) {
            Support::Native(quality) => match device.kernels(&op).first() {
                Some(KernelId(kernel)) => format!("{kernel} ({quality:?})"),
                None => format!("{quality:?}"),
            },
            Support::No(refusal) => format!("none: {refusal}"),
        };
        rows.push(json!([name, answer]));
    }
    json!(rows)
}

fn typical_ops() -> Vec<gristmill::Result<(&'static str, Op<TensorDesc>)>> {
    let f32s = |shape: &[u32]| TensorDesc::new(DType::F32, shape);
    let product = |name, element: gristmill::Element, m, precision| {
        let (x, y) = (f32s(&[m, 4096])?, f32s(&[m, 4096])?);
        let w = TensorDesc::new(element, &[4096, 4096])?;
        Ok((name, MatMul::new(&x, &w, &y).precision(precision).into()))
    };
    let attention = |name, queries| {
        let q = f32s(&[1, 32, queries, 128])?;
        let kv = TensorDesc::new(DType::F16, &[1, 8, 4096, 128])?;
        let op = Attention::dense(&q, &kv, &kv, 4096, 0.088, &q).causal();
        Ok((name, op.into()))
    };
    let norm = || {
        let x = f32s(&[1, 4096])?;
        Ok(("rms norm", Norm::rms(&x, &f32s(&[4096])?, 1e-5, &x).into()))
    };
    let glu = || {
        let x = f32s(&[1, 14336])?;
        let op = gristmill::Glu::new(Act::Silu, &x, &x, &x);
        Ok(("swiglu", op.into()))
    };
    let (q4, q8) = (QuantFormat::Q4_K.into(), QuantFormat::Q8_0.into());
    vec![
        product(
            "f32 product, M = 512",
            DType::F32.into(),
            512,
            Precision::F32,
        ),
        product(
            "bf16 product, M = 512",
            DType::BF16.into(),
            512,
            Precision::HALF,
        ),
        product(
            "q4_k product, M = 1, f32 activations",
            q4,
            1,
            Precision::F32,
        ),
        product(
            "q4_k product, M = 1, 8-bit activations",
            q4,
            1,
            Precision::Q8,
        ),
        product(
            "q8_0 product, M = 512, 8-bit activations",
            q8,
            512,
            Precision::Q8,
        ),
        attention("attention, 1 query, 4096 keys", 1),
        attention("attention, 512 queries, 4096 keys", 512),
        norm(),
        glu(),
    ]
}

fn print(report: &Value) -> Result<()> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let list = |v: &Value| v.as_array().cloned().unwrap_or_default();
    for backend in list(&report["backends"]) {
        print_line(text(&backend["backend"]))?;
        if let Some(reason) = backend["reason"].as_str() {
            print_line(format_args!("  not available: {reason}"))?;
        }
        for d in list(&backend["devices"]) {
            print_line(format_args!(
                "  {}  {} ({})",
                text(&d["id"]),
                text(&d["name"]),
                text(&d["kind"])
            ))?;
            let gib = |v: &Value| v.as_f64().unwrap_or(0.0) / f64::from(1 << 30);
            if let Some(m) = d.get("memory") {
                print_line(format_args!(
                    "    memory    {:.1} GiB free of {:.1}",
                    gib(&m["free"]),
                    gib(&m["total"])
                ))?;
            }
            let limit = |v: &Value| match gib(v) {
                huge if huge > 1e6 => "unlimited".to_owned(),
                n => format!("{n:.1} GiB"),
            };
            print_line(format_args!(
                "    limits    buffer {}, binding {}",
                limit(&d["max_buffer"]),
                limit(&d["max_binding"])
            ))?;
            let features: Vec<_> = list(&d["features"]).iter().map(text).collect();
            print_line(format_args!("    features  {}", features.join(", ")))?;
            if let Some(reason) = d["reason"].as_str() {
                print_line(format_args!("    does not open: {reason}"))?;
            }
            for row in list(&d["typical"]) {
                print_line(format_args!("    {:<42} {}", text(&row[0]), text(&row[1])))?;
            }
            for kind in OpKind::ALL {
                let of: Vec<_> = list(&d["kernels"])
                    .iter()
                    .filter(|k| k[0] == kind.name())
                    .map(|k| text(&k[1]))
                    .collect();
                if !of.is_empty() {
                    print_line(format_args!("    {:<16} {}", kind.name(), of.join(" ")))?;
                }
            }
        }
    }
    let selected = report["selected"].as_str();
    print_line(format_args!("selected: {}", selected.unwrap_or("none")))
}
