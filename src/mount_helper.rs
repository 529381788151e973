//! `mount.apparatus`, what mount(8) runs for file systems of type `apparatus`: starts an apparatus in the background and returns when it
//! serves, so that a line of fstab is enough. The same program as the apparatus, called by that name.

mod remount;

use crate::config::LogLevel;
use crate::error::{Error, Kind, Result};
use crate::fuse;
use crate::member::LifeLock;
use crate::ops::apparatus::{Start, start};
use crate::ops::{self, place};
use crate::pool::dir::PoolDir;
use crate::pool::names::Name;
use clap::{Parser, ValueEnum};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The name that it is called by.
pub const PROGRAM: &str = "mount.apparatus";
/// The same for the type that the kernel has for our mounts.
const PROGRAM_OF_TYPE: &str = "mount.fuse.apparatus";

/// Exit statuses, as mount(8) has them.
const USAGE: u8 = 1;
const FAILED: u8 = 32;

/// Until it serves; and for an earlier life that is unmounted already to end.
const PATIENCE: Duration = Duration::from_secs(60);

const OPTIONS: &str = "What -o may ask for:
  ro, rw         let nothing be written, or let it
  remount        change that of what is mounted; nothing else can be changed
  allow_other    let other users in
  threads=N      threads that read host requests
  config=FILE    configuration; the other options override it
  metrics=ADDR   answer Prometheus at http://ADDR/metrics, on this machine only
  log_level=L    error, warn, info, debug or trace

Options of fstab that are not for the file system (auto, nofail, _netdev, user, x-*, …) are passed over, as are nosuid, nodev, noexec \
and noatime, which always hold, and suid, dev and exec, which never do. Any other is refused, unless -s is given.

Example: /var/lib/apparatus/pool:a1  /srv/a1  apparatus  allow_other,nofail  0  0

Exit status: 0 it serves, 1 usage, 32 it does not.";

/// Serves the volumes of a pool as files on DIR; returns when it does. Run by mount(8), ended by umount(8)
#[derive(Debug, Parser)]
#[command(name = PROGRAM, version, after_help = OPTIONS)]
pub(crate) struct Arguments {
    /// POOL:NAME, the pool's directory and what the apparatus is called; NAME alone is in the user's own pool
    #[arg(value_name = "SOURCE")]
    source: String,
    /// Where to mount; made if missing
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Options, separated by commas
    #[arg(short, value_name = "OPTIONS", value_delimiter = ',')]
    options: Vec<String>,
    /// Only look whether it could be done
    #[arg(short)]
    fake: bool,
    /// Pass over options that are not known
    #[arg(short)]
    sloppy: bool,
    /// Say what is run
    #[arg(short)]
    verbose: bool,
    /// Passed over: there is no mtab to write
    #[arg(short)]
    no_mtab: bool,
    /// Passed over: there is but one type
    #[arg(short, value_name = "TYPE")]
    type_: Option<String>,
}

/// Whether the program was called as this helper: by its name, or as mount.fuse(8) does for the type `fuse.apparatus`, by the program's own name
/// with the source first.
pub(crate) fn is_called(arguments: &[OsString]) -> bool {
    let called = arguments.first().map(Path::new).and_then(Path::file_name);
    let by_name = called.is_some_and(|name| name == PROGRAM || name == PROGRAM_OF_TYPE);
    let has_source = |first: &OsString| !first.as_encoded_bytes().starts_with(b"-");
    by_name || arguments.get(1).is_some_and(has_source)
}

/// Does what mount(8) asks, and answers the exit status that it expects.
pub(crate) fn main(arguments: Vec<OsString>) -> u8 {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(told) => {
            let _ = told.print();
            return if told.use_stderr() { USAGE } else { 0 };
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
                Kind::Usage => USAGE,
                _ => FAILED,
            }
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if arguments.options.iter().any(|option| option == "remount") {
        return again(arguments);
    }
    let (pool, name) = source(&arguments.source)?;
    let mut wanted = Wanted::default();
    for option in arguments.options.iter().filter(|option| !option.is_empty()) {
        match wanted.take(option) {
            Err(_) if arguments.sloppy => (),
            taken => taken?,
        }
    }
    let uuid = ops::open(&pool)?.header()?.uuid;
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
    start(&pool, &start_it, PATIENCE).map(drop)
}

