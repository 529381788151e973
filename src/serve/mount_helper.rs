//! `mount.apparatus`, which mount(8) runs for file systems of type `apparatus`: it starts an apparatus in the background and returns when
//! that serves, so that a line of fstab is enough. It is the same program as the apparatus, called by that name.

mod remount;

use crate::admin::apparatus::{Start, is_memory_limited, start};
use crate::admin::{self, place};
use crate::cluster;
use crate::frontend::fuse::{self, Transport};
use crate::model::dir::PoolDir;
use crate::model::error::{Error, ErrorKind, Result};
use crate::model::names::Name;
use crate::serve::config::LogLevel;
use clap::{Parser, ValueEnum};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The name by which it is called.
pub(super) const PROGRAM: &str = "mount.apparatus";
/// Its name for the type that the kernel shows for these mounts.
const PROGRAM_OF_TYPE: &str = "mount.fuse.apparatus";

/// Exit statuses, the same as those of mount(8).
const USAGE: u8 = 1;
const FAILED: u8 = 32;

/// How long it may take to serve, and an earlier process that is unmounted already to end.
const PATIENCE: Duration = Duration::from_secs(60);

const OPTIONS: &str = "Options of -o:
  ro, rw         refuse writes, or allow them
  remount        change ro or rw of an existing mount; nothing else can be changed
  allow_other    let other users access the mount
  threads=N      threads that read host requests
  transport=WAY  way of requests from the kernel: dev, uring or auto
  config=FILE    configuration file; the other options override it
  metrics=ADDR   serve metrics for Prometheus at http://ADDR/metrics, on this machine only
  log_level=L    error, warn, info, debug or trace

Options of fstab that are not for the file system (auto, nofail, _netdev, user, x-*, …) are ignored, as are nosuid, nodev, noexec \
and noatime, which always apply, and suid, dev and exec, which never do. Any other is refused, unless -s is given.

Example: /var/lib/apparatus/pool:a1  /srv/a1  apparatus  allow_other,nofail  0  0

Exit status: 0 it serves, 1 usage, 32 it does not.";

/// Serves the volumes of a pool as files on DIR; returns when it serves. Run by mount(8), ended by umount(8)
#[derive(Debug, Parser)]
#[command(name = PROGRAM, version, after_help = OPTIONS)]
pub(crate) struct Arguments {
    /// POOL:NAME, the pool's directory and the name of the apparatus; NAME alone refers to the user's default pool
    #[arg(value_name = "SOURCE")]
    source: String,
    /// Where to mount; created if missing
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Options, separated by commas
    #[arg(short, value_name = "OPTIONS", value_delimiter = ',')]
    options: Vec<String>,
    /// Only check whether it could be done
    #[arg(short)]
    fake: bool,
    /// Ignore unknown options
    #[arg(short)]
    sloppy: bool,
    /// Print the command that is run
    #[arg(short)]
    verbose: bool,
    /// Ignored: there is no mtab to write
    #[arg(short)]
    no_mtab: bool,
    /// Ignored: there is only one type
    #[arg(short, value_name = "TYPE")]
    type_: Option<String>,
}

/// Returns whether the program was called as this helper: by its name, or as mount.fuse(8)
/// does for the type `fuse.apparatus`, by the program's own name with the source first.
pub(crate) fn is_called(arguments: &[OsString]) -> bool {
    let called = arguments.first().map(Path::new).and_then(Path::file_name);
    let by_name = called.is_some_and(|name| name == PROGRAM || name == PROGRAM_OF_TYPE);
    let has_source = |first: &OsString| !first.as_encoded_bytes().starts_with(b"-");
    by_name || arguments.get(1).is_some_and(has_source)
}

/// Runs the helper, and returns the exit status that mount(8) expects.
pub(crate) fn main(arguments: Vec<OsString>) -> u8 {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(message) => {
            let _ = message.print();
            return if message.use_stderr() { USAGE } else { 0 };
        }
    };
    match run(&arguments) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{PROGRAM}: {error}");
            if let Some(hint) = error.way_out() {
                eprintln!("hint: {hint}");
            }
            match error.kind() {
                ErrorKind::Usage => USAGE,
                _ => FAILED,
            }
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if arguments.options.iter().any(|option| option == "remount") {
        return change_mount(arguments);
    }
    let (pool, name) = source(&arguments.source)?;
    let mut wanted = Wanted::default();
    for option in arguments.options.iter().filter(|option| !option.is_empty()) {
        match wanted.take(option) {
            Err(_) if arguments.sloppy => (),
            taken => taken?,
        }
    }
    let uuid = admin::open(&pool)?.header()?.uuid;
    let mount = place::absolute(&arguments.dir)?;
    let read_only = wanted.read_only;
    let start_it = wanted.start(name.clone(), mount.clone())?;
    if arguments.verbose {
        let words = start_it.command(&pool);
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        println!("{PROGRAM}: {}", words.join(" "));
    }
    if arguments.fake {
        return Ok(());
    }
    if serves_there(&pool, &name, &mount, &fuse::source(&name, uuid))? {
        return as_wanted(&mount, read_only);
    }
    if let Some(warning) = start(&pool, &start_it, PATIENCE)?.warning {
        eprintln!("{PROGRAM}: warning: {warning}");
    }
    Ok(())
}

