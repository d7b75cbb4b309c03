//! The clock, the machine and its memory.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Times of the repetitions of one thing, in milliseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Times(Vec<f64>);

impl Times {
    /// Adds a repetition.
    pub fn push(&mut self, time: Duration) {
        self.0.push(milliseconds(time));
    }

    /// Number of repetitions.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in the order in which they ran.
    pub fn all(&self) -> &[f64] {
        &self.0
    }

    /// The fastest; NaN without repetitions.
    pub fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::min)
    }

    /// The slowest; NaN without repetitions.
    pub fn max(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::max)
    }

    /// The middle one, or the mean of the middle two; NaN without repetitions.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => sorted[middle],
            _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
        }
    }

    /// The repetition below which this share of them lies, from 0 to 1; NaN without repetitions.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = share * sorted.len().saturating_sub(1) as f64;
        sorted.get(at as usize).copied().unwrap_or(f64::NAN)
    }

    /// How far the repetitions lie apart: (slowest − fastest) / median.
    pub fn spread(&self) -> f64 {
        (self.max() - self.min()) / self.median()
    }
}

impl FromIterator<f64> for Times {
    fn from_iter<I: IntoIterator<Item = f64>>(times: I) -> Self {
        Times(times.into_iter().collect())
    }
}

/// A duration in milliseconds.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Runs something and returns how long it took.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}

/// The largest resident memory that this process has had, in bytes; 0 where the system does not tell.
pub fn peak_rss() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|kilobytes| kilobytes.trim().parse::<u64>().ok())
        .map_or(0, |kilobytes| kilobytes * 1024)
}

/// What a committed result carries of the machine and the code: `cpu`, `cpus`, `os`, `commit`, `date`.
pub fn machine() -> Value {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("", |rest| rest.trim_start_matches([' ', '\t', ':']).trim());
    json!({
        "cpu": cpu,
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "os": format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
        "commit": commit(),
        "date": output(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M:%S"])).unwrap_or_default(),
    })
}

/// The commit that the workspace stands on, `-dirty` added when tracked files differ from it; empty outside git.
pub fn commit() -> String {
    let root = ::tests::tpch::workspace();
    let git = |arguments: &[&str]| output(Command::new("git").arg("-C").arg(&root).args(arguments));
    let Some(commit) = git(&["rev-parse", "HEAD"]) else {
        return String::new();
    };
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if changes.is_empty() => commit,
        _ => commit + "-dirty",
    }
}

/// Watches how many CPUs other programs kept busy, so that a disturbed run can be told from a quiet one.
pub struct Bystanders {
    start: Instant,
    busy: Option<f64>,
    own: Option<f64>,
}

impl Bystanders {
    /// Starts to watch.
    pub fn watch() -> Self {
        Bystanders { start: Instant::now(), busy: busy(), own: own() }
    }

    /// CPUs that anything but this process kept busy since the start, on average; `None` where the system does not
    /// tell.
    pub fn busy(&self) -> Option<f64> {
        let everything = busy()? - self.busy?;
        let own = own()? - self.own?;
        Some((everything - own).max(0.0) / self.start.elapsed().as_secs_f64())
    }
}

/// Clock ticks of the fields in `/proc`: 100 a second on every Linux that user programs see.
const TICKS: f64 = 100.0;

/// CPU seconds that the whole machine has spent.
fn busy() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let ticks: Vec<f64> =
        stat.lines().next()?.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok()).collect();
    // The fourth and the fifth are idle and waiting for input.
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some((ticks.iter().sum::<f64>() - idle) / TICKS)
}

/// CPU seconds that this process, and those of its children that have ended, have spent.
fn own() -> Option<f64> {
    let stat = fs::read_to_string(Path::new("/proc/self/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: Vec<f64> = fields.get(11..15)?.iter().filter_map(|field| field.parse().ok()).collect();
    Some(ticks.iter().sum::<f64>() / TICKS)
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spread() {
        let odd: Times = [3.0, 1.0, 2.0].into_iter().collect();
        assert_eq!((odd.min(), odd.median(), odd.max(), odd.spread()), (1.0, 2.0, 3.0, 1.0));
        let even: Times = [4.0, 1.0, 2.0, 3.0].into_iter().collect();
        assert_eq!(even.median(), 2.5);
        assert_eq!((even.quantile(0.0), even.quantile(0.9), even.quantile(1.0)), (1.0, 3.0, 4.0));
        assert!(Times::default().median().is_nan());
    }

    #[test]
    fn the_machine_is_described() {
        let machine = machine();
        for key in ["cpu", "cpus", "os", "commit", "date"] {
            assert!(machine.get(key).is_some(), "{key}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_and_other_work_are_read() {
        assert!(peak_rss() > 1 << 20);
        let watch = Bystanders::watch();
        assert!(watch.busy().is_some_and(|cpus| cpus >= 0.0));
    }
}