/// What is mounted already is not what was asked for if that was to let nothing be written.
fn as_wanted(mount: &Path, read_only: bool) -> Result<()> {
    let can_be_written = fuse::mounted_at(mount)?.is_some_and(|(_, mounted_read_only)| !mounted_read_only);
    if read_only && can_be_written {
        let what = format!("mount on {}", mount.display());
        let hint = format!("mount -o remount,ro {}", mount.display());
        return Err(Error::failed(what, "is there already, and can be written").hint(hint));
    }
    Ok(())
}

/// Changes what is mounted: whether it can be written, and nothing else.
fn again(arguments: &Arguments) -> Result<()> {
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

/// Mounting what is mounted already is done already: `mount -a` does not know our mounts by the name that fstab has for them. One
/// that is unmounted and about to end is waited for.
fn serves_there(pool: &PoolDir, name: &Name, mount: &Path, source: &str) -> Result<bool> {
    if !LifeLock::alive(pool, name.as_str())? {
        return Ok(false);
    }
    if fuse::is_mounted(mount, source)? {
        return Ok(true);
    }
    let (_, members) = ops::open(pool)?.members()?;
    let elsewhere = members
        .iter()
        .find(|member| member.name == *name && member.mount != mount);
    if let Some(member) = elsewhere.filter(|member| fuse::is_mounted(&member.mount, source).unwrap_or(true)) {
        let why = format!("serves at {} already", member.mount.display());
        return Err(Error::failed(format!("apparatus {name}"), why)
            .hint("unmount that first, or choose another name"));
    }
    // If it does not end in time, the start that follows says so.
    LifeLock::await_end(pool, name.as_str(), PATIENCE).map(|_| false)
}

/// The pool and the name: `DIR:NAME`, or `NAME`.
fn source(text: &str) -> Result<(PoolDir, Name)> {
    let refused = |why: &str| {
        Error::usage(format!("source {text:?}"), why).hint("write POOL:NAME, like /var/lib/apparatus/pool:a1")
    };
    let (dir, name) = match text.rsplit_once(':') {
        Some((dir, name)) => (Some(Path::new(dir)), name),
        None => (None, text),
    };
    if dir.is_some_and(|dir| !dir.is_absolute()) {
        return Err(refused("names a pool that does not begin at the root"));
    }
    if name.contains('/') {
        // mount(8) makes a path of a name where there is such a file.
        return Err(refused("is a path, not an apparatus"));
    }
    Ok((place::pool_dir(dir)?, Name::new("apparatus", name)?))
}

/// What the options ask of the apparatus.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    read_only: bool,
    allow_other: bool,
    threads: Option<u16>,
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
            ("config", Some(value)) => self.config = Some(place::absolute(Path::new(value))?),
            ("metrics", Some(value)) => {
                let address = value.parse().map_err(|_| unusable("is no ADDRESS:PORT".into()))?;
                self.metrics = Some(address);
            }
            ("log_level", Some(value)) => {
                LogLevel::from_str(value, false).map_err(unusable)?;
                self.log_level = Some(value.to_owned());
            }
            _ if is_for_others(key) => (),
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
            config: self.config,
            program,
        })
    }
}

/// Options for mount(8), the boot and service managers, and those that hold whether asked for or not.
fn is_for_others(key: &str) -> bool {
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
        let all = wanted("config=/etc/a.ron,metrics=127.0.0.1:9464,log_level=debug").unwrap();
        assert_eq!(all.config.as_deref(), Some(Path::new("/etc/a.ron")));
        assert_eq!(all.metrics, Some("127.0.0.1:9464".parse().unwrap()));
        for (options, why) in [
            ("sync", "is not known"),
            ("ro=1", "is not known"),
            ("threads=many", "no number"),
            ("threads", "is not known"),
            ("metrics=localhost", "ADDRESS:PORT"),
            ("log_level=loud", "loud"),
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
            ("pool:a", "begin at the root"),
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
