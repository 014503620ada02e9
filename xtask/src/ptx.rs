//! `cargo xtask ptx`: kernels/*.cu to the committed kernels/ptx/*.ptx, and the check that the two agree.
//!
//! Everything that compiles is pinned and comes from PyPI: NVRTC 12.0 writes PTX ISA 8.0, which every driver since
//! r525 loads; the `ptxas` of CUDA 12.0 stands for that oldest driver and the one of 13.5 for the newest.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail, ensure};

use crate::nvrtc::Nvrtc;

/// Arguments of `cargo xtask ptx`.
#[derive(clap::Args)]
pub struct Args {
    /// Rebuild the committed files byte for byte, and assemble them for every GPU generation.
    #[arg(long)]
    check: bool,
    /// Only the sources whose name contains this.
    #[arg(long, value_name = "SUBSTRING")]
    only: Option<String>,
    /// Print the PTX of one source for one target; the task starts itself with this.
    #[arg(long, num_args = 2, value_names = ["SOURCE", "TARGET"], hide = true)]
    text: Option<Vec<String>>,
}

/// The oldest compute capability a PTX file loads on; an `a` target loads on exactly one.
#[derive(Clone, Copy, PartialEq)]
enum Target {
    Sm75,
    Sm80,
}

impl Target {
    /// File name part, and the `compute_` suffix for the compiler.
    fn name(self) -> &'static str {
        match self {
            Target::Sm75 => "75",
            Target::Sm80 => "80",
        }
    }

    /// Architectures to assemble for, by the oldest and by the newest `ptxas`.
    fn archs(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Target::Sm75 => (
                &["sm_75", "sm_80", "sm_86", "sm_89", "sm_90"],
                &[
                    "sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120",
                ],
            ),
            Target::Sm80 => (
                &["sm_80", "sm_86", "sm_89", "sm_90"],
                &["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"],
            ),
        }
    }
}

/// Every kernel source and the targets it is compiled for.
const SOURCES: &[(&str, &[Target])] = &[
    ("cast", &[Target::Sm75]),
    ("copy", &[Target::Sm75]),
    ("dequant", &[Target::Sm75]),
    ("elementwise", &[Target::Sm75]),
    ("gemv_bf16", &[Target::Sm75]),
    ("gemv_f16", &[Target::Sm75]),
    ("gemv_f32", &[Target::Sm75]),
    ("gemv_q4_0", &[Target::Sm75]),
    ("gemv_q4_1", &[Target::Sm75]),
    ("gemv_q4_k", &[Target::Sm75]),
    ("gemv_q5_0", &[Target::Sm75]),
    ("gemv_q6_k", &[Target::Sm75]),
    ("gemv_q8_0", &[Target::Sm75]),
    ("matmul_f32", &[Target::Sm75]),
    ("matmul_half", &[Target::Sm75]),
    ("matmul_mma", &[Target::Sm80]),
    ("quantize_q8", &[Target::Sm75]),
];

/// A tool from PyPI: folder under target/cuda-tools, requirement, and the file wanted from it.
struct Tool {
    dir: &'static str,
    requirement: &'static str,
    file: &'static str,
}

const NVRTC: Tool = Tool {
    dir: "nvrtc-12.0.140",
    requirement: "nvidia-cuda-nvrtc-cu12==12.0.140",
    file: "nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
};
const PTXAS_OLD: Tool = Tool {
    dir: "ptxas-12.0.140",
    requirement: "nvidia-cuda-nvcc-cu12==12.0.140",
    file: "nvidia/cuda_nvcc/bin/ptxas",
};
const PTXAS_NEW: Tool = Tool {
    dir: "ptxas-13.5.37",
    requirement: "nvidia-cuda-nvcc==13.5.37",
    file: "nvidia/cu13/bin/ptxas",
};

