//! Users and groups, by name or number.

use apparatus::model::error::{Error, Result};
use std::fs;

/// The owner of a volume's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub user: u32,
    /// The group, if one is named.
    pub group: Option<u32>,
}

impl Owner {
    /// Returns the user and group of this process.
    #[must_use]
    pub fn caller() -> Self {
        let group = rustix::process::getegid().as_raw();
        Self {
            user: rustix::process::geteuid().as_raw(),
            group: Some(group),
        }
    }
}

/// Parses `USER` or `USER:GROUP`, each a name or a number. A user without group gets the primary group that the system has for it.
///
/// # Errors
/// Fails when there is no such user or group.
pub fn owner(text: &str) -> Result<Owner> {
    let (user, group) = text
        .split_once(':')
        .map_or((text, None), |(user, group)| (user, Some(group)));
    let part_missing = |why| {
        let error = Error::usage(format!("owner {text:?}"), why);
        Err(error.hint("write USER or USER:GROUP, by names or numbers: root:nogroup"))
    };
    if user.is_empty() {
        return part_missing("names no user");
    }
    if group == Some("") {
        return part_missing("names no group after the colon");
    }
    let (user, own_group) = find(user, "user", "/etc/passwd")?;
    let group = group
        .map(|group| find(group, "group", "/etc/group"))
        .transpose()?;
    Ok(Owner {
        user,
        group: group.map_or(own_group, |(group, _)| Some(group)),
    })
}

/// Returns the number of a user or group and, for a user with an entry in the table, the number of its primary group.
fn find(name: &str, noun: &str, table: &str) -> Result<(u32, Option<u32>)> {
    match name.parse::<u32>() {
        // System calls read this number as "leave unchanged", so no user has it.
        Ok(u32::MAX) => {
            let why = format!("is no {noun}: the system means \"none\" by that number");
            return Err(Error::usage(format!("{noun} {name}"), why));
        }
        Ok(number) => return Ok((number, None)),
        Err(_) => {}
    }
    let lines = fs::read_to_string(table).map_err(|error| Error::because(table, error))?;
    let found = lines.lines().find_map(|line| in_line(line, name, noun == "user"));
    found.ok_or_else(|| {
        Error::usage(format!("{noun} {name:?}"), format!("is not in {table}")).hint("give its number instead")
    })
}

/// Parses `name:password:number:group:…` of a user or `name:password:number:…` of a group.
fn in_line(line: &str, name: &str, user: bool) -> Option<(u32, Option<u32>)> {
    let mut fields = line.split(':');
    if fields.next()? != name || name.is_empty() {
        return None;
    }
    let number = fields.nth(1)?.parse().ok()?;
    let group = if user {
        fields.next().and_then(|group| group.parse().ok())
    } else {
        None
    };
    Some((number, group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_by_number_and_name() {
        assert_eq!(
            owner("1000").unwrap(),
            Owner {
                user: 1000,
                group: None
            }
        );
        assert_eq!(
            owner("1000:7").unwrap(),
            Owner {
                user: 1000,
                group: Some(7)
            }
        );
        assert_eq!(
            owner("root").unwrap(),
            Owner {
                user: 0,
                group: Some(0)
            }
        );
        for bad in [
            "",
            ":",
            "no such user",
            "1000:",
            "-1",
            "99999999999",
            "4294967295",
            "0:4294967295",
        ] {
            assert!(owner(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_missing_part_is_named() {
        for (text, why) in [
            ("", "names no user"),
            (":nogroup", "names no user"),
            ("root:", "names no group"),
        ] {
            let error = owner(text).unwrap_err();
            assert!(
                error.what() == format!("owner {text:?}") && error.why().contains(why),
                "{error}"
            );
        }
    }

    #[test]
    fn lines() {
        assert_eq!(in_line("u:x:5:6:U:/h:/s", "u", true), Some((5, Some(6))));
        assert_eq!(in_line("g:x:5:u,v", "g", false), Some((5, None)));
        assert_eq!(in_line("uu:x:5:6", "u", true), None);
    }
}
