//! Running the built command, and clusters of it.

// Each test binary uses a part of this.
#![allow(dead_code)]

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// The command, with nothing of the environment that changes what it says.
pub(crate) fn command<S: AsRef<OsStr>>(arguments: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.args(arguments).env_remove("QUORATE_LOG");
    command.stdin(Stdio::null());
    command
}

/// Runs the command to its end.
pub(crate) fn quorate<S: AsRef<OsStr>>(arguments: &[S]) -> Output {
    finish(command(arguments))
}

fn finish(mut command: Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let status = thread::scope(|scope| {
        scope.spawn(|| out.read_to_end(&mut stdout));
        scope.spawn(|| err.read_to_end(&mut stderr));
        ended(&mut child)
    });
    Output {
        status,
        stdout,
        stderr,
    }
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs the command, which must end with `status`, and gives what it printed.
pub(crate) fn run<S: AsRef<OsStr>>(arguments: &[S], status: i32) -> String {
    let output = quorate(arguments);
    let (out, err) = (stdout(&output), stderr(&output));
    let line: Vec<_> = arguments
        .iter()
        .map(|a| a.as_ref().to_string_lossy())
        .collect();
    assert_eq!(output.status.code(), Some(status), "{line:?}\n{out}\n{err}");
    out
}

/// Runs the command, which must fail with `status`; what it said about that names no panic.
pub(crate) fn fails<S: AsRef<OsStr>>(arguments: &[S], status: i32) -> String {
    let output = quorate(arguments);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(status), "{said}");
    assert!(said.contains("error: "), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

/// Sends a signal by its name.
pub(crate) fn signal(process: &Child, name: &str) {
    let id = process.id().to_string();
    let sent = Command::new("kill").args(["-s", name, &id]).status();
    assert!(sent.unwrap().success());
}

/// Waits for the end of a process.
pub(crate) fn ended(process: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = process.try_wait().unwrap() {
            return status;
        }
        if Instant::now() >= deadline {
            process.kill().unwrap();
            panic!("the process does not end: {:?}", process.wait());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until `done` gives something.
pub(crate) fn until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(outcome) = done() {
            return outcome;
        }
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Addresses that were free a moment ago.
pub(crate) fn free_addresses(n: usize) -> Vec<String> {
    let sockets: Vec<UdpSocket> = (0..n)
        .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
        .collect();
    let addresses = sockets.iter().map(|socket| socket.local_addr().unwrap());
    addresses.map(|address| address.to_string()).collect()
}

/// Separate processes, one a replica, that end with this value.
pub(crate) struct Cluster {
    directory: TempDir,
    nodes: Vec<Option<Child>>,
}

impl Cluster {
    /// Makes the configuration of `n` replicas, and starts none.
    pub(crate) fn init(n: usize) -> Cluster {
        Cluster::init_of("raft", n)
    }

    /// Makes the configuration of `n` replicas of a protocol, and starts none.
    pub(crate) fn init_of(protocol: &str, n: usize) -> Cluster {
        let directory = tempfile::tempdir().unwrap();
        let addresses = free_addresses(n).join(",");
        let dir = directory.path().as_os_str();
        let arguments = [
            "init".as_ref(),
            "--protocol".as_ref(),
            protocol.as_ref(),
            "--addresses".as_ref(),
            addresses.as_ref(),
            "--dir".as_ref(),
            dir,
        ];
        run(&arguments, 0);
        Cluster {
            directory,
            nodes: (0..n).map(|_| None).collect(),
        }
    }

    /// Lets in another client, with a key of its own, before any replica starts; gives its
    /// configuration.
    pub(crate) fn admit_another(&self) -> PathBuf {
        let key_file = self.path("other.key");
        let said = run(&["keygen", "--out", text(&key_file)], 0);
        let key = said.split_whitespace().last().unwrap();
        for number in 0..self.size() {
            let config = std::fs::read_to_string(self.config(number)).unwrap();
            let listed = format!("clients = [\"{key}\", ");
            assert!(config.contains("clients = ["), "{config}");
            let config = config.replace("clients = [", &listed);
            std::fs::write(self.config(number), config).unwrap();
        }
        let config = std::fs::read_to_string(self.path("client.toml")).unwrap();
        let other = self.path("other.toml");
        std::fs::write(&other, config.replace("client.key", "other.key")).unwrap();
        other
    }

    /// Starts all replicas, and waits for a leader.
    pub(crate) fn start(n: usize) -> Cluster {
        let mut cluster = Cluster::init(n);
        (0..n).for_each(|number| cluster.start_node(number));
        cluster.leader();
        cluster
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn config(&self, number: usize) -> PathBuf {
        self.path(&format!("node-{number}.toml"))
    }

    pub(crate) fn start_node(&mut self, number: usize) {
        self.start_node_with(number, &[]);
    }

    /// Starts a replica with more arguments than its configuration.
    pub(crate) fn start_node_with(&mut self, number: usize, more: &[&str]) {
        let log = File::options()
            .append(true)
            .create(true)
            .open(self.path(&format!("node-{number}.log")))
            .unwrap();
        let config = self.config(number);
        let mut command = command(&["node".as_ref(), "--config".as_ref(), config.as_os_str()]);
        command.args(more).stdout(Stdio::null()).stderr(log);
        self.nodes[number] = Some(command.spawn().unwrap());
    }

    /// Kills a replica, as with kill -9.
    pub(crate) fn kill(&mut self, number: usize) {
        let mut node = self.nodes[number].take().unwrap();
        node.kill().unwrap();
        node.wait().unwrap();
    }

    /// Asks a replica to end, and waits until it has.
    pub(crate) fn terminate(&mut self, number: usize) -> ExitStatus {
        let mut node = self.nodes[number].take().unwrap();
        signal(&node, "TERM");
        ended(&mut node)
    }

    /// How many replicas there are.
    pub(crate) fn size(&self) -> usize {
        self.nodes.len()
    }

    /// How many bytes of memory a replica has had at most, where the system tells.
    pub(crate) fn memory(&self, number: usize) -> Option<u64> {
        let id = self.nodes[number].as_ref()?.id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let most = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kilobytes: u64 = most.split_whitespace().next()?.parse().ok()?;
        Some(kilobytes << 10)
    }

    /// What a replica has logged.
    pub(crate) fn log(&self, number: usize) -> String {
        std::fs::read_to_string(self.path(&format!("node-{number}.log"))).unwrap()
    }

    /// Runs a client's command, which must end with `status`.
    pub(crate) fn ask(&self, arguments: &[&str], status: i32) -> String {
        let output = self.client(arguments);
        let (out, err) = (stdout(&output), stderr(&output));
        assert_eq!(
            output.status.code(),
            Some(status),
            "{arguments:?}\n{out}\n{err}"
        );
        out
    }

    /// Runs a client's command.
    pub(crate) fn client(&self, arguments: &[&str]) -> Output {
        let mut command = command(arguments);
        command.current_dir(self.directory.path());
        finish(command)
    }

    /// Where the replicas stand, as `status --json` tells.
    pub(crate) fn status(&self) -> Vec<Value> {
        let output = self.client(&["status", "--all", "--json", "--timeout", "5"]);
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();
        status["replicas"].as_array().unwrap().clone()
    }

    /// Waits for a leader that a majority follows.
    pub(crate) fn leader(&self) -> usize {
        until("a leader", || {
            let status = self.status();
            let leader = status.iter().find(|replica| replica["role"] == "leader")?;
            let number = leader["replica"].as_u64()?;
            let followed = |replica: &&Value| {
                replica["leader"] == number && replica["regime"] == leader["regime"]
            };
            let followers = status.iter().filter(followed).count();
            (followers > status.len() / 2).then_some(number as usize)
        })
    }

    /// Waits until all replicas have executed the same, and gives their digests.
    pub(crate) fn digests(&self) -> Vec<Value> {
        until("equal numbers of executed entries", || {
            let status = self.status();
            let first = &status[0]["executed"];
            let equal = |replica: &Value| first.is_u64() && replica["executed"] == *first;
            let digests = status.iter().map(|replica| replica["digest"].clone());
            status.iter().all(equal).then(|| digests.collect())
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for mut node in self.nodes.iter_mut().filter_map(Option::take) {
            node.kill().ok();
            node.wait().ok();
        }
    }
}

/// A file's name as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
