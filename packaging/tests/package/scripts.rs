//! The scripts that dpkg runs, with other programs in place of those that they call.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

fn program(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs `prerm` where the units of a1 and a2 run, and the apparatus of this name is in use. Returns the calls of `systemctl` too.
fn prerm(action: &str, in_use: &str, overridden: &str) -> (Output, String) {
    let scratch = tempfile::tempdir().unwrap();
    let (dir, calls) = (scratch.path(), scratch.path().join("calls"));
    fs::write(
        dir.join("a2.env"),
        "OPTIONS=--allow-other --threads 2\nVCTL_POOL=\"/srv/other pool\"\n",
    )
    .unwrap();
    let units = "apparatus@a1.service loaded active running x\napparatus@a2.service loaded active running x";
    let systemctl = format!(
        "echo \"$@\" >> {}; case $1 in list-units) echo '{units}';; esac",
        calls.display()
    );
    program(dir, "systemctl", &systemctl);
    let vctl = format!(
        "echo \"vctl $@\" >> {}; [ \"$5\" != {in_use} ] || {{ echo 'vctl: apparatus {in_use}: is in use' >&2; exit 4; }}",
        calls.display()
    );
    program(dir, "vctl", &vctl);
    let script = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("debian/prerm")).unwrap();
    let here = dir.to_str().unwrap();
    let script = script
        .replace("/run/systemd/system", here)
        .replace("/etc/apparatus", here);
    let path = format!("{here}:{}", std::env::var("PATH").unwrap());
    let output = Command::new("sh")
        .args(["-c", &script, "prerm", action])
        .env("PATH", path)
        .env("APPARATUS_CUT_OFF_USERS", overridden)
        .output()
        .unwrap();
    (output, fs::read_to_string(calls).unwrap_or_default())
}

#[test]
fn a_removal_is_refused_while_hosts_use_volumes() {
    const STOP: &str = "stop apparatus@*.service";
    for in_use in ["a1", "a2"] {
        let (output, calls) = prerm("remove", in_use, "");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(!calls.contains(STOP), "{calls}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(
            text.contains(in_use) && text.contains("APPARATUS_CUT_OFF_USERS=1"),
            "{text}"
        );
        let (output, calls) = prerm("remove", in_use, "1");
        assert!(output.status.success() && calls.contains(STOP), "{calls}");
        let (output, calls) = prerm("upgrade", in_use, "");
        assert!(output.status.success() && calls.is_empty(), "{calls}");
    }
    let (output, calls) = prerm("remove", "nobody", "");
    assert!(output.status.success() && calls.contains(STOP), "{output:?}");
    for (name, pool) in [("a1", "/var/lib/apparatus/pool"), ("a2", "/srv/other pool")] {
        let asked = format!("vctl --pool {pool} apparatus stop {name} --dry-run");
        assert!(calls.contains(&asked), "{calls}");
    }
}
