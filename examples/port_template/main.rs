//! A third party's backend, from registration to conformance:
//! `cargo run --example port_template --features conformance`.

#[rustfmt::skip]
mod backend;

use gristmill::{
    Act, Binary, DType, Fallback, MatMul, QuantFormat, Queue, Registry, Result, Select,
    conformance::{self, Expect, Filter, Tier},
};

/// What this port lacks on purpose, as data: a case listed here that runs is reported, too.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("attention*", "no kernel yet; in parts or on the host"),
    ("conv2d*", "no kernel yet; on the host"),
];

fn main() -> Result<()> {
    let registry = Registry::builtin().with(backend::Template);
    let device = registry.open_blocking(&Select::named("template")?)?;
    println!("{}: {}", device.info().id, device.info().name);

    // A quantized weight [N, K], a bias [N] and two rows x.
    let (m, n, k) = (2, 3, 64);
    let format = QuantFormat::Q8_0;
    let weights: Vec<f32> = (0..n * k).map(|i| (i as f32 * 0.01).sin()).collect();
    let mut blocks = vec![0; weights.len() / format.block_len() * format.block_bytes()];
    format
        .encode(&weights, &mut blocks)
        .map_err(|e| gristmill::Error::backend("quant", e))?;
    let numbers: Vec<f32> = (0..m * k).map(|i| (i as f32 * 0.1).cos()).collect();

    let mut queue = Queue::new(&device)?.fallback(Fallback::Host);
    let x = queue.upload(&numbers, &[m, k])?;
    let w = queue.upload_weight(format, &[n, k], &blocks)?;
    let bias = queue.upload(&[0.5f32, 0.0, -0.5], &[n])?;
    let y = queue.zeros(DType::F32, &[m, n])?;

    // The device has no quantized product, but it can dequantize and multiply.
    queue.run(MatMul::new(&x, w.clone(), &y))?;
    println!("x . w^T = {:?}", queue.download::<f32>(&y)?);
    // It has no epilogue and no elementwise ops either: these go to the host.
    queue.run(MatMul::new(&x, w, &y).bias(&bias).act(Act::Silu))?;
    println!("silu(x . w^T + bias) = {:?}", queue.download::<f32>(&y)?);
    queue.run(Binary::add(&y, &y, &y))?;
    println!("doubled = {:?}", queue.download::<f32>(&y)?);

    println!("\nNot native:");
    for entry in queue.routes().entries() {
        println!("  {}: {}", entry.op.kind(), entry.route);
    }

    let expect = Expect {
        unsupported: UNSUPPORTED,
        ..Expect::default()
    };
    let report = conformance::run(&device, &Filter::new(Tier::Smoke), &expect, &mut |_| {})?;
    println!("\n{}", report.text());
    if !report.is_success() {
        std::process::exit(1);
    }
    Ok(())
}