/// Refuses an existing mount that can be written where a read-only one was requested.
fn as_wanted(mount: &Path, read_only: bool) -> Result<()> {
    let can_be_written = fuse::mounted_at(mount)?.is_some_and(|(_, mounted_read_only)| !mounted_read_only);
    if read_only && can_be_written {
        let what = format!("mount on {}", mount.display());
        let hint = format!("mount -o remount,ro {}", mount.display());
        return Err(Error::failed(what, "exists already, and can be written").hint(hint));
    }
    Ok(())
}

/// Changes whether an existing mount can be written, and nothing else.
fn change_mount(arguments: &Arguments) -> Result<()> {
    let mut wanted = Wanted::default();
    for option in arguments.options.iter().filter(|option| !option.is_empty()) {
        let key = option.split('=').next().unwrap_or_default();
        match wanted.take(option) {
            _ if remount::repeats(key) => (),
            Err(_) if arguments.sloppy => (),
            taken => taken?,
        }
    }
    let read_only = wanted.read_only;
    let others = Wanted {
        read_only: false,
        allow_other: false,
        ..wanted
    };
    if others != Wanted::default() {
        let error = Error::usage("remount", "can only change ro and rw");
        return Err(error.hint("umount it and mount it again"));
    }
    let mount = place::absolute(&arguments.dir)?;
    match arguments.fake {
        true => Ok(()),
        false => remount::remount(&mount, read_only),
    }
}

/// Returns whether this apparatus is mounted here already, which is a success: `mount -a` does not recognise
/// these mounts by the name in fstab. An apparatus that is unmounted and about to end is waited for.
fn serves_there(pool: &PoolDir, name: &Name, mount: &Path, source: &str) -> Result<bool> {
    let cluster = cluster::open(pool)?;
    if !cluster.is_claimed(name.as_str())? {
        return Ok(false);
    }
    if fuse::is_mounted(mount, source)? {
        return Ok(true);
    }
    let (_, members) = admin::open(pool)?.members()?;
    let elsewhere = members
        .iter()
        .find(|member| member.name == *name && member.mount != mount);
    if let Some(member) = elsewhere.filter(|member| fuse::is_mounted(&member.mount, source).unwrap_or(true)) {
        let why = format!("serves at {} already", member.mount.display());
        return Err(Error::failed(format!("apparatus {name}"), why)
            .hint("unmount that first, or choose another name"));
    }
    // If it does not end in time, the start that follows reports that.
    cluster.await_end(name.as_str(), PATIENCE).map(|_| false)
}

/// Parses the pool and the name: `DIR:NAME`, or `NAME`.
fn source(text: &str) -> Result<(PoolDir, Name)> {
    let refused = |why: &str| {
        Error::usage(format!("source {text:?}"), why).hint("write POOL:NAME, like /var/lib/apparatus/pool:a1")
    };
    let (dir, name) = match text.rsplit_once(':') {
        Some((dir, name)) => (Some(Path::new(dir)), name),
        None => (None, text),
    };
    if dir.is_some_and(|dir| !dir.is_absolute()) {
        return Err(refused("names a pool by a relative path"));
    }
    if name.contains('/') {
        // mount(8) turns a name into a path where there is such a file.
        return Err(refused("is a path, not an apparatus"));
    }
    Ok((place::pool_dir(dir)?, Name::new("apparatus", name)?))
}

/// The options for the apparatus.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    read_only: bool,
    allow_other: bool,
    threads: Option<u16>,
    transport: Option<Transport>,
    config: Option<PathBuf>,
    metrics: Option<SocketAddr>,
    log_level: Option<String>,
}

