//! Others, each a program of its own that answers lines: see "Protocol" in the README.

use anyhow::{Context, Result, bail};
use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::Duration,
};

/// How long a peer may take for one answer.
const PATIENCE: Duration = Duration::from_secs(40);

/// A peer that runs.
pub struct Peer {
    /// `ggml`, `rust`, `candle`, `torch` or `openblas`.
    pub name: &'static str,
    /// What it says of itself.
    pub version: String,
    /// Threads that it uses.
    pub threads: usize,
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

/// Programs and where they are, as `setup.sh` leaves them.
pub fn programs(dir: &Path) -> Vec<(&'static str, Vec<PathBuf>)> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("workers/python.py");
    let python = dir.join("venv/bin/python");
    vec![
        ("ggml", vec![dir.join("ggml_peer")]),
        (
            "rust",
            vec![dir.join("target/release/gristmill-peers-rust")],
        ),
        (
            "candle",
            vec![dir.join("target_native/release/gristmill-peers-candle")],
        ),
        (
            "torch",
            vec![python.clone(), script.clone(), "torch".into()],
        ),
        ("openblas", vec![python, script, "openblas".into()]),
    ]
}

impl Peer {
    /// Starts a program with a number of threads.
    pub fn start(name: &'static str, program: &[PathBuf], threads: usize) -> Result<Peer> {
        let [first, rest @ ..] = program else {
            bail!("{name} has no program");
        };
        if !first.exists() {
            bail!("{} is not there", first.display());
        }
        let threads_word = threads.to_string();
        let mut command = Command::new(first);
        command.args(rest);
        if !rest.is_empty() {
            command.arg(&threads_word);
        }
        for variable in [
            "OMP_NUM_THREADS",
            "RAYON_NUM_THREADS",
            "RTEN_NUM_THREADS",
            "CANDLE_NUM_THREADS",
        ] {
            command.env(variable, &threads_word);
        }
        let mut child = command
            // Two spinning threads on one core would take the scheduler's time slices.
            .env("OMP_PROC_BIND", "true")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", first.display()))?;
        let input = child.stdin.take().context("no input")?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let mut peer = Peer {
            name,
            version: String::new(),
            threads,
            child,
            input,
            lines,
        };
        peer.version = match peer.ask("version")? {
            Some(words) => words.join(" "),
            None => bail!("{name} does not say its version"),
        };
        Ok(peer)
    }

    /// The words after `ok`; `None` when the answer is `none`.
    fn ask(&mut self, line: &str) -> Result<Option<Vec<String>>> {
        writeln!(self.input, "{line}")?;
        self.input.flush()?;
        let answer = match self.lines.recv_timeout(PATIENCE) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => bail!("{} takes too long: {line}", self.name),
            Err(RecvTimeoutError::Disconnected) => bail!("{} ended: {line}", self.name),
        };
        let mut words = answer.split('\t').map(str::to_owned);
        Ok((words.next().as_deref() == Some("ok")).then(|| words.collect()))
    }

    /// Lets its threads run, or stops them where the system can.
    fn go(&self, on: bool) {
        #[cfg(unix)]
        {
            use rustix::process::{Pid, Signal, kill_process};
            let signal = if on { Signal::CONT } else { Signal::STOP };
            // One that has ended is told by the next question.
            let _ = kill_process(Pid::from_child(&self.child), signal);
        }
        #[cfg(not(unix))]
        let _ = on;
    }

    /// Names of the ways in which it runs a case; none when it does not.
    pub fn open(&mut self, words: &str) -> Result<Vec<String>> {
        self.go(true);
        Ok(self.ask(&format!("open {words}"))?.unwrap_or_default())
    }

    /// Milliseconds of single runs. Its threads stand still after them: they would spin beside the
    /// next turn of others.
    pub fn sample(&mut self, variant: usize, seconds: f64) -> Result<Vec<f64>> {
        self.go(true);
        let answer = self.ask(&format!("run {variant} {seconds}"));
        self.go(false);
        let words = answer?.with_context(|| format!("{} does not run", self.name))?;
        Ok(words.iter().map(|w| w.parse()).collect::<Result<_, _>>()?)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may be in the middle of something.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
