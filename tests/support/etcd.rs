//! Real etcd clusters for tests; their data is in memory.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// The members of a cluster. They end when this is dropped, or with the process.
pub struct Cluster {
    /// The members' addresses for clients, `HOST:PORT`.
    pub addresses: Vec<String>,
    members: Vec<Member>,
}

/// A shell that runs a member until its standard input ends, and then removes its data.
struct Member {
    shell: Child,
    input: Option<ChildStdin>,
}

const SCRIPT: &str = r#"
dir=$(mktemp -d -p /dev/shm etcd-test.XXXXXX) || exit 1
etcd --data-dir "$dir/data" "$@" </dev/null >"$dir/log" 2>&1 &
pid=$!
while read -r signal; do kill "-$signal" $pid; done
kill -KILL $pid
wait $pid 2>/dev/null
rm -rf "$dir"
"#;

impl Drop for Member {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.shell.wait();
    }
}

/// The ports of a member.
struct Ports {
    clients: u16,
    peers: u16,
    health: u16,
}

impl Ports {
    fn free() -> Self {
        Self {
            clients: free_port(),
            peers: free_port(),
            health: free_port(),
        }
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

impl Cluster {
    /// Starts a cluster. Returns `None`, with a message, where etcd is not installed.
    pub fn start(members: usize) -> Option<Self> {
        Self::start_with(members, None)
    }

    /// Starts a cluster of one member that talks to clients over TLS alone, with the certificates in this directory, one of which is for `localhost`. It
    /// asks clients for theirs.
    pub fn start_with_tls(dir: &Path) -> Option<Self> {
        Self::start_with(1, Some(dir))
    }

    fn start_with(members: usize, tls: Option<&Path>) -> Option<Self> {
        let known = |dir: &str| Path::new(dir).join("etcd").exists();
        let path = std::env::var("PATH").unwrap_or_default();
        if !path.split(':').any(known) || !Path::new("/dev/shm").exists() {
            eprintln!("skipped: needs etcd, which is not installed");
            return None;
        }
        // Another process may take a port before the member has it.
        (0..5).find_map(|_| Self::try_to_start(members, tls))
    }

    fn try_to_start(count: usize, tls: Option<&Path>) -> Option<Self> {
        let ports: Vec<Ports> = (0..count).map(|_| Ports::free()).collect();
        let peers: Vec<String> = ports
            .iter()
            .enumerate()
            .map(|(at, ports)| format!("m{at}=http://127.0.0.1:{}", ports.peers))
            .collect();
        let start = |(at, ports): (usize, &Ports)| Member::start(at, ports, &peers.join(","), tls);
        let host = if tls.is_some() { "localhost" } else { "127.0.0.1" };
        let cluster = Self {
            members: ports.iter().enumerate().map(start).collect(),
            addresses: ports
                .iter()
                .map(|ports| format!("{host}:{}", ports.clients))
                .collect(),
        };
        cluster.await_leader(&ports).then_some(cluster)
    }

    /// Waits until each member knows a leader.
    fn await_leader(&self, ports: &[Ports]) -> bool {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if ports.iter().all(|ports| is_healthy(ports.health)) {
                return true;
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        false
    }

    /// Sends a signal to a member: `STOP`, `CONT`.
    pub fn signal(&mut self, member: usize, signal: &str) {
        let input = self.members[member].input.as_mut().unwrap();
        writeln!(input, "{signal}").unwrap();
    }

    /// Ends a member.
    pub fn end(&mut self, member: usize) {
        drop(self.members.remove(member));
    }
}

/// Asks a member for its health, as etcd serves it by HTTP.
fn is_healthy(port: u16) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        std::io::Result::Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains("\"health\":\"true\""))
}

impl Member {
    fn start(at: usize, ports: &Ports, peers: &str, tls: Option<&Path>) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let client = format!("{scheme}://127.0.0.1:{}", ports.clients);
        let peer = format!("http://127.0.0.1:{}", ports.peers);
        let health = format!("http://127.0.0.1:{}", ports.health);
        let name = format!("m{at}");
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "etcd"]);
        if let Some(dir) = tls {
            command.arg("--client-cert-auth");
            for (option, file) in [
                ("--trusted-ca-file", "ca.pem"),
                ("--cert-file", "cert.pem"),
                ("--key-file", "key.pem"),
            ] {
                command.arg(option).arg(dir.join(file));
            }
        }
        let mut shell = command
            .args(["--listen-metrics-urls", &health])
            .args(["--name", &name, "--initial-cluster", peers])
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let input = shell.stdin.take();
        Self { shell, input }
    }
}
