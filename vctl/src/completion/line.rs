//! Parsing of the command line up to the cursor.

use clap::{Arg, Command};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// The words of a command line up to the word at the cursor.
pub struct CommandLine {
    words: Vec<OsString>,
}

impl CommandLine {
    /// Parses the arguments of a shell's script: the shell's name, then the words. Bash passes words as they were typed, with quotes.
    pub fn of(words: &[OsString]) -> Self {
        let (shell, words) = words
            .split_first()
            .map_or((OsStr::new(""), &[][..]), |(shell, words)| {
                (shell.as_os_str(), words)
            });
        let read = |word: &OsString| {
            let text = word.to_str().filter(|_| shell == "bash");
            text.map_or_else(|| word.clone(), |text| unquoted(text).into())
        };
        Self {
            words: words.iter().map(read).collect(),
        }
    }

    /// Returns the word at the cursor.
    pub fn current(&self) -> &str {
        self.words
            .last()
            .and_then(|word| word.to_str())
            .unwrap_or_default()
    }

    /// Returns the pool that is named before the cursor.
    pub fn pool(&self) -> Option<PathBuf> {
        let before = self.words.split_last().map_or(&[][..], |(_, before)| before);
        let options = before.iter().take_while(|word| *word != "--");
        let words: Vec<&str> = options.filter_map(|word| word.to_str()).collect();
        let apart = words
            .windows(2)
            .filter(|pair| pair[0] == "--pool")
            .map(|pair| pair[1]);
        let joined = words.iter().filter_map(|word| word.strip_prefix("--pool="));
        let named = apart.chain(joined).last()?;
        Some(expand_tilde(named))
    }

    /// Returns whether the word at the cursor belongs to a command that follows `--`, of a verb that takes one.
    pub fn is_in_command(&self, command: &Command) -> bool {
        let before = self.words.split_last().map_or(&[][..], |(_, before)| before);
        let Some(end) = before.iter().position(|word| word == "--") else {
            return false;
        };
        let below = |found: &Command, word: &OsString| found.find_subcommand(word).cloned();
        let verb = before[..end].iter().fold(command.clone(), |found, word| {
            let next = below(&found, word);
            next.unwrap_or(found)
        });
        verb.get_arguments().any(Arg::is_last_set)
    }

    /// Returns the words without options whose value can only follow `=` and does not: the next word is not their value.
    pub fn without_lone_options(&self, command: &Command) -> Vec<OsString> {
        let lone = |word: &OsString| {
            let name = word.to_str().and_then(|word| word.strip_prefix("--"));
            name.is_some_and(|name| has_lone(command, name))
        };
        let last = self.words.len().saturating_sub(1);
        let words = self.words.iter().enumerate();
        words
            .filter(|(at, word)| *at == last || !lone(word))
            .map(|(_, word)| word.clone())
            .collect()
    }
}

fn has_lone(command: &Command, name: &str) -> bool {
    let is = |arg: &Arg| arg.get_long() == Some(name) && arg.is_require_equals_set();
    command.get_arguments().any(is) || command.get_subcommands().any(|below| has_lone(below, name))
}

/// Returns a word without its shell quoting. An open quote is dropped.
fn unquoted(word: &str) -> String {
    let closed = [word.to_owned(), format!("{word}'"), format!("{word}\"")];
    let read = closed.iter().find_map(|word| shlex::split(word));
    match read.as_deref() {
        Some([one]) => one.clone(),
        Some([]) => String::new(),
        _ => word.to_owned(),
    }
}

fn expand_tilde(path: &str) -> PathBuf {
    let directory = std::env::var_os("HOME").filter(|directory| !directory.is_empty());
    match (path.strip_prefix("~/"), directory) {
        (Some(rest), Some(directory)) => PathBuf::from(directory).join(rest),
        _ => path.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn line(words: &[&str]) -> CommandLine {
        CommandLine::of(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_pool_is_the_one_that_is_named_last_before_the_cursor() {
        let pool = |words: &[&str]| line(words).pool();
        assert_eq!(pool(&["zsh", "vctl", "--pool", "/a", "x"]), Some("/a".into()));
        assert_eq!(pool(&["zsh", "vctl", "--pool=/a", "x"]), Some("/a".into()));
        assert_eq!(
            pool(&["bash", "vctl", "--pool", "'/a b'", "x"]),
            Some("/a b".into())
        );
        for none in [
            &["zsh", "vctl", "--pool", "/a"][..],
            &["zsh", "vctl", "--", "--pool", "/a", "x"],
            &["zsh"],
            &[],
        ] {
            assert_eq!(pool(none), None, "{none:?}");
        }
    }

    #[test]
    fn words_are_read_as_bash_reads_them() {
        for (typed, meant) in [
            ("a", "a"),
            ("'a b", "a b"),
            ("\"a b", "a b"),
            ("a\\ b", "a b"),
            ("", ""),
            ("\"", ""),
        ] {
            assert_eq!(unquoted(typed), meant, "{typed}");
        }
    }

    #[test]
    fn an_option_whose_value_would_stand_behind_an_equals_sign_has_no_value_otherwise() {
        let command = crate::cli::Cli::command();
        let words = |words: &[&str]| line(words).without_lone_options(&command);
        assert_eq!(words(&["zsh", "vctl", "--wait", "x"]), ["vctl", "x"]);
        assert_eq!(
            words(&["zsh", "vctl", "--wait=5s", "x"]),
            ["vctl", "--wait=5s", "x"]
        );
        assert_eq!(words(&["zsh", "vctl", "--wait"]), ["vctl", "--wait"]);
    }
}
