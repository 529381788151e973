//! A directory that replaces `/tmp`, and scripts that run in it.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// The longest run of a script, in seconds.
const LONG: &str = "180";
/// The ordinary user, for tests that run as root.
const NOBODY: u32 = 65534;

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub fn has(program: &str) -> bool {
    Command::new("sh")
        .args(["-c", "command -v \"$0\"", program])
        .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
        .stdout(Stdio::null())
        .status()
        .unwrap()
        .success()
}

/// A directory that replaces `/tmp`, with the programs under test in `bin`. Processes that still run in it end with it.
pub struct Place {
    dir: TempDir,
    ordinary: bool,
}

impl Place {
    pub fn new(ordinary: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_vctl"), bin.join("vctl")).unwrap();
        let apparatus = bin.join("apparatus");
        fs::write(
            &apparatus,
            "#!/bin/sh\nexec \"${0%/*}/vctl\" __apparatus \"$@\"\n",
        )
        .unwrap();
        fs::set_permissions(&apparatus, fs::Permissions::from_mode(0o755)).unwrap();
        if ordinary {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
            chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        Self { dir, ordinary }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Gives a file to the user that commands run as.
    pub fn give(&self, name: &str) {
        if self.ordinary {
            chown(self.path().join(name), Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }

    fn shell(&self, script: &str) -> Output {
        let id = NOBODY.to_string();
        let mut words = vec!["timeout", "-k", "5", LONG];
        if self.ordinary {
            words.extend(["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"]);
        }
        words.extend(["sh", "-eux", "-c", script]);
        let bin = self.path().join("bin");
        Command::new(words[0])
            .args(&words[1..])
            .env_clear()
            .env(
                "PATH",
                format!("{}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", bin.display()),
            )
            .env("HOME", self.path())
            .current_dir(self.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs commands one after the other; all have to succeed. `/tmp/` is this directory, and the ports 23791 to 23799 are free ones.
    pub fn run(&self, text: &str) {
        let own = format!("{}/", self.path().display());
        // What still runs in the background when a command fails ends with it.
        let text = format!("trap 'jobs -p > jobs; kill -KILL $(cat jobs) 2> /dev/null || true' EXIT\n{text}");
        let text = with_free_ports(&text.replace("/tmp/", &own));
        let output = self.shell(&text);
        assert!(
            output.status.success(),
            "{}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// Replaces the ports 23791 to 23799, which the documents use, by ones that nobody uses at this moment.
fn with_free_ports(text: &str) -> String {
    // All listeners are there until each has its port, so that no two have the same.
    let listeners: Vec<TcpListener> = (1..=9)
        .map(|_| TcpListener::bind(("127.0.0.1", 0)).unwrap())
        .collect();
    let ports = (23791..).zip(&listeners);
    ports.fold(text.to_owned(), |text, (written, free)| {
        let free = free.local_addr().unwrap().port();
        text.replace(&format!("127.0.0.1:{written}"), &format!("127.0.0.1:{free}"))
    })
}

impl Drop for Place {
    fn drop(&mut self) {
        let dir = self.path().display();
        // Users of a volume end before the volume does.
        let script = format!(
            "set +e
            export VCTL_POOL={dir}/pool
            mounts() {{ awk -v d={dir}/ 'index($2, d) == 1 {{ print $2 }}' /proc/self/mounts | sort -r; }}
            umount {dir}/mnt
            losetup -l -n -O NAME,BACK-FILE | awk -v d={dir}/ 'index($2, d) == 1 {{ print $1 }}' |
                while read -r l; do losetup -d \"$l\"; done
            for a in $(vctl apparatus list --no-headings -o name); do vctl apparatus fence \"$a\" --cut-off-users; done
            mounts | while read -r m; do umount -l \"$m\" || fusermount3 -uz \"$m\"; done"
        );
        self.shell(&script);
    }
}