/// Entry point of the task.
pub fn run(args: &Args) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the xtask crate has no parent folder")?;
    let tools = root.join("target/cuda-tools");
    let library = fetch(&tools, &NVRTC)?;
    let sources = root.join("kernels");
    if let Some([name, target]) = args.text.as_deref() {
        print!(
            "{}",
            tidy(&Nvrtc::open(&library)?.compile(&sources, name, target)?)
        );
        return Ok(());
    }
    let committed = sources.join("ptx");
    let built = if args.check {
        root.join("target/ptx")
    } else {
        committed.clone()
    };
    std::fs::create_dir_all(&built)?;

    let mut files = Vec::new();
    for (name, targets) in SOURCES {
        if args
            .only
            .as_ref()
            .is_some_and(|only| !name.contains(only.as_str()))
        {
            continue;
        }
        for target in *targets {
            let file = format!("{name}.{}.ptx", target.name());
            // A file that is not there is told below, or written.
            let old = std::fs::read_to_string(committed.join(&file)).ok();
            let most = if args.check { CHECKED } else { WRITTEN };
            let text = rebuild(name, target.name(), old.as_deref(), most)?;
            std::fs::write(built.join(&file), &text)
                .with_context(|| format!("cannot write {file}"))?;
            files.push((file, *target, text));
        }
    }
    ensure!(
        !files.is_empty(),
        "no kernel source has a name that contains {:?}",
        args.only.as_deref().unwrap_or_default()
    );
    if !args.check {
        println!("wrote {} files to {}", files.len(), committed.display());
        return Ok(());
    }

    let mut problems = Vec::new();
    for (file, _, text) in &files {
        match std::fs::read_to_string(committed.join(file)) {
            Ok(old) if old == *text => {}
            Ok(_) => problems.push(format!(
                "kernels/ptx/{file} is not what its source compiles to: run `cargo xtask ptx` and commit it"
            )),
            Err(error) => problems.push(format!(
                "kernels/ptx/{file}: {error}: run `cargo xtask ptx` and commit it"
            )),
        }
    }
    if args.only.is_none() {
        problems.extend(strays(&sources, &committed)?);
    }
    problems.extend(assemble(&tools, &built, &files)?);
    if !problems.is_empty() {
        bail!(
            "{} problem(s):\n  {}",
            problems.len(),
            problems.join("\n  ")
        );
    }
    println!(
        "ok: {} PTX files are current and assemble without spills",
        files.len()
    );
    Ok(())
}

/// How many builds must differ from the committed text before it counts as stale.
const CHECKED: usize = 32;
/// How many builds vote for the text of a file to write.
const WRITTEN: usize = 7;

/// The text of one source: `committed` if a build gives it, the most frequent of several builds if none does.
///
/// NVRTC decides some merges of loads and numbers some registers in the order of memory addresses,
/// so that of some sources a few builds in a hundred differ from the rest. Each build has a
/// process and with it addresses of its own.
fn rebuild(name: &str, target: &str, committed: Option<&str>, most: usize) -> Result<String> {
    let mut builds: Vec<(String, usize)> = Vec::new();
    for _ in 0..most {
        let text = build(name, target)?;
        if committed == Some(text.as_str()) {
            return Ok(text);
        }
        match builds.iter_mut().find(|(known, _)| *known == text) {
            Some((_, votes)) => *votes += 1,
            None => builds.push((text, 1)),
        }
    }
    builds
        .into_iter()
        .max_by_key(|(_, votes)| *votes)
        .map(|(text, _)| text)
        .context("no build was made")
}

fn build(name: &str, target: &str) -> Result<String> {
    let own = std::env::current_exe().context("where is this program?")?;
    let out = Command::new(own)
        .args(["ptx", "--text", name, target])
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start the compiler of kernels/{name}.cu"))?;
    ensure!(out.status.success(), "kernels/{name}.cu does not compile");
    Ok(String::from_utf8(out.stdout)?)
}

/// Files that no row of the table accounts for.
fn strays(sources: &Path, committed: &Path) -> Result<Vec<String>> {
    let known: BTreeSet<String> = SOURCES
        .iter()
        .flat_map(|(name, targets)| {
            targets
                .iter()
                .map(move |t| format!("{name}.{}.ptx", t.name()))
        })
        .collect();
    let mut out = Vec::new();
    for entry in std::fs::read_dir(committed)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !known.contains(&name) {
            out.push(format!("kernels/ptx/{name} has no row in the table of xtask/src/ptx.rs: delete it or add the row"));
        }
    }
    for entry in std::fs::read_dir(sources)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name
            .strip_suffix(".cu")
            .is_some_and(|stem| !SOURCES.iter().any(|(known, _)| *known == stem))
        {
            out.push(format!(
                "kernels/{name} has no row in the table of xtask/src/ptx.rs: add it"
            ));
        }
    }
    Ok(out)
}

