//! The ways to access one image: each is started, measured in alternation with the others, and ended when dropped.

use crate::cells::ONCE;
use crate::fio;
use std::error::Error;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The longest time until a server exposes its file.
const START: Duration = Duration::from_secs(20);
/// The longest time until a server has ended.
const END: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(100);

/// One way to the image, ready to be measured.
pub(crate) struct Target {
    /// Row of the table.
    pub(crate) name: String,
    /// The path that fio opens.
    pub(crate) path: PathBuf,
    /// The image behind it, whose page cache a cold cell empties.
    pub(crate) image: Option<PathBuf>,
    /// The process whose CPU time is counted.
    pub(crate) server: Option<u32>,
    _keep: Keep,
}

/// Owns everything that ends when the target is dropped.
#[expect(dead_code, reason = "held only to be dropped")]
enum Keep {
    Nothing,
    Process(Server),
    Command(Undo),
}

/// A process that serves a mount, and its mount point.
struct Server(Child, PathBuf);

impl Drop for Server {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        for _ in 0..END.as_millis() / LOOK.as_millis() {
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            std::thread::park_timeout(LOOK);
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            // A loop device that is still being removed keeps the mount busy.
            let mount = self.1.display().to_string();
            let _status = quiet(&words(&["umount", "--lazy", &mount])).status();
        }
        let _gone = self.0.kill();
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

/// Returns whether a program is in `$PATH`.
#[must_use]
pub(crate) fn installed(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// Where the targets are created, and their programs.
pub(crate) struct Ground<'a> {
    /// A directory on the file system that is measured.
    pub(crate) dir: &'a Path,
    /// The directory of `apparatus`, `vctl` and `bare`.
    pub(crate) programs: &'a Path,
}

/// The images. All targets serve the same bytes of one image, so that none has a better position in memory or on the disk. Only direct I/O
/// has an image of its own, because it evicts what it writes from the page cache of the others.
pub(crate) struct Images {
    pool: PathBuf,
    /// The only disk of the pool.
    shared: PathBuf,
    /// Offset of the volume on it.
    offset: u64,
    /// Bytes of the volume, a whole number of MiB.
    pub(crate) bytes: u64,
    /// An image of the same size for direct I/O.
    plain: PathBuf,
    /// Whether the pool is a direct one, and the bare program reads and writes directly.
    is_direct: bool,
}

impl Images {
    /// Creates the images, filled with bytes that no file system turns into a hole.
    ///
    /// # Errors
    /// Fails when `vctl` or the file system fails.
    pub(crate) fn make(ground: &Ground<'_>, bytes: u64, is_direct: bool) -> Outcome<Self> {
        let (pool, shared) = (ground.dir.join("pool"), ground.dir.join("shared.img"));
        let vctl = |args: &[&str]| ground.vctl(&pool, args);
        let create: &[&str] = if is_direct { &["--direct"] } else { &[] };
        vctl(&[&["pool", "create"], create].concat())?;
        let size = (bytes + (2 << 20)).to_string();
        vctl(&["disk", "add", &shared.display().to_string(), "--create", &size])?;
        vctl(&["volume", "create", "image", &bytes.to_string()])?;
        let map: serde_json::Value = serde_json::from_str(&vctl(&["volume", "map", "image", "--json"])?)?;
        let offset = map["segments"][0]["disk_offset"].as_u64();
        let offset = offset.ok_or("vctl does not say where the volume lies")?;
        let plain = ground.dir.join("plain.img");
        File::create(&plain)?;
        fill(&plain, 0, bytes)?;
        fill(&shared, offset, bytes)?;
        Ok(Self {
            pool,
            shared,
            offset,
            bytes,
            plain,
            is_direct,
        })
    }
}

impl Ground<'_> {
    fn mountpoint(&self, name: &str) -> Outcome<PathBuf> {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    fn vctl(&self, pool: &Path, args: &[&str]) -> Outcome<String> {
        let pool = pool.display().to_string();
        must(&self.programs.join("vctl"), &[&["--pool", &pool], args].concat())
    }

    /// Returns an image file itself, opened with `O_DIRECT`.
    pub(crate) fn plain(&self, images: &Images) -> Target {
        Target {
            name: "image, O_DIRECT".into(),
            path: images.plain.clone(),
            image: Some(images.plain.clone()),
            server: None,
            _keep: Keep::Nothing,
        }
    }

    /// Returns the volume in the mount of one apparatus.
    ///
    /// # Errors
    /// Fails when `vctl` fails.
    pub(crate) fn ours(&self, images: &Images) -> Outcome<Target> {
        let served = self.served_pool(&images.pool)?;
        Ok(with_image(served, images))
    }

    /// Returns the volume in the mount of one apparatus that gets its requests over io_uring.
    ///
    /// # Errors
    /// Fails when `vctl` fails, also because the kernel does not offer that.
    pub(crate) fn ours_over_uring(&self, images: &Images) -> Outcome<Target> {
        let mut served = self.apparatus(&images.pool, "uring", "uring")?;
        served.name = "over io_uring".into();
        Ok(with_image(served, images))
    }

    /// Starts an apparatus of this pool; the path is its mount.
    ///
    /// # Errors
    /// Fails when `vctl` fails.
    pub(crate) fn served_pool(&self, pool: &Path) -> Outcome<Target> {
        self.apparatus(pool, "bench", "dev")
    }

    fn apparatus(&self, pool: &Path, name: &str, transport: &str) -> Outcome<Target> {
        let mount = self.mountpoint(&format!("mount-{name}"))?;
        let place = mount.display().to_string();
        let start = ["apparatus", "start", name, &place, "--transport", transport];
        self.vctl(pool, &start)?;
        let program = self.programs.join("vctl").display().to_string();
        let pool_text = pool.display().to_string();
        let stop = words(&[&program, "--pool", &pool_text, "apparatus", "stop", name]);
        let shown = self.vctl(pool, &["apparatus", "show", name, "--json"])?;
        Ok(Target {
            name: "apparatus".into(),
            path: mount,
            image: None,
            server: find_pid(&serde_json::from_str(&shown)?),
            _keep: Keep::Command(Undo(stop)),
        })
    }

    /// Starts the bare fuser program with this many threads.
    ///
    /// # Errors
    /// Fails when it does not mount.
    pub(crate) fn bare(&self, images: &Images, threads: u32) -> Outcome<Target> {
        let mount = self.mountpoint(&format!("bare-{threads}"))?;
        let mut command = Command::new(self.programs.join("bare"));
        command.arg(&images.shared).arg(&mount);
        command.args([threads.into(), images.offset, images.bytes].map(|number: u64| number.to_string()));
        if images.is_direct {
            command.arg("direct");
        }
        let name = format!("bare fuser, {threads} threads");
        self.served(&name, command, (&mount, mount.join("image")), images)
    }

    /// Starts the FUSE export of qemu-storage-daemon.
    ///
    /// # Errors
    /// Fails when it does not export.
    pub(crate) fn qsd(&self, images: &Images) -> Outcome<Target> {
        let path = self.dir.join("qsd-export");
        File::create(&path)?;
        let (file, at) = (images.shared.display(), path.display());
        let (offset, size) = (images.offset, images.bytes);
        let mut command = Command::new("qemu-storage-daemon");
        command
            .arg(format!("--blockdev=driver=file,node-name=f,filename={file}"))
            .arg(format!(
                "--blockdev=driver=raw,node-name=r,file=f,offset={offset},size={size}"
            ))
            .arg(format!(
                "--export=type=fuse,id=e,node-name=r,mountpoint={at},writable=on"
            ));
        self.served("qemu-storage-daemon", command, (&path, path.clone()), images)
    }

    /// Starts nbdfuse over nbdkit's file plugin.
    ///
    /// # Errors
    /// Fails when it does not mount.
    pub(crate) fn nbdfuse(&self, images: &Images) -> Outcome<Target> {
        let mount = self.mountpoint("nbdfuse")?;
        let mut command = Command::new("nbdfuse");
        command
            .arg(&mount)
            .arg("--command")
            .args(["nbdkit", "-s", "--filter=offset", "file"])
            .arg(format!("file={}", images.shared.display()))
            .arg(format!("offset={}", images.offset))
            .arg(format!("range={}", images.bytes));
        self.served(
            "nbdfuse over nbdkit",
            command,
            (&mount, mount.join("nbd")),
            images,
        )
    }

    /// Creates a loop device with direct I/O over another target.
    ///
    /// # Errors
    /// Fails when `losetup` fails.
    pub(crate) fn looped(&self, below: &Target) -> Outcome<Target> {
        let path = below.path.display().to_string();
        let device = must(
            Path::new("losetup"),
            &["--direct-io=on", "--find", "--show", &path],
        )?;
        Ok(Target {
            name: format!("loop on {}", below.name),
            path: PathBuf::from(&device),
            image: below.image.clone(),
            server: below.server,
            _keep: Keep::Command(Undo(words(&["losetup", "--detach", &device]))),
        })
    }

    /// Starts a command that serves the file `path` in the mount `mount`.
    fn served(
        &self,
        name: &str,
        mut command: Command,
        (mount, path): (&Path, PathBuf),
        images: &Images,
    ) -> Outcome<Target> {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut server = Server(child, mount.to_owned());
        let begun = Instant::now();
        while fs::metadata(&path).map_or(0, |found| found.len()) < images.bytes {
            if server.0.try_wait()?.is_some() || begun.elapsed() > START {
                return Err(format!("{name} does not serve {}", path.display()).into());
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let pid = Some(server.0.id());
        Ok(Target {
            name: name.into(),
            path,
            image: Some(images.shared.clone()),
            server: pid,
            _keep: Keep::Process(server),
        })
    }
}

/// Returns the volume in a mount of the images' pool.
fn with_image(mut served: Target, images: &Images) -> Target {
    served.path.push("image");
    served.image = Some(images.shared.clone());
    served
}

/// Fills the image in pieces of the size that an apparatus uses: on ext4 later 4 KiB writes depend on it.
fn fill(path: &Path, offset: u64, bytes: u64) -> Outcome<()> {
    const PIECE: u32 = 64 << 10;
    let mut file = File::options().write(true).open(path)?;
    file.seek(SeekFrom::Start(offset))?;
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
    /// Empties the page cache of the image behind it. Pages that a process has mapped and touched stay there, so the server must have just
    /// been started, and be the only one.
    ///
    /// # Errors
    /// Fails when the file system fails.
    pub(crate) fn chill(&self) -> Outcome<()> {
        if let Some(image) = &self.image {
            let file = File::open(image)?;
            file.sync_all()?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
        Ok(())
    }

    /// Returns the target after its server has read everything once and so has populated its mapping.
    ///
    /// # Errors
    /// Fails when fio fails.
    pub(crate) fn warmed(self, bytes: u64) -> Outcome<Self> {
        if self.server.is_some() {
            let load = fio::Load {
                seconds: START.as_secs_f64(),
                bytes,
                seed: 0,
            };
            fio::run(&self.path, &ONCE, load)?;
        }
        Ok(self)
    }

    /// Returns the CPU time of the server in seconds; `None` without a server.
    #[must_use]
    pub(crate) fn cpu(&self) -> Option<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.server?)).ok()?;
        let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
        let ticks: f64 = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
        Some(ticks / 100.0)
    }
}
