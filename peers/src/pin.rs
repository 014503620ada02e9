//! Our threads on processors of their own, as `OMP_PROC_BIND` has those of peers: under real-time
//! priority, a helper that wakes up behind the thread that works and spins may wait there for good.

/// Keeps the calling thread on the first processor and the helpers of devices on those after it;
/// once dropped, the calling thread may run anywhere again, and so may what it starts.
pub struct Pinned {
    #[cfg(target_os = "linux")]
    all: Option<rustix::thread::CpuSet>,
}

impl Pinned {
    #[cfg(target_os = "linux")]
    pub fn new() -> Pinned {
        let all = rustix::thread::sched_getaffinity(None).ok();
        for (id, name) in threads("self") {
            let i = name.strip_prefix("gristmill-").and_then(|i| i.parse().ok());
            if let (Some(all), Some(i)) = (&all, i) {
                place(all, Some(id), i);
            }
        }
        if let Some(all) = &all {
            place(all, None, 0);
        }
        Pinned { all }
    }

    #[cfg(not(target_os = "linux"))]
    pub fn new() -> Pinned {
        Pinned {}
    }
}

/// The same for another process of ours, by the threads that it has now: its first on the first
/// processor, the others in turns on those after it.
#[cfg(target_os = "linux")]
pub fn pin(process: u32) {
    let Ok(all) = rustix::thread::sched_getaffinity(None) else {
        return;
    };
    let others = (all.count() as usize).saturating_sub(1).max(1);
    let mut ids: Vec<_> = threads(&process.to_string()).collect();
    ids.sort_by_key(|(id, _)| id.as_raw_nonzero());
    for (i, (id, _)) in ids.into_iter().enumerate() {
        place(
            &all,
            Some(id),
            if i == 0 { 0 } else { 1 + (i - 1) % others },
        );
    }
}

#[cfg(not(target_os = "linux"))]
pub fn pin(_: u32) {}

/// Threads of a process, with their names.
#[cfg(target_os = "linux")]
fn threads(process: &str) -> impl Iterator<Item = (rustix::thread::Pid, String)> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task"));
    tasks.into_iter().flatten().filter_map(|task| {
        let task = task.ok()?;
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        let id = task.file_name().to_str()?.parse().ok()?;
        Some((
            rustix::thread::Pid::from_raw(id)?,
            name.trim_end().to_owned(),
        ))
    })
}

/// A thread, or the calling one, on processor `i` of `all`, if there are so many.
#[cfg(target_os = "linux")]
fn place(all: &rustix::thread::CpuSet, thread: Option<rustix::thread::Pid>, i: usize) {
    use rustix::thread::{CpuSet, sched_setaffinity};
    if let Some(cpu) = (0..CpuSet::MAX_CPU).filter(|&c| all.is_set(c)).nth(i) {
        let mut one = CpuSet::new();
        one.set(cpu);
        // A thread that has ended needs no place.
        let _ = sched_setaffinity(thread, &one);
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        #[cfg(target_os = "linux")]
        if let Some(all) = &self.all {
            // It was so before.
            let _ = rustix::thread::sched_setaffinity(None, all);
        }
    }
}
