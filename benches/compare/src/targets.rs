//! The ways to one image: each is started once, measured in turn with the others, and taken down when dropped.

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// How long a server may take until its file is there.
const START: Duration = Duration::from_secs(20);

/// One way to the image, ready to be measured.
pub(crate) struct Target {
    /// Row of the table.
    pub(crate) name: String,
    /// What fio opens.
    pub(crate) path: PathBuf,
    /// The image files behind it, whose page cache a cold cell empties.
    pub(crate) images: Vec<PathBuf>,
    /// The process whose CPU time is counted.
    pub(crate) server: Option<u32>,
    _keep: Keep,
}

/// What ends when the target is dropped.
#[expect(dead_code, reason = "held only to be dropped")]
enum Keep {
    Nothing,
    Process(Server),
    Command(Undo),
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _status = self.0.wait();
    }
}

struct Undo(Vec<String>);

impl Drop for Undo {
    fn drop(&mut self) {
        let _status = quiet(&self.0).status();
    }
}

fn quiet(words: &[String]) -> Command {
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn words(text: &[&str]) -> Vec<String> {
    text.iter().map(|&word| word.to_owned()).collect()
}

pub(crate) fn must(program: &Path, args: &[&str]) -> Outcome<String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .map_err(|e| format!("{}: {e}", program.display()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(format!(
        "{} {}: {}",
        program.display(),
        args.join(" "),
        String::from_utf8_lossy(&output.stderr)
    )
    .into())
}

/// Whether a program is on the path.
#[must_use]
pub(crate) fn installed(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// Makes an image of `bytes` filled with bytes that do not compress to holes.
///
/// # Errors
/// The file system's.
pub(crate) fn make_image(path: &Path, bytes: u64) -> Outcome<()> {
    File::create(path)?;
    fill(path, bytes)
}

/// What the targets are made in, and from.
pub(crate) struct Ground<'a> {
    /// A directory on the file system that is measured.
    pub(crate) dir: &'a Path,
    /// Bytes of the image.
    pub(crate) bytes: u64,
    /// Where `apparatus`, `vctl` and `bare` have been built.
    pub(crate) programs: &'a Path,
}

impl Ground<'_> {
    fn image(&self, name: &str) -> Outcome<PathBuf> {
        let path = self.dir.join(format!("{name}.img"));
        if !path.exists() {
            make_image(&path, self.bytes)?;
        }
        Ok(path)
    }

    fn mountpoint(&self, name: &str) -> Outcome<PathBuf> {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// The image file itself, opened with `O_DIRECT`.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn plain(&self) -> Outcome<Target> {
        let image = self.image("plain")?;
        let images = vec![image.clone()];
        Ok(Target {
            name: "image, O_DIRECT".into(),
            path: image,
            images,
            server: None,
            _keep: Keep::Nothing,
        })
    }

    /// A volume that fills one disk of a pool, in the mount of one apparatus.
    ///
    /// # Errors
    /// What `vctl` says.
    pub(crate) fn ours(&self) -> Outcome<Target> {
        let pool = self.dir.join("pool");
        let (pool_text, vctl) = (pool.display().to_string(), self.programs.join("vctl"));
        let v = |args: &[&str]| must(&vctl, &[&["--pool", &pool_text], args].concat());
        let image = self.dir.join("ours.img");
        v(&["pool", "create"])?;
        v(&[
            "disk",
            "add",
            &image.display().to_string(),
            "--create",
            &(self.bytes + (2 << 20)).to_string(),
        ])?;
        v(&["volume", "create", "image", &self.bytes.to_string()])?;
        let mut served = self.served_pool(&pool)?;
        served.path.push("image");
        served.images.push(image);
        fill(&served.path, self.bytes)?;
        Ok(served)
    }

    /// One apparatus of this pool; the path is its mount.
    ///
    /// # Errors
    /// What `vctl` says.
    pub(crate) fn served_pool(&self, pool: &Path) -> Outcome<Target> {
        let (mount, vctl) = (self.mountpoint("ours")?, self.programs.join("vctl"));
        let (pool, at) = (pool.display().to_string(), mount.display().to_string());
        must(&vctl, &["--pool", &pool, "apparatus", "start", "bench", &at])?;
        let program = vctl.display().to_string();
        let stop = words(&[&program, "--pool", &pool, "apparatus", "stop", "bench"]);
        let shown = must(&vctl, &["--pool", &pool, "apparatus", "show", "bench", "--json"])?;
        Ok(Target {
            name: "apparatus".into(),
            path: mount,
            images: Vec::new(),
            server: find_pid(&serde_json::from_str(&shown)?),
            _keep: Keep::Command(Undo(stop)),
        })
    }

    /// The bare fuser program with so many threads.
    ///
    /// # Errors
    /// When it does not mount.
    pub(crate) fn bare(&self, threads: u32) -> Outcome<Target> {
        let (image, mount) = (self.image("bare")?, self.mountpoint(&format!("bare-{threads}"))?);
        let mut command = Command::new(self.programs.join("bare"));
        command.arg(&image).arg(&mount).arg(threads.to_string());
        self.served(
            &format!("bare fuser, {threads} threads"),
            command,
            mount.join("image"),
            image,
        )
    }

    /// qemu-storage-daemon's FUSE export.
    ///
    /// # Errors
    /// When it does not export.
    pub(crate) fn qsd(&self) -> Outcome<Target> {
        let image = self.image("qsd")?;
        let path = self.dir.join("qsd-export");
        File::create(&path)?;
        let mut command = Command::new("qemu-storage-daemon");
        command
            .arg(format!(
                "--blockdev=driver=file,node-name=f,filename={}",
                image.display()
            ))
            .arg("--blockdev=driver=raw,node-name=r,file=f")
            .arg(format!(
                "--export=type=fuse,id=e,node-name=r,mountpoint={},writable=on",
                path.display()
            ));
        self.served("qemu-storage-daemon", command, path, image)
    }

    /// nbdfuse over nbdkit's file plugin.
    ///
    /// # Errors
    /// When it does not mount.
    pub(crate) fn nbdfuse(&self) -> Outcome<Target> {
        let (image, mount) = (self.image("nbd")?, self.mountpoint("nbdfuse")?);
        let mut command = Command::new("nbdfuse");
        command
            .arg(&mount)
            .arg("--command")
            .args(["nbdkit", "-s", "file"])
            .arg(format!("file={}", image.display()));
        self.served("nbdfuse over nbdkit", command, mount.join("nbd"), image)
    }

    /// A loop device, direct I/O on, over another target.
    ///
    /// # Errors
    /// What `losetup` says.
    pub(crate) fn looped(&self, below: &Target) -> Outcome<Target> {
        let path = below.path.display().to_string();
        let device = must(
            Path::new("losetup"),
            &["--direct-io=on", "--find", "--show", &path],
        )?;
        Ok(Target {
            name: format!("loop on {}", below.name),
            path: PathBuf::from(&device),
            images: below.images.clone(),
            server: below.server,
            _keep: Keep::Command(Undo(words(&["losetup", "--detach", &device]))),
        })
    }

    fn served(&self, name: &str, mut command: Command, path: PathBuf, image: PathBuf) -> Outcome<Target> {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut server = Server(child);
        let begun = Instant::now();
        while fs::metadata(&path).map_or(0, |found| found.len()) < self.bytes {
            if server.0.try_wait()?.is_some() || begun.elapsed() > START {
                return Err(format!("{name} does not serve {}", path.display()).into());
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let pid = Some(server.0.id());
        Ok(Target {
            name: name.into(),
            path,
            images: vec![image],
            server: pid,
            _keep: Keep::Process(server),
        })
    }
}

/// `bytes` is a whole number of MiB. Written in the pieces that an apparatus writes in: on ext4 an image's later 4 KiB writes depend on it, and what is
/// compared is not how images were made.
fn fill(path: &Path, bytes: u64) -> Outcome<()> {
    const PIECE: u32 = 256 << 10;
    let mut file = File::options().write(true).open(path)?;
    let block: Vec<u8> = (0..PIECE)
        .map(|i: u32| i.wrapping_mul(2_654_435_761).to_le_bytes()[3] | 1)
        .collect();
    for _ in 0..bytes / u64::from(PIECE) {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    Ok(())
}

fn find_pid(shown: &serde_json::Value) -> Option<u32> {
    match shown {
        serde_json::Value::Object(fields) => fields
            .get("pid")
            .and_then(serde_json::Value::as_u64)
            .and_then(|pid| u32::try_from(pid).ok())
            .or_else(|| fields.values().find_map(find_pid)),
        serde_json::Value::Array(items) => items.iter().find_map(find_pid),
        _ => None,
    }
}

impl Target {
    /// Empties the page cache of the images behind it.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn chill(&self) -> Outcome<()> {
        for image in &self.images {
            let file = File::open(image)?;
            file.sync_all()?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
        Ok(())
    }

    /// CPU time that the server has used, in seconds; `None` where there is no server.
    #[must_use]
    pub(crate) fn cpu(&self) -> Option<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.server?)).ok()?;
        let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
        let ticks: f64 = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
        Some(ticks / 100.0)
    }
}
