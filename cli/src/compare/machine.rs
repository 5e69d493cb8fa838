//! The machine that was measured on, as far as it tells.

use std::path::Path;
use std::{fmt, fs, thread};

use serde::Serialize;

/// What figures depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Machine {
    /// The processor's model.
    pub(crate) cpu: String,
    /// How many threads may run at once.
    pub(crate) cores: usize,
    /// All memory, in MiB.
    pub(crate) memory_mib: u64,
    /// The operating system and its kernel.
    pub(crate) os: String,
    /// The file system that the replicas write to.
    pub(crate) file_system: String,
}

const UNKNOWN: &str = "unknown";

impl Machine {
    /// This machine, with replicas that write below `data`.
    pub(crate) fn this(data: &Path) -> Self {
        let memory = after(&read("/proc/meminfo"), "MemTotal:")
            .and_then(|text| text.trim_end_matches("kB").trim().parse::<u64>().ok());
        Machine {
            cpu: cpu(&read("/proc/cpuinfo")),
            cores: thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory.unwrap_or(0) / 1024,
            os: os(
                &read("/etc/os-release"),
                &read("/proc/sys/kernel/osrelease"),
            ),
            file_system: file_system(data, &read("/proc/self/mountinfo")),
        }
    }

    /// Whether syncs mean nothing here, because the file system lives in memory.
    pub(crate) fn writes_to_memory(&self) -> bool {
        ["tmpfs", "ramfs"].contains(&self.file_system.as_str())
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine {
            cpu,
            cores,
            memory_mib,
            os,
            file_system,
        } = self;
        let gib = *memory_mib as f64 / 1024.0;
        write!(
            f,
            "{cpu}, {cores} cores, {gib:.0} GiB, data on {file_system}\n          {os}"
        )
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// What follows `label` on its line.
fn after(text: &str, label: &str) -> Option<String> {
    let rest = text.lines().find_map(|line| line.strip_prefix(label))?;
    Some(String::from(rest.trim()))
}

fn cpu(cpuinfo: &str) -> String {
    let model = after(cpuinfo, "model name").or_else(|| after(cpuinfo, "Model"));
    let model = model.map(|text| String::from(text.trim_start_matches(':').trim()));
    model.unwrap_or_else(|| String::from(std::env::consts::ARCH))
}

fn os(release: &str, kernel: &str) -> String {
    let name = after(release, "PRETTY_NAME=").map(|text| String::from(text.trim_matches('"')));
    let name = name.unwrap_or_else(|| String::from(std::env::consts::OS));
    match kernel.trim() {
        "" => name,
        kernel => format!("{name}, kernel {kernel}"),
    }
}

/// The type of the innermost mount that holds `path`. A line of the table is: ids, root, mount
/// point (the fifth field), options, `-`, type, ...
fn file_system(path: &Path, mounts: &str) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let mount = |line: &str| -> Option<(usize, String)> {
        let (place, device) = line.split_once(" - ")?;
        let point = place.split(' ').nth(4)?;
        let kind = device.split(' ').next()?;
        path.starts_with(point)
            .then(|| (point.len(), String::from(kind)))
    };
    // Of equal mount points the last is on top, and that is the one `max_by_key` gives.
    let innermost = mounts
        .lines()
        .filter_map(mount)
        .max_by_key(|(length, _)| *length);
    innermost.map_or_else(|| String::from(UNKNOWN), |(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_counts() {
        let mounts = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:20 / /some rw shared:7 - tmpfs tmpfs rw
24 23 0:21 / /some/where rw - xfs /dev/vdb rw
";
        let kind = |path: &str| file_system(Path::new(path), mounts);
        assert_eq!(kind("/other/place"), "ext4");
        assert_eq!(kind("/some/place"), "tmpfs");
        assert_eq!(kind("/some/where/deep"), "xfs");
        assert_eq!(file_system(Path::new("/"), ""), UNKNOWN);
    }

    #[test]
    fn what_is_not_told_is_replaced() {
        assert_eq!(cpu("model name\t: Some CPU\n"), "Some CPU");
        assert_eq!(cpu(""), std::env::consts::ARCH);
        let release = "ID=x\nPRETTY_NAME=\"X 1\"\n";
        assert_eq!(os(release, "6.1\n"), "X 1, kernel 6.1");
        assert_eq!(os("", ""), std::env::consts::OS);
    }
}