/// Assembles every file for every architecture, prints one line a file, and returns what is wrong.
fn assemble(tools: &Path, built: &Path, files: &[(String, Target, String)]) -> Result<Vec<String>> {
    let (old, new) = (fetch(tools, &PTXAS_OLD)?, fetch(tools, &PTXAS_NEW)?);
    for ptxas in [&old, &new] {
        make_executable(ptxas)?;
    }
    let mut jobs = Vec::new();
    for (index, (_, target, _)) in files.iter().enumerate() {
        let (for_old, for_new) = target.archs();
        jobs.extend(for_old.iter().map(|arch| (index, &old, "12.0", *arch)));
        jobs.extend(for_new.iter().map(|arch| (index, &new, "13.5", *arch)));
    }
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let (next, results, jobs, built) = (&next, &results, &jobs, &built);
            scope.spawn(move || {
                let cubin = built.join(format!("worker{worker}.cubin"));
                while let Some((index, ptxas, version, arch)) =
                    jobs.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let out = Command::new(ptxas)
                        .args(["-v", &format!("-arch={arch}"), "-o"])
                        .arg(&cubin)
                        .arg(built.join(&files[*index].0))
                        .output();
                    if let Ok(mut results) = results.lock() {
                        results.push((*index, *version, *arch, out));
                    }
                }
                // The cubin is only a by-product; a leftover one does no harm.
                let _ = std::fs::remove_file(cubin);
            });
        }
    });
    let mut problems = Vec::new();
    let mut rows: Vec<Option<(usize, usize, usize)>> = vec![None; files.len()];
    for (index, version, arch, out) in results.into_inner().unwrap_or_default() {
        let file = &files[index].0;
        let out = out.with_context(|| format!("cannot run ptxas {version}"))?;
        let log = format!(
            "{}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        let report = Report::parse(&log);
        let row = rows[index].get_or_insert((0, 0, 0));
        *row = (
            report.kernels,
            row.1.max(report.registers),
            row.2.max(report.shared),
        );
        let mut bad =
            |what: String| problems.push(format!("{file}, ptxas {version}, {arch}: {what}"));
        if !out.status.success() {
            bad(log.trim().to_owned());
        } else if report.kernels == 0 {
            bad("no kernel in the report of ptxas".to_owned());
        }
        report.problems.into_iter().for_each(bad);
    }
    let mut table = String::new();
    writeln!(
        table,
        "{:<24} {:>8} {:>10} {:>14} {:>14}",
        "file", "kernels", "bytes", "max registers", "static shared"
    )?;
    for ((file, _, text), row) in files.iter().zip(rows) {
        let (kernels, registers, shared) = row.unwrap_or_default();
        writeln!(
            table,
            "{file:<24} {kernels:>8} {:>10} {registers:>14} {shared:>14}",
            text.len()
        )?;
    }
    print!("{table}");
    Ok(problems)
}

/// What `ptxas -v` says of one file.
#[derive(Default)]
struct Report {
    kernels: usize,
    registers: usize,
    shared: usize,
    problems: Vec<String>,
}

impl Report {
    fn parse(log: &str) -> Report {
        let mut report = Report::default();
        let mut kernel = "";
        // The number before `unit` on the line, 0 where the unit is not mentioned.
        let number = |line: &str, unit: &str| -> usize {
            line.find(unit)
                .and_then(|at| {
                    line[..at]
                        .trim_end()
                        .rsplit(|c: char| !c.is_ascii_digit())
                        .next()?
                        .parse()
                        .ok()
                })
                .unwrap_or(0)
        };
        for line in log.lines() {
            if let Some((_, rest)) = line.split_once("Compiling entry function '") {
                kernel = rest.split('\'').next().unwrap_or(rest);
                report.kernels += 1;
            }
            for unit in [
                "bytes stack frame",
                "bytes spill stores",
                "bytes spill loads",
            ] {
                if number(line, unit) != 0 {
                    report.problems.push(format!("{kernel}: {}", line.trim()));
                    break;
                }
            }
            if line.contains("(C75") || line.contains("warning") {
                report.problems.push(format!("{kernel}: {}", line.trim()));
            }
            report.registers = report.registers.max(number(line, "registers"));
            report.shared = report.shared.max(number(line, "bytes smem"));
        }
        report
    }
}

