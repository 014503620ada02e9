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
        use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
        let all = sched_getaffinity(None).ok();
        let place = |thread, i: usize| {
            let all = all.as_ref()?;
            let cpu = (0..CpuSet::MAX_CPU).filter(|&c| all.is_set(c)).nth(i)?;
            let mut one = CpuSet::new();
            one.set(cpu);
            sched_setaffinity(thread, &one).ok()
        };
        for task in std::fs::read_dir("/proc/self/task").into_iter().flatten() {
            let helper = task.ok().and_then(|task| {
                let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
                let i = name.trim_end().strip_prefix("gristmill-")?.parse().ok()?;
                let id = task.file_name().to_str()?.parse().ok()?;
                Some((rustix::thread::Pid::from_raw(id), i))
            });
            if let Some((id, i)) = helper {
                place(id, i);
            }
        }
        place(None, 0);
        Pinned { all }
    }

    #[cfg(not(target_os = "linux"))]
    pub fn new() -> Pinned {
        Pinned {}
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
