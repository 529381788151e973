//! A locale with a decimal comma, created for a test where the system has the tool for that.

use std::process::Command;
use tempfile::TempDir;

const NAME: &str = "de_DE.UTF-8";

/// The environment that selects the locale.
pub struct Comma {
    made: Option<TempDir>,
}

impl Comma {
    /// Creates the locale. Without the tool only the variables are set, and the test says so.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut tool = Command::new("localedef");
        tool.args(["-i", "de_DE", "-f", "UTF-8"])
            .arg(dir.path().join(NAME));
        let made = tool.output().is_ok_and(|output| output.status.success());
        let this = Self {
            made: made.then_some(dir),
        };
        if this.made.is_none() {
            eprintln!("skipped: {NAME} itself: localedef or the sources of locales are not installed");
        } else {
            this.is_one();
        }
        this
    }

    /// Programs that follow the locale print a comma in it.
    fn is_one(&self) {
        let mut program = Command::new("locale");
        self.set(program.arg("decimal_point"));
        let output = program.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), ",\n");
    }

    /// Selects the locale for this command.
    pub fn set(&self, command: &mut Command) {
        for variable in ["LC_ALL", "LC_NUMERIC", "LANG"] {
            command.env(variable, NAME);
        }
        command.envs(self.made.iter().map(|dir| ("LOCPATH", dir.path())));
    }
}