#[cfg(unix)]
fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    // The 12.x wheels carry ptxas without the x bit.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make {} executable", path.display()))
}

#[cfg(not(unix))]
fn make_executable(_: &Path) -> Result<()> {
    Ok(())
}

/// The wanted file of a tool, fetched with pip where it is not there yet.
fn fetch(tools: &Path, tool: &Tool) -> Result<PathBuf> {
    ensure!(
        cfg!(all(target_os = "linux", target_arch = "x86_64")),
        "the pinned CUDA compilers are fetched as Linux x86_64 wheels: run this task there (a container will do); the \
         library itself needs none of them"
    );
    let dir = tools.join(tool.dir);
    let file = dir.join(tool.file);
    if file.is_file() {
        return Ok(file);
    }
    println!("fetching {} from PyPI", tool.requirement);
    // Into a folder of its own first: an interrupted download must not look like a finished one.
    let part = tools.join(format!("{}.part", tool.dir));
    let _ = std::fs::remove_dir_all(&part);
    let out = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "--target"])
        .arg(&part)
        .arg(tool.requirement)
        .output()
        .context("cannot run python3: it and pip fetch the pinned CUDA compilers (on Debian: apt install python3-pip)")?;
    ensure!(
        out.status.success(),
        "pip could not fetch {}; it needs pip (on Debian: apt install python3-pip) and a way to pypi.org or to a mirror \
         (PIP_INDEX_URL), or put the unpacked wheel into {}. pip said:\n{}",
        tool.requirement,
        dir.display(),
        String::from_utf8_lossy(&out.stderr).trim()
    );
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::rename(&part, &dir)
        .with_context(|| format!("cannot move {} into place", part.display()))?;
    ensure!(
        file.is_file(),
        "{} does not hold {}",
        tool.requirement,
        tool.file
    );
    Ok(file)
}

/// Drops what NVRTC 12.0 writes and nobody reads: unused internal globals, markers around inline assembly, empty lines.
fn tidy(ptx: &str) -> String {
    let mut out = String::with_capacity(ptx.len());
    for line in ptx.lines() {
        let text = line.trim();
        let unused = line.contains("_INTERNAL_") && line.contains("nv6target");
        if text.is_empty() || unused || text == "// begin inline asm" || text == "// end inline asm"
        {
            continue;
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Report, tidy};

    const LOG: &str = "\
ptxas info    : Compiling entry function 'a' for 'sm_80'
ptxas info    : Function properties for a
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, 32 bytes smem, 484 bytes cmem[0]
ptxas info    : Compiling entry function 'b' for 'sm_80'
    16 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 255 registers, 484 bytes cmem[0]
";

    #[test]
    fn a_report_counts_kernels_and_keeps_the_largest_numbers() {
        let report = Report::parse(LOG);
        assert_eq!(
            (report.kernels, report.registers, report.shared),
            (2, 255, 32)
        );
    }

    #[test]
    fn stack_frames_spills_and_serialised_wgmma_are_problems_of_their_kernel() {
        let report = Report::parse(LOG);
        assert_eq!(report.problems.len(), 1);
        assert!(
            report.problems[0].starts_with("b: 16 bytes stack frame"),
            "{:?}",
            report.problems
        );
        let spill =
            Report::parse("    0 bytes stack frame, 8 bytes spill stores, 8 bytes spill loads\n");
        assert_eq!(spill.problems.len(), 1);
        let wgmma = Report::parse(
            "ptxas info : (C7515) Potential Performance Loss: wgmma.mma_async instructions are serialized\n",
        );
        assert_eq!(wgmma.problems.len(), 1);
    }

    #[test]
    fn tidy_drops_only_what_nobody_reads() {
        let text = ".global .align 1 .b8 _ZN22_INTERNAL_x6thrust6nv6target[1];\n\n\t// begin inline asm\n\tmov.u32 \t%r1, %r2;\n\t// end inline asm\n// header\n";
        assert_eq!(tidy(text), "\tmov.u32 \t%r1, %r2;\n// header\n");
    }
}
