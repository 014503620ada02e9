//! The run: rounds in which everybody has a turn, the limits among them.

use crate::{
    Args, cache,
    case::Case,
    ours::{Open, Ours},
    peer::{Peer, programs},
    report::{Report, Result as RowResult, Rival},
    rows::{Bar, Limit, Row},
};
use anyhow::Result;
use gristmill::backend::cpu::ceilings::{self, Unit};
use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

/// Threads of a peer stand still soon after its turn.
const QUIET: Duration = Duration::from_millis(2);
/// How long an arithmetic unit is measured in one round.
const WINDOW: Duration = Duration::from_millis(6);
/// After the first round, peers that need this many times the time of the best leave.
const HOPELESS: f64 = 2.0;

/// Someone who has turns, and the milliseconds measured.
struct Contender {
    name: String,
    who: Who,
    samples: Vec<f64>,
}

enum Who {
    Ours(Box<Open>),
    /// Index into the peers, and the variant.
    Peer(usize, usize),
}

/// Memory for reading and storing.
struct Memory(Vec<u64>);

impl Memory {
    fn new() -> Self {
        Memory((0..(192usize << 20) / 8).map(|i| i as u64).collect())
    }
}

pub fn run(args: &Args, rows: &[Row]) -> Result<Report> {
    let began = Instant::now();
    let dir = args
        .peers_dir
        .clone()
        .unwrap_or_else(|| cache("gristmill-peers"));
    let models = args
        .models
        .clone()
        .unwrap_or_else(|| cache("gristmill/models"));
    let command = std::env::current_exe()?.with_file_name("gristmill");
    let mut ours = Ours::new(models, command);
    let mut peers = if args.alone || args.lines {
        Vec::new()
    } else {
        start(args, &dir, rows)
    };
    let mut memory = Memory::new();
    let mut report = Report::begin(&peers);
    if !args.lines {
        println!("{}", report.head());
        println!("{}", crate::report::title());
    }
    for (i, row) in rows.iter().enumerate() {
        let left = args.budget - began.elapsed().as_secs_f64();
        let share = (left / (rows.len() - i) as f64).max(0.05);
        let result = one(args, row, share, &mut ours, &mut peers, &mut memory);
        match args.lines {
            true => {
                if let Some(line) = crate::report::line(row, &result) {
                    println!("{line}");
                }
            }
            false => println!("{}", result.text()),
        }
        report.rows.push(result);
    }
    report.seconds = began.elapsed().as_secs_f64();
    if !args.lines {
        println!("{}", report.summary());
    }
    Ok(report)
}

/// Starts the peers for each number of threads that the rows ask for.
fn start(args: &Args, dir: &std::path::Path, rows: &[Row]) -> Vec<Peer> {
    let mut peers = Vec::new();
    for threads in [1, 2] {
        if !rows.iter().any(|r| r.threads == threads && !r.scaling) {
            continue;
        }
        for (name, program) in programs(dir) {
            if !args.peers.is_empty() && !args.peers.iter().any(|p| p == name) {
                continue;
            }
            // On one thread only weights of GGUF formats are compared.
            if threads == 1 && !matches!(name, "ggml" | "candle") {
                continue;
            }
            match Peer::start(name, &program, threads) {
                Ok(p) => peers.push(p),
                Err(e) if threads == 2 || peers.is_empty() => {
                    eprintln!("without {name}: {e:#} (see peers/README.md)");
                }
                Err(_) => {}
            }
        }
    }
    peers
}

