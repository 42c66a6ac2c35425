//! What the operating system says that threads and processes have used.

use std::fs;
use std::io;
use std::time::Duration;

/// Processor time and wake-ups of a process, all threads that live summed up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Time on a processor.
    pub cpu: Duration,
    /// Times that a thread gave the processor up by itself, and so was woken again.
    pub wake_ups: u64,
}

/// Processor time of the calling thread.
///
/// # Errors
/// Where the kernel keeps no such counts.
pub fn thread_cpu() -> io::Result<Duration> {
    first_number(&fs::read_to_string("/proc/thread-self/schedstat")?).map(Duration::from_nanos)
}

/// What the threads of this process have used so far.
///
/// # Errors
/// Where the kernel keeps no such counts.
pub fn process() -> io::Result<Usage> {
    let mut sum = Usage::default();
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        let nanos = first_number(&fs::read_to_string(task.join("schedstat"))?)?;
        sum.cpu += Duration::from_nanos(nanos);
        sum.wake_ups +=
            field(&fs::read_to_string(task.join("status"))?, "voluntary_ctxt_switches")?;
    }
    Ok(sum)
}

/// Kibibytes of a process: what `/proc/PID/status` calls `name`, such as `VmHWM`.
///
/// # Errors
/// Where there is no such process (any more).
pub fn kibibytes(pid: u32, name: &str) -> io::Result<u64> {
    field(&fs::read_to_string(format!("/proc/{pid}/status"))?, name)
}

fn field(text: &str, name: &str) -> io::Result<u64> {
    let line = |line: &'_ str| line.strip_prefix(name)?.strip_prefix(':').map(str::to_owned);
    first_number(&text.lines().find_map(line).unwrap_or_default())
}

fn first_number(text: &str) -> io::Result<u64> {
    let number = text.split_whitespace().next().and_then(|word| word.parse().ok());
    number.ok_or_else(|| io::Error::other("a count of the kernel that is not there"))
}