impl Wanted {
    fn take(&mut self, option: &str) -> Result<()> {
        let what = || format!("option {option:?}");
        let (key, value) = match option.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (option, None),
        };
        let unusable = |why: String| Error::usage(what(), why);
        match (key, value) {
            ("ro", None) => self.read_only = true,
            ("rw", None) => self.read_only = false,
            ("allow_other", None) => self.allow_other = true,
            ("threads", Some(value)) => {
                let threads = value
                    .parse()
                    .map_err(|_| unusable("is no number of threads".into()))?;
                self.threads = Some(threads);
            }
            ("transport", Some(value)) => {
                self.transport = Some(Transport::from_str(value, false).map_err(unusable)?);
            }
            ("config", Some(value)) => self.config = Some(place::absolute(Path::new(value))?),
            ("metrics", Some(value)) => {
                let address = value.parse().map_err(|_| unusable("is no ADDRESS:PORT".into()))?;
                self.metrics = Some(address);
            }
            ("log_level", Some(value)) => {
                LogLevel::from_str(value, false).map_err(unusable)?;
                self.log_level = Some(value.to_owned());
            }
            _ if is_ignored(key) => (),
            _ => {
                return Err(unusable("is not known".into()).hint(format!("{PROGRAM} --help lists them")));
            }
        }
        Ok(())
    }

    fn start(self, name: Name, mount: PathBuf) -> Result<Start> {
        let this = std::env::current_exe().map_err(|error| Error::because(PROGRAM, error))?;
        let mut program: Vec<OsString> = vec![this.into(), "--own-session".into()];
        if self.read_only {
            program.push("--read-only".into());
        }
        if let Some(address) = self.metrics {
            program.extend(["--metrics".into(), address.to_string().into()]);
        }
        if let Some(level) = self.log_level {
            program.extend(["--log-level".into(), level.into()]);
        }
        Ok(Start {
            name,
            mount,
            threads: self.threads,
            allow_other: self.allow_other,
            supervisor: false,
            transport: self.transport,
            config: self.config,
            own_cgroup: is_memory_limited(),
            program,
        })
    }
}

/// Returns whether an option is for mount(8), the boot or the service manager, or always applies.
fn is_ignored(key: &str) -> bool {
    let known = [
        "defaults",
        "auto",
        "noauto",
        "nofail",
        "_netdev",
        "user",
        "nouser",
        "users",
        "owner",
        "group",
        "comment",
        "async",
        "exec",
        "nosuid",
        "nodev",
        "noexec",
        "suid",
        "dev",
        "nogroup",
        "noowner",
        "nousers",
        "silent",
        "loud",
        "noatime",
        "nodiratime",
        "relatime",
    ];
    known.contains(&key) || key.starts_with("x-") || key.starts_with("X-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(options: &str) -> Result<Wanted> {
        let mut wanted = Wanted::default();
        options
            .split(',')
            .try_for_each(|option| wanted.take(option))
            .map(|()| wanted)
    }

    #[test]
    fn options_of_fstab_are_understood_passed_over_or_refused() {
        let some =
            wanted("rw,noatime,_netdev,nofail,user=me,x-systemd.requires=a.service,threads=3,ro,allow_other");
        let some = some.unwrap();
        assert_eq!(
            (some.read_only, some.allow_other, some.threads),
            (true, true, Some(3))
        );
        let all = wanted("config=/etc/a.ron,metrics=127.0.0.1:9464,log_level=debug,transport=auto").unwrap();
        assert_eq!(all.transport, Some(Transport::Auto));
        assert_eq!(all.config.as_deref(), Some(Path::new("/etc/a.ron")));
        assert_eq!(all.metrics, Some("127.0.0.1:9464".parse().unwrap()));
        for (options, why) in [
            ("sync", "is not known"),
            ("ro=1", "is not known"),
            ("threads=many", "no number"),
            ("threads", "is not known"),
            ("metrics=localhost", "ADDRESS:PORT"),
            ("log_level=loud", "loud"),
            ("transport=pigeon", "pigeon"),
            ("remount", "is not known"),
        ] {
            let error = wanted(options).unwrap_err();
            assert!(error.to_string().contains(why), "{options}: {error}");
        }
    }

    #[test]
    fn a_source_names_a_pool_and_an_apparatus() {
        let (pool, name) = source("/p/q:r:a1").unwrap();
        assert_eq!((pool.path(), name.as_str()), (Path::new("/p/q:r"), "a1"));
        for (text, why) in [
            ("pool:a", "relative path"),
            ("/tmp/a", "is a path"),
            ("/p:", "name"),
            ("/p:a b/c", "is a path"),
        ] {
            let error = source(text).unwrap_err();
            assert!(error.to_string().contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn it_is_known_by_its_name() {
        let called = |name: &str| is_called(&[name.into()]);
        assert!(called("/sbin/mount.apparatus") && called("mount.apparatus"));
        assert!(called("/sbin/mount.fuse.apparatus"));
        assert!(!called("/usr/bin/apparatus") && !is_called(&[]));
        let with = |first: &str| is_called(&["apparatus".into(), first.into()]);
        assert!(with("/p:a1") && with("a1@0-1") && !with("--name"));
    }
}