fn one(
    args: &Args,
    row: &Row,
    share: f64,
    ours: &mut Ours,
    peers: &mut Vec<Peer>,
    memory: &mut Memory,
) -> RowResult {
    let began = Instant::now();
    let mut result = RowResult::new(row);
    let mut rivals: Vec<Contender> = Vec::new();
    let threads: &[usize] = if row.scaling { &[2, 1] } else { &[row.threads] };
    for &t in threads {
        match ours.open(&row.case, t) {
            Ok(open) => {
                if result.kernel.is_empty() {
                    result.kernel = open.kernel().to_owned();
                }
                rivals.push(Contender {
                    name: format!("gristmill {t}"),
                    who: Who::Ours(Box::new(open)),
                    samples: Vec::new(),
                });
            }
            Err(e) => result.error = Some(format!("{e:#}")),
        }
    }
    if !row.scaling
        && let Some(words) = row.case.words(row.threads, &ours.models)
    {
        let mut gone = Vec::new();
        for (i, peer) in peers.iter_mut().enumerate() {
            if peer.threads != row.threads {
                continue;
            }
            match peer.open(&words) {
                Ok(names) => {
                    rivals.extend(names.into_iter().enumerate().map(|(v, name)| Contender {
                        name,
                        who: Who::Peer(i, v),
                        samples: Vec::new(),
                    }))
                }
                Err(e) => {
                    eprintln!("{}: {e:#}; it leaves", row.name);
                    gone.push(i);
                }
            }
        }
        if !gone.is_empty() {
            // Indexes would shift: those of this row are made anew.
            rivals.retain(|r| matches!(r.who, Who::Ours(_)));
            let mut i = 0;
            peers.retain(|_| {
                i += 1;
                !gone.contains(&(i - 1))
            });
        }
    }
    let (mut reads, mut stores, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..args.rounds {
        for rival in &mut rivals {
            let done = match &mut rival.who {
                Who::Ours(open) => open.sample(args.turn),
                Who::Peer(i, variant) => {
                    let done = peers[*i].sample(*variant, args.turn);
                    std::thread::sleep(QUIET);
                    done
                }
            };
            match done {
                Ok(samples) => rival.samples.extend(samples),
                Err(e) if matches!(rival.who, Who::Ours(_)) => {
                    result.error = Some(format!("{e:#}"))
                }
                Err(e) => eprintln!("{}: {}: {e:#}", row.name, rival.name),
            }
        }
        limits(row, memory, &mut reads, &mut stores, &mut peaks);
        if round == 0 {
            let best = rivals
                .iter()
                .filter(|r| matches!(r.who, Who::Peer(..)))
                .filter_map(|r| median(&r.samples))
                .fold(f64::INFINITY, f64::min);
            let unpacked = row.bars.iter().any(|b| matches!(b, Bar::PeerUnpacked(_)));
            for r in rivals.extract_if(.., |r| {
                matches!(r.who, Who::Peer(..))
                    && !unpacked
                    && median(&r.samples).is_none_or(|ms| ms > HOPELESS * best)
            }) {
                result.note(r.name, &r.samples);
            }
        }
        let spent = began.elapsed().as_secs_f64();
        let next = spent / f64::from(round + 1);
        // The first load finds memory that the system has yet to give.
        let least = if matches!(row.case, Case::Load { .. }) {
            2
        } else {
            1
        };
        if round >= least && spent + next > share || spent > 4.0 * share {
            break;
        }
    }
    for r in &rivals {
        match (&r.who, row.scaling, r.name.as_str()) {
            (Who::Ours(_), true, "gristmill 1") => result.one_thread_ms = median(&r.samples),
            (Who::Ours(_), ..) => result.ms = median(&r.samples),
            (Who::Peer(..), ..) => result.note(r.name.clone(), &r.samples),
        }
    }
    result.rivals.sort_by(|a: &Rival, b| a.ms.total_cmp(&b.ms));
    let bytes = match &row.case {
        // Each token reads all weights once; most of the file is weights.
        Case::Model { file, prompt } if !prompt => 128.0 * size_of_file(&ours.models.join(file)),
        Case::Model { file, .. } | Case::Load { file } => size_of_file(&ours.models.join(file)),
        case => case.bytes(),
    };
    let ms = |amount: f64, rate: Option<f64>| rate.map(|r| amount / r * 1e3);
    result.read_ms = ms(bytes, median(&reads));
    let peak = ms(row.case.flops(), peaks.iter().copied().reduce(f64::max));
    result.limit_ms = match row.limit {
        Limit::Read => result.read_ms,
        Limit::Store => ms(bytes, median(&stores)),
        Limit::ReadOr(_) => result.read_ms.zip(peak).map(|(a, b)| a.max(b)),
        Limit::F32 | Limit::Bf16 | Limit::Int8 => peak,
        Limit::None => None,
    };
    if let Case::Load { file } = &row.case {
        result.read_ms = warm_read(&ours.models.join(file));
    }
    result.judge(row);
    result
}

/// Measures what the limit of a row needs, once.
fn limits(
    row: &Row,
    memory: &mut Memory,
    reads: &mut Vec<f64>,
    stores: &mut Vec<f64>,
    peaks: &mut Vec<f64>,
) {
    let unit = |l: &Limit| match l {
        Limit::F32 => Some(Unit::F32),
        Limit::Bf16 => Some(Unit::Bf16),
        Limit::Int8 => Some(Unit::Int8),
        _ => None,
    };
    let mut peak = |l: &Limit| {
        if let Some(unit) = unit(l) {
            peaks.extend(ceilings::peak(unit, row.threads, WINDOW));
        }
    };
    match &row.limit {
        Limit::Read => reads.push(ceilings::read(&memory.0, row.threads)),
        Limit::Store => stores.push(ceilings::store(&mut memory.0, row.threads)),
        Limit::ReadOr(l) => {
            reads.push(ceilings::read(&memory.0, row.threads));
            peak(l);
        }
        l => peak(l),
    }
}

fn size_of_file(path: &std::path::Path) -> f64 {
    std::fs::metadata(path).map_or(0.0, |m| m.len() as f64)
}

/// Milliseconds of reading a file that the system has in memory.
fn warm_read(path: &std::path::Path) -> Option<f64> {
    let mut all = Vec::new();
    for _ in 0..4 {
        let start = Instant::now();
        let bytes = std::fs::read(path).ok()?;
        all.push(start.elapsed().as_secs_f64() * 1e3);
        drop(bytes);
    }
    median(&all[1..])
}

pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// First line of what a command prints.
pub fn output_of(program: &str, arguments: &[&str]) -> String {
    let done = Command::new(program).args(arguments).output();
    let text = done.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
    let line = text.unwrap_or_default().lines().next().map(str::to_owned);
    line.unwrap_or_default()
}

/// The processor's own name.
pub fn processor() -> String {
    let path = PathBuf::from("/proc/cpuinfo");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let name = text.lines().find_map(|l| l.strip_prefix("model name"));
    let name = name.map(|l| l.trim_start_matches([' ', '\t', ':']).to_owned());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{}, {cores} threads",
        name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
    )
}
