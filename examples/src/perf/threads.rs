//! What each thread of a process has used of processors.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// Threads of one process at one moment.
#[derive(Clone, Debug, Default)]
pub struct Threads {
    by_id: BTreeMap<u32, Thread>,
}

/// What one thread has used, since it began or between two moments.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Thread {
    /// Its name; the kernel keeps 15 letters.
    pub name: String,
    /// Time on a processor.
    #[serde(rename = "cpu_seconds", serialize_with = "seconds")]
    pub cpu: Duration,
    /// Time that it could have gone on, and waited for a processor that others had.
    #[serde(rename = "waited_seconds", serialize_with = "seconds")]
    pub waited: Duration,
}

fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

impl Threads {
    /// The threads of this process.
    ///
    /// # Errors
    /// Where the kernel keeps no such counts.
    pub fn of_this_process() -> io::Result<Self> {
        Self::read("/proc/self/task".as_ref())
    }

    /// The threads of another process.
    ///
    /// # Errors
    /// When there is no such process, or it is none of whose threads one may know.
    pub fn of(process: u32) -> io::Result<Self> {
        Self::read(format!("/proc/{process}/task").as_ref())
    }

    fn read(tasks: &Path) -> io::Result<Self> {
        let mut by_id = BTreeMap::new();
        for task in tasks.read_dir()? {
            let path = task?.path();
            let id = path.file_name().and_then(|name| name.to_str()?.parse().ok());
            // A thread may have ended meanwhile.
            if let (Some(id), Ok(counts)) = (id, std::fs::read_to_string(path.join("schedstat"))) {
                let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
                let [cpu, waited] = times(&counts)
                    .ok_or_else(|| io::Error::other(format!("{}: {counts}", path.display())))?;
                by_id.insert(id, Thread { name: name.trim_end().to_owned(), cpu, waited });
            }
        }
        if by_id.is_empty() {
            return Err(io::Error::other("the kernel keeps no times of threads"));
        }
        Ok(Self { by_id })
    }

    /// What each thread has used from `before` to this, the one that used most first.
    #[must_use]
    pub fn since(&self, before: &Self) -> Vec<Thread> {
        let used = |(id, now): (&u32, &Thread)| {
            let then = before.by_id.get(id);
            let less = |now: Duration, then: Option<Duration>| {
                now.saturating_sub(then.unwrap_or_default())
            };
            Thread {
                name: now.name.clone(),
                cpu: less(now.cpu, then.map(|t| t.cpu)),
                waited: less(now.waited, then.map(|t| t.waited)),
            }
        };
        let mut threads: Vec<Thread> = self.by_id.iter().map(used).collect();
        threads.sort_by_key(|thread| std::cmp::Reverse(thread.cpu));
        threads
    }
}

/// The first two numbers of `schedstat`: nanoseconds on a processor, and in the queue for one.
fn times(schedstat: &str) -> Option<[Duration; 2]> {
    let mut numbers = schedstat.split_ascii_whitespace().map(str::parse::<u64>);
    let mut next = || numbers.next()?.ok().map(Duration::from_nanos);
    Some([next()?, next()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found() {
        let want = [5, 7].map(Duration::from_nanos);
        assert_eq!(times("5 7 3\n"), Some(want));
        assert_eq!(times("5\n"), None);
        assert_eq!(times("x 7\n"), None);
    }

    #[test]
    fn a_thread_that_computes_is_found_by_its_name() {
        let before = Threads::of_this_process().unwrap();
        let busy = std::thread::Builder::new().name("computes".into());
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let compute = move || while receiver.try_recv().is_err_and(|e| e == EMPTY) {};
        const EMPTY: std::sync::mpsc::TryRecvError = std::sync::mpsc::TryRecvError::Empty;
        let thread = busy.spawn(compute).unwrap();
        loop {
            let used = Threads::of_this_process().unwrap().since(&before);
            let found = used.iter().find(|thread| thread.name == "computes");
            if found.is_some_and(|thread| thread.cpu > Duration::ZERO) {
                break;
            }
        }
        drop(sender);
        thread.join().unwrap();
        assert!(Threads::of(u32::MAX).is_err());
    }
}
